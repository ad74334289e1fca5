"""The models that the page offers: what they are, whether they fit this machine, how fast they
will be. The verdict takes seconds per model, so it is asked for one model at a time and remembered.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from bobot import hardware
from bobot.errors import BobotError
from bobot.server.calls import Call, Reply
from bobot.server.models import Listed, Models
from bobot.weights.fit import estimate
from bobot.weights.speed import Speeds
from bobot.weights.subject import subject_of


class ModelRoutes:
    def __init__(self, models: Models) -> None:
        self._models = models
        self._speeds = Speeds()
        self._turn = asyncio.Lock()
        """Two measurements at once would slow each other."""
        self._fits: dict[str, dict[str, Any]] = {}

    async def list(self, call: Call) -> Reply:
        found = [self._object(listed) for listed in self._models.listed()]
        return Reply({"models": found, "default": self._models.default_name})

    async def fit(self, call: Call) -> Reply:
        """{verdict, tokens_per_s, memory_bytes}; where there is no verdict, the reason if it is
        known. 404 for a model that is not served.
        """
        listed = self._models.describe(call.params["name"])
        if listed.facts.path is None:
            return Reply({"verdict": None})
        if listed.name not in self._fits:
            async with self._turn:
                if listed.name not in self._fits:
                    path = Path(listed.facts.path)
                    self._fits[listed.name] = await asyncio.to_thread(self._estimate, path)
        return Reply(self._fits[listed.name])

    def _estimate(self, path: Path) -> dict[str, Any]:
        try:
            machine = hardware.detect(disk=path.parent)
            form = estimate(subject_of(path), machine, self._speeds, only_published=True).published
        except BobotError as error:
            return {"verdict": None, "reason": str(error)}
        return {
            "verdict": form.verdict,
            "tokens_per_s": form.decode_tokens_per_s,
            "memory_bytes": form.memory_bytes,
        }

    def _object(self, listed: Listed) -> dict[str, Any]:
        facts = listed.facts
        return {
            "name": listed.name,
            "is_hosted": facts.is_hosted,
            "routes_to": facts.routes_to,
            "hosted_routes": facts.hosted_routes,
            "owner": facts.owner,
            "state": listed.state,
            "context": listed.max_model_len,
            "num_parameters": facts.num_parameters,
            "size_bytes": facts.size_bytes,
            "form": facts.form,
            "fit": self._fits.get(listed.name),
        }
