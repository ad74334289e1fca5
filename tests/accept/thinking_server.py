"""A server for gpt_oss_suite.py around the embedded model, which can neither reason nor choose a
tool: each answer begins with a fixed thought, the first must be a call, and after its result there
is none. Calls are written by the model under the tool's schema, narrowed to short values, as so
small a model does not stop by itself. Arguments: folder. Prints its address.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvicorn

import bobot
from bobot.chat.protocol import ChatRequest, Delta, Event, Started
from bobot.chat.service import LocalService
from bobot.server.app import create_app
from bobot.server.keys import KeyStore
from bobot.server.models import Facts, Models, Opened, Source
from bobot.server.settings import Settings
from bobot.text.parts import PartDelta

THOUGHT = "They ask for something that a tool knows."
SHORT = {"string": {"maxLength": 12}, "array": {"maxItems": 3}}
SHORT |= {"integer": {"minimum": 0, "maximum": 99}, "object": {"additionalProperties": False}}


def narrowed(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema that allows fewer values, all of them short."""
    if schema.get("type") == "number":  # whose digits could go on for ever
        schema = {**schema, "type": "integer"}
    found = {**SHORT.get(schema.get("type", ""), {}), **schema}
    if "properties" in schema:
        found["properties"] = {name: narrowed(one) for name, one in schema["properties"].items()}
    if "items" in schema:
        found["items"] = narrowed(schema["items"])
    return found


def narrowed_tool(tool: Any) -> dict[str, Any]:
    function = tool["function"]
    return {**tool, "function": {**function, "parameters": narrowed(function["parameters"])}}


class Thinker:
    def __init__(self, inner: LocalService) -> None:
        self._inner = inner
        self.name, self.max_model_len = "thinker", inner.max_model_len

    async def chat(self, request: ChatRequest) -> AsyncIterator[Event]:
        has_result = any(message["role"] == "tool" for message in request.messages)
        forced = replace(
            request,
            tools=tuple(map(narrowed_tool, request.tools)),
            tool_choice="none" if has_result else "required",
            parallel_tool_calls=False,
            sampling={"max_tokens": 40 if has_result else 600, **request.sampling},
        )
        async for event in self._inner.chat(forced):
            if isinstance(event, Delta):
                event = replace(event, part=replace(event.part, part=event.part.part + 1))
            yield event
            if isinstance(event, Started):
                yield Delta(0, PartDelta(part=0, kind="reasoning", text=THOUGHT))

    async def close(self) -> None:
        await self._inner.close()


def main() -> None:
    folder = Path(sys.argv[1])

    async def open_it() -> Opened:
        return Opened(Thinker(LocalService(bobot.load())))  # type: ignore[arg-type]

    models = Models([Source("thinker", Facts(), lambda: 0, open_it)], 1 << 40)
    keys = KeyStore.open(folder / "server.db", [])
    app = create_app(models, Settings(), keys, None)  # type: ignore[arg-type]
    sock = socket.create_server(("127.0.0.1", 0))
    print(f"ready http://127.0.0.1:{sock.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run([sock])


if __name__ == "__main__":
    main()
