"""Ollama's routes about models: list, show, pull, delete; what it has and bobot has not is refused.

Names are bobot's own; Ollama's clients may add :latest. A pull goes into the Hugging Face cache.
"""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncGenerator
from typing import Any

from msgspec import Struct

from bobot import __version__
from bobot.chat.protocol import ParameterError
from bobot.server.calls import Call, Reply, Stream, ollama_stream
from bobot.server.failures import DoorError
from bobot.server.library import Library, Pull
from bobot.server.models import Listed, Models
from bobot.server.wire import decode, line

SPOKEN_VERSION = "0.12.6"
"""The Ollama whose API this is: clients compare it with the least one they need."""

FOREVER = "9999-12-31T23:59:59Z"
POLL_S = 0.25


class NameBody(Struct, kw_only=True):
    model: str | None = None
    name: str | None = None
    stream: bool = True
    verbose: bool = False

    @property
    def asked(self) -> str:
        """ParameterError where no model is named."""
        found = self.model or self.name
        if not found:
            raise ParameterError(
                "{param} is missing.", param="model", code="missing_required_parameter"
            )
        return found


class OllamaModels:
    def __init__(self, models: Models, library: Library) -> None:
        self._models = models
        self._library = library

    async def root(self, call: Call) -> Reply:
        return Reply(b"Ollama is running", headers={"content-type": "text/plain; charset=utf-8"})

    async def version(self, call: Call) -> Reply:
        return Reply({"version": SPOKEN_VERSION, "bobot": __version__})

    async def tags(self, call: Call) -> Reply:
        return Reply({"models": [_tag(listed) for listed in self._models.listed()]})

    async def ps(self, call: Call) -> Reply:
        """Those in memory; a policy's name is none of them."""
        listed = [one for one in self._models.listed() if not one.facts.routes_to]
        ready = [one for one in listed if one.state == "ready"]
        return Reply({"models": [_running(one) for one in ready]})

    async def show(self, call: Call) -> Reply:
        listed = self._models.describe(decode(call.body, NameBody).asked)
        template = await asyncio.to_thread(self._library.template, listed.facts)
        facts = listed.facts
        architecture = facts.family or "unknown"
        return Reply(
            {
                "license": facts.licence or "",
                "modelfile": f"FROM {listed.name}\n",
                "parameters": "",
                "template": template or "",
                "details": _details(listed),
                "model_info": {
                    "general.architecture": architecture,
                    "general.parameter_count": facts.num_parameters,
                    f"{architecture}.context_length": listed.max_model_len,
                },
                "capabilities": ["completion", "embedding", *(["tools"] if template else [])],
                "modified_at": _time(facts.created_s),
            }
        )

    async def pull(self, call: Call) -> Reply | Stream:
        body = decode(call.body, NameBody)
        name = body.asked.removesuffix(":latest")
        if any(listed.name == name for listed in self._models.listed()):
            done = {"status": "success"}
            return ollama_stream(_once(done)) if body.stream else Reply(done)
        pull = await asyncio.to_thread(self._library.plan, name)
        frames = self._pulling(name, pull)
        if body.stream:
            return ollama_stream(frames)
        async for _ in frames:
            pass
        return Reply({"status": "success"})

    async def delete(self, call: Call) -> Reply:
        listed = self._models.describe(decode(call.body, NameBody).asked)
        removal = await asyncio.to_thread(self._library.plan_removal, listed.name)
        await self._models.remove(listed.name)
        await asyncio.to_thread(self._library.remove, removal)
        return Reply(b"")

    async def refused(self, call: Call) -> Reply:
        raise DoorError(
            "{path} is not supported: bobot opens models where they are, under their own names.",
            status=501,
            code="unsupported",
            path=call.path,
        )

    async def _pulling(self, name: str, pull: Pull) -> AsyncGenerator[bytes, None]:
        """Lines of progress; a client that leaves stops the pull, what has arrived is kept."""
        yield line({"status": "pulling manifest"})
        work = asyncio.ensure_future(asyncio.to_thread(pull.carry_out))
        try:
            while not work.done():
                await asyncio.wait({work}, timeout=POLL_S)
                done, total = pull.meter.done_bytes, pull.meter.total_bytes
                status = f"pulling {pull.digest[:12]}"
                yield line(
                    {"status": status, "digest": pull.digest, "total": total, "completed": done}
                )
            work.result()
        finally:
            pull.stop()
            await asyncio.wait({work})
        yield line({"status": "verifying sha256 digest"})
        self._models.add(await asyncio.to_thread(self._library.source, name))
        yield line({"status": "success"})


async def _once(value: dict[str, Any]) -> AsyncGenerator[bytes, None]:
    yield line(value)


def _tag(listed: Listed) -> dict[str, Any]:
    return {
        "name": listed.name,
        "model": listed.name,
        "modified_at": _time(listed.facts.created_s),
        "size": listed.facts.size_bytes or 0,
        "digest": listed.facts.digest or "",
        "details": _details(listed),
    }


def _running(listed: Listed) -> dict[str, Any]:
    found = _tag(listed)
    del found["modified_at"]
    return {
        **found,
        "size": listed.num_bytes,
        "size_vram": 0,
        "expires_at": FOREVER,
        "context_length": listed.max_model_len,
    }


def _details(listed: Listed) -> dict[str, Any]:
    facts = listed.facts
    number = facts.num_parameters
    family = facts.family or "unknown"
    return {
        "parent_model": facts.parent or "",
        "format": "gguf" if (facts.path or "").endswith(".gguf") else "safetensors",
        "family": family,
        "families": [family],
        "parameter_size": _count(number) if number else "",
        "quantization_level": facts.form or "",
    }


def _count(number: int) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6)):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return str(number)


def _time(seconds: int) -> str:
    when = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")
