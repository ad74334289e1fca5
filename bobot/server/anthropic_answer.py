"""Anthropic's messages: the routes, and the answer whole and as events."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from bobot.chat.protocol import Delta, Event, Finished, Started, Usage
from bobot.server.anthropic import CountBody, MessagesBody, count_request, messages_request
from bobot.server.calls import SSE, Call, Reply, Stream
from bobot.server.failures import anthropic_error
from bobot.server.running import Gathered, Runner, gather
from bobot.server.settings import Settings
from bobot.server.wire import decode, sse
from bobot.text.parts import Part, PartDelta

STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
SIGNATURE = "bobot"
"""Clients want a text here; nothing is signed."""
PING = sse({"type": "ping"}, "ping")


class Anthropic:
    def __init__(self, runner: Runner, settings: Settings) -> None:
        self._runner = runner
        self._is_lenient = settings.is_lenient

    async def messages(self, call: Call) -> Reply | Stream:
        body = decode(call.body, MessagesBody)
        call.is_private |= body.private
        request = messages_request(body, lenient=self._is_lenient)
        events = self._runner.run(call, body.model, request)
        if body.stream:
            frames = message_events(events, shows_thinking=body.shows_thinking)
            request_id = call.request_id
            return Stream(
                frames,
                SSE,
                lambda failure: sse(anthropic_error(failure, request_id), "error"),
                PING,
            )
        return Reply(whole_message(await gather(events), shows_thinking=body.shows_thinking))

    async def count(self, call: Call) -> Reply:
        body = decode(call.body, CountBody)
        request = count_request(body, lenient=self._is_lenient)
        ids = await self._runner.prompt_ids(body.model, request)
        return Reply({"input_tokens": len(ids)})


def whole_message(gathered: Gathered, *, shows_thinking: bool) -> dict[str, Any]:
    answer = gathered.answers[0]
    shown = [part for part in answer.parts if shows_thinking or part.kind != "reasoning"]
    return {
        **_head(gathered.model),
        "content": [_block(part) for part in shown],
        "stop_reason": _stop_reason(answer.reason, answer.stop),
        "stop_sequence": answer.stop,
        "usage": _usage(gathered.usage),
    }


def _head(model: str) -> dict[str, Any]:
    return {
        "id": f"msg_{secrets.token_hex(12)}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _stop_reason(reason: str, stop: str | None) -> str:
    return "stop_sequence" if stop is not None else STOP_REASONS[reason]


def _usage(usage: Usage) -> dict[str, Any]:
    """Tokens read anew are counted apart from those found in the cache."""
    cached = usage.cached_tokens or 0
    return {
        "input_tokens": usage.prompt_tokens - cached,
        "output_tokens": usage.completion_tokens,
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": 0,
    }


def _block(part: Part) -> dict[str, Any]:
    if part.kind == "tool_call":
        return {
            "type": "tool_use",
            "id": part.id,
            "name": part.name,
            "input": part.arguments or {},
        }
    if part.kind == "reasoning":
        return {"type": "thinking", "thinking": part.text, "signature": SIGNATURE}
    return {"type": "text", "text": part.text}


async def message_events(
    events: AsyncGenerator[Event, None], *, shows_thinking: bool
) -> AsyncGenerator[bytes, None]:
    """Server-sent events from message_start to message_stop."""
    writer = _EventWriter(shows_thinking)
    async with aclosing(events):
        async for event in events:
            found = writer.events(event)
            if frame := b"".join(sse(value, value["type"]) for value in found):
                yield frame


@dataclass
class _EventWriter:
    shows_thinking: bool
    num_blocks: int = 0
    open_part: PartDelta | None = None
    finished: Finished | None = field(default=None)

    def events(self, event: Event) -> Iterable[dict[str, Any]]:
        if isinstance(event, Started):
            # Only what the prompt has is known; message_delta has the whole count.
            usage = _usage(Usage(len(event.prompt_ids or ()), 0))
            yield {"type": "message_start", "message": {**_head(event.model), "usage": usage}}
            yield {"type": "ping"}
        elif isinstance(event, Delta):
            if self.shows_thinking or event.part.kind != "reasoning":
                yield from self._delta(event.part)
        elif isinstance(event, Finished):
            yield from self._close()
            self.finished = event
        elif isinstance(event, Usage) and self.finished is not None:
            reason = _stop_reason(self.finished.reason, self.finished.stop)
            delta = {"stop_reason": reason, "stop_sequence": self.finished.stop}
            yield {"type": "message_delta", "delta": delta, "usage": _usage(event)}
            yield {"type": "message_stop"}

    def _delta(self, part: PartDelta) -> Iterable[dict[str, Any]]:
        if self.open_part is None or self.open_part.part != part.part:
            if not part.text and part.kind != "tool_call":
                return
            yield from self._close()
            self.open_part = part
            yield {
                "type": "content_block_start",
                "index": self.num_blocks,
                "content_block": _empty_block(part),
            }
        if part.text:
            yield self._block_delta(_delta_of(part))

    def _close(self) -> Iterable[dict[str, Any]]:
        if self.open_part is None:
            return
        if self.open_part.kind == "reasoning":
            yield self._block_delta({"type": "signature_delta", "signature": SIGNATURE})
        yield {"type": "content_block_stop", "index": self.num_blocks}
        self.num_blocks += 1
        self.open_part = None

    def _block_delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": self.num_blocks, "delta": delta}


def _empty_block(part: PartDelta) -> dict[str, Any]:
    if part.kind == "tool_call":
        return {"type": "tool_use", "id": part.id, "name": part.name, "input": {}}
    if part.kind == "reasoning":
        return {"type": "thinking", "thinking": "", "signature": ""}
    return {"type": "text", "text": ""}


def _delta_of(part: PartDelta) -> dict[str, Any]:
    if part.kind == "tool_call":
        return {"type": "input_json_delta", "partial_json": part.text}
    if part.kind == "reasoning":
        return {"type": "thinking_delta", "thinking": part.text}
    return {"type": "text_delta", "text": part.text}
