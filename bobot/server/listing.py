"""What the server says of itself: models, health, metrics."""

from __future__ import annotations

import datetime
import time
from typing import Any

from bobot.server.calls import Call, Reply
from bobot.server.failures import DoorError
from bobot.server.metrics import CONTENT_TYPE, Metrics
from bobot.server.models import Listed, Models, as_meta


class Listing:
    def __init__(self, models: Models, metrics: Metrics, *, is_llama: bool = False) -> None:
        """`is_llama`: /metrics has llama-server's too."""
        self._is_llama = is_llama
        self._started_s = time.time()
        self._models = models
        self._metrics = metrics

    async def models(self, call: Call) -> Reply:
        """For OpenAI's and Anthropic's clients at once."""
        data = [_model(listed) for listed in self._models.listed()]
        return Reply(
            {
                "object": "list",
                "data": data,
                "has_more": False,
                "first_id": data[0]["id"] if data else None,
                "last_id": data[-1]["id"] if data else None,
            }
        )

    async def model(self, call: Call) -> Reply:
        return Reply(_model(self._models.describe(call.params["id"])))

    async def health(self, call: Call) -> Reply:
        """503 until the first model is loaded; requests may come before, they wait."""
        name = self._models.default_name
        if name is not None and self._models.describe(name).state == "loading":
            raise DoorError(
                "{name} is being loaded.",
                status=503,
                code="loading",
                retry_after_s=1.0,
                name=name,
            )
        return Reply({"status": "ok"})

    async def metrics(self, call: Call) -> Reply:
        listed = self._models.listed()
        self._metrics.loaded.set(sum(model.state == "ready" for model in listed))
        counts = self._models.counts()
        self._metrics.show_engines(counts)
        text, headers = self._metrics.text(), {"content-type": CONTENT_TYPE}
        if self._is_llama:
            text += self._metrics.llama.text(counts.values())
            headers["process-start-time-unix"] = str(int(self._started_s))
        return Reply(text, headers=headers)


def _model(listed: Listed) -> dict[str, Any]:
    created = datetime.datetime.fromtimestamp(listed.facts.created_s, datetime.UTC)
    return {
        "id": listed.name,
        "object": "model",
        "created": listed.facts.created_s,
        "owned_by": listed.facts.owner,
        "root": listed.facts.parent or listed.name,
        "parent": listed.facts.parent,
        "context_length": listed.max_model_len,
        "max_model_len": listed.max_model_len,
        "meta": as_meta(listed.facts),
        "is_hosted": listed.facts.is_hosted,
        "routes_to": listed.facts.routes_to or None,
        "hosted_routes": listed.facts.hosted_routes or None,
        "state": listed.state,
        "type": "model",
        "display_name": listed.name,
        "lifecycle": "active",
        "max_input_tokens": listed.max_model_len,
        "created_at": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
