"""llama-server's /predict, which Google's Vertex AI asks: several requests of other routes in one.

    {"instances": [{"@requestFormat": "chatCompletions", "messages": [...]}, ...]}

is answered by {"predictions": [...]}, each entry the body that the route would have answered with,
in the same order; one that fails is an error object among the others. Nothing is streamed.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Annotated, Any

from msgspec import Meta, Struct

from bobot.chat.protocol import ParameterError
from bobot.server.calls import Call, Handler, Reply
from bobot.server.failures import failure_of, llama_error
from bobot.server.wire import decode, encode, unsupported_parameter

log = logging.getLogger("bobot.server")

MAX_INSTANCES = 128
FORMAT = "@requestFormat"


class PredictBody(Struct, kw_only=True):
    instances: Annotated[list[dict[str, Any]], Meta(max_length=MAX_INSTANCES)]


class Predict:
    """`routes`: paths with what answers them; of two with one name the first one counts."""

    def __init__(self, routes: Iterable[tuple[str, Handler]]) -> None:
        self._handlers: dict[str, Handler] = {}
        for path, handler in routes:
            self._handlers.setdefault(_name(path), handler)
            self._handlers[path] = handler

    async def predict(self, call: Call) -> Reply:
        body = decode(call.body, PredictBody)
        answers = (self._answer(call, instance) for instance in body.instances)
        return Reply({"predictions": await asyncio.gather(*answers)})

    async def _answer(self, call: Call, instance: Mapping[str, Any]) -> Any:
        try:
            reply = await self._handler(instance)(replace(call, body=_without_format(instance)))
        except Exception as error:  # the others are answered
            failure = failure_of(error)
            if failure.status == 500:
                log.error("%s %s failed", call.request_id, call.path, exc_info=error)
            return llama_error(failure)
        assert isinstance(reply, Reply)  # nothing is streamed
        return reply.content

    def _handler(self, instance: Mapping[str, Any]) -> Handler:
        name = instance.get(FORMAT)
        if instance.get("stream"):
            raise unsupported_parameter("stream")
        if not isinstance(name, str) or name not in self._handlers:
            raise ParameterError(
                "{name} is {value}; allowed: {allowed}.",
                param=FORMAT,
                name=FORMAT,
                value=name,
                allowed=", ".join(self._handlers),
            )
        return self._handlers[name]


def _without_format(instance: Mapping[str, Any]) -> bytes:
    return encode({name: value for name, value in instance.items() if name != FORMAT})


def _name(path: str) -> str:
    """chatCompletions for /v1/chat/completions, applyTemplate for /apply-template."""
    words = re.split(r"[/_-]", path.removeprefix("/v1").removeprefix("/"))
    return words[0] + "".join(word.capitalize() for word in words[1:])
