"""OpenAI's chat/completions: the answer, whole and in chunks."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from bobot import __version__
from bobot.chat.protocol import (
    Delta,
    Event,
    Finished,
    PromptRead,
    PromptScored,
    Started,
    TokenLogprob,
    Usage,
)
from bobot.server.running import Answer, Gathered
from bobot.server.timings import Clock, timings
from bobot.server.wire import DONE, sse
from bobot.text.parts import Part, PartDelta

FINGERPRINT = f"bobot-{__version__}"


@dataclass(frozen=True)
class ChatForm:
    """What the request wants to see in the answer."""

    includes_usage: bool = False
    is_legacy: bool = False
    shows_ids: bool = False
    shows_logprobs: bool = False
    prompt_scores: tuple[TokenLogprob | None, ...] | None = None
    is_llama: bool = False
    """A stream begins with a content of null, as llama-server's does, instead of ""."""
    shows_timings: bool = False
    """With each chunk."""
    prompt: str | None = None
    """As text, to be shown."""


def new_id(prefix: str) -> str:
    return f"{prefix}-{secrets.token_hex(12)}"


def whole_chat(gathered: Gathered, form: ChatForm) -> dict[str, Any]:
    """The chat.completion object."""
    answer = {
        "id": new_id("chatcmpl"),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": gathered.model,
        "system_fingerprint": FINGERPRINT,
        "choices": [_choice(one, form) for one in gathered.answers],
        "usage": usage_object(gathered.usage),
        "timings": timings(gathered.usage),
    }
    if form.shows_ids:
        answer["prompt_token_ids"] = list(gathered.prompt_ids or ())
    if form.prompt_scores is not None:
        answer["prompt_logprobs"] = vllm_prompt_logprobs(form.prompt_scores)
    return answer | _verbose(form)


def _verbose(form: ChatForm) -> dict[str, Any]:
    """In llama-server's place."""
    return {} if form.prompt is None else {"__verbose": {"prompt": form.prompt}}


def _choice(answer: Answer, form: ChatForm) -> dict[str, Any]:
    calls = answer.calls
    message: dict[str, Any] = {
        "role": "assistant",
        "content": answer.text if answer.text or not calls else None,
        "refusal": None,
    }
    if answer.reasoning:
        message["reasoning"] = message["reasoning_content"] = answer.reasoning
    if calls and form.is_legacy:
        message["function_call"] = _function(calls[0])
    elif calls:
        message["tool_calls"] = [call.as_call() for call in calls]
    choice: dict[str, Any] = {
        "index": answer.index,
        "message": message,
        "logprobs": chat_logprobs(answer.logprobs) if form.shows_logprobs else None,
        "finish_reason": _reason(answer.reason, form),
    }
    if form.shows_ids:
        choice["token_ids"] = answer.token_ids
    return choice


def _function(call: Part) -> dict[str, str]:
    return {"name": call.name, "arguments": call.text}


def _reason(reason: str, form: ChatForm) -> str:
    return "function_call" if form.is_legacy and reason == "tool_calls" else reason


@dataclass
class _Progress:
    """What has been sent of one answer."""

    calls: list[int] = field(default_factory=list)
    """Numbers of the parts that are calls."""
    last_part: dict[str, int] = field(default_factory=dict)
    """Kind -> number of the part of that kind that was sent last."""

    def text(self, part: PartDelta) -> str:
        """The delta's text, after a blank line where another part of its kind begins."""
        before = self.last_part.get(part.kind)
        if part.text:
            self.last_part[part.kind] = part.part
        return f"\n\n{part.text}" if part.text and before not in (None, part.part) else part.text


async def chat_chunks(
    events: AsyncGenerator[Event, None], form: ChatForm
) -> AsyncGenerator[bytes, None]:
    """Server-sent events with chat.completion.chunk objects."""
    writer = _ChunkWriter(form)
    async with aclosing(events):
        async for event in events:
            if frame := b"".join(map(sse, writer.chunks(event))):
                yield frame
    yield DONE


class _ChunkWriter:
    def __init__(self, form: ChatForm) -> None:
        self._form = form
        self._head: dict[str, Any] = {}
        self._progress: dict[int, _Progress] = {}
        self._prompt_ids: tuple[int, ...] | None = None
        self._clock = Clock()

    def chunks(self, event: Event) -> Iterable[dict[str, Any]]:
        self._clock.add(event)
        if isinstance(event, Started):
            self._head = {
                "id": new_id("chatcmpl"),
                "object": "chat.completion.chunk",
                "created": int(time.time()),
                "model": event.model,
                "system_fingerprint": FINGERPRINT,
            }
            self._prompt_ids = event.prompt_ids
            yield from self._begin(0)
        elif isinstance(event, PromptRead):
            chunk = self._chunk(0, {}, with_timings=True)
            yield {**chunk, "prompt_progress": self._clock.progress(event)}
        elif isinstance(event, Delta):
            yield from self._begin(event.index)
            delta = self._delta(self._progress[event.index], event.part)
            if delta or event.logprobs or (event.token_ids and self._form.shows_ids):
                yield self._chunk(event.index, delta, event=event, with_timings=True)
        elif isinstance(event, Finished):
            yield from self._begin(event.index)
            reason = _reason(event.reason, self._form)
            yield self._chunk(event.index, {}, reason=reason, with_timings=True)
        elif isinstance(event, Usage) and self._form.includes_usage:
            yield {
                **self._head,
                "choices": [],
                "usage": usage_object(event),
                "timings": timings(event),
            }

    def _begin(self, index: int) -> Iterable[dict[str, Any]]:
        if index in self._progress:
            return
        self._progress[index] = _Progress()
        content = None if self._form.is_llama else ""
        chunk = self._chunk(index, {"role": "assistant", "content": content}) | _verbose(self._form)
        if self._form.shows_ids:
            chunk["prompt_token_ids"] = list(self._prompt_ids or ())
        if self._form.prompt_scores is not None:
            chunk["prompt_logprobs"] = vllm_prompt_logprobs(self._form.prompt_scores)
        yield chunk

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        *,
        reason: str | None = None,
        event: Delta | None = None,
        with_timings: bool = False,
    ) -> dict[str, Any]:
        choice: dict[str, Any] = {
            "index": index,
            "delta": delta,
            "logprobs": None,
            "finish_reason": reason,
        }
        if event is not None and self._form.shows_logprobs:
            choice["logprobs"] = chat_logprobs(event.logprobs)
        if event is not None and self._form.shows_ids:
            choice["token_ids"] = list(event.token_ids)
        more: dict[str, Any] = {"usage": None} if self._form.includes_usage else {}
        if self._form.shows_timings and with_timings:
            more["timings"] = self._clock.timings()
        return {**self._head, "choices": [choice], **more}

    def _delta(self, progress: _Progress, part: PartDelta) -> dict[str, Any]:
        if part.kind == "tool_call":
            return self._call_delta(progress, part)
        text = progress.text(part)
        if not text:
            return {}
        if part.kind == "reasoning":
            return {"reasoning": text, "reasoning_content": text}
        return {"content": text}

    def _call_delta(self, progress: _Progress, part: PartDelta) -> dict[str, Any]:
        is_new = part.part not in progress.calls
        if is_new:
            progress.calls.append(part.part)
        elif not part.text:
            return {}
        if self._form.is_legacy:
            name = {"name": part.name} if is_new else {}
            return {"function_call": {**name, "arguments": part.text}}
        call: dict[str, Any] = {"index": progress.calls.index(part.part)}
        if is_new:
            call |= {"id": part.id, "type": "function"}
            call["function"] = {"name": part.name, "arguments": part.text}
        else:
            call["function"] = {"arguments": part.text}
        return {"tool_calls": [call]}


def usage_object(usage: Usage) -> dict[str, Any]:
    """OpenAI's usage; `cost` in US dollars where a host's price is known."""
    found: dict[str, Any] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens or 0},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
    }
    if usage.cost_usd is not None:
        found["cost"] = usage.cost_usd
    return found


def chat_logprobs(entries: Iterable[TokenLogprob]) -> dict[str, Any]:
    """OpenAI's logprobs of a chat's choice."""
    content = [
        {
            **_token(entry.piece, entry.logprob),
            "top_logprobs": [_token(piece, logprob) for _, piece, logprob in entry.top],
        }
        for entry in entries
    ]
    return {"content": content, "refusal": None}


def _token(piece: bytes, logprob: float) -> dict[str, Any]:
    text = piece.decode("utf-8", "replace")
    return {"token": text, "logprob": finite(logprob), "bytes": list(piece)}


def finite(logprob: float) -> float:
    """JSON has no infinity; OpenAI's API says -9999.0 for what can't occur."""
    return max(logprob, -9999.0)


def vllm_prompt_logprobs(entries: Iterable[TokenLogprob | None]) -> list[dict[str, Any] | None]:
    """vLLM's prompt_logprobs: null for the first, then {id: {logprob, rank, decoded_token}}."""
    return [None if entry is None else _ranked(entry) for entry in entries]


def _ranked(entry: TokenLogprob) -> dict[str, Any]:
    found = {}
    for rank, (token_id, piece, logprob) in enumerate(entry.top, start=1):
        found[str(token_id)] = _vllm_token(piece, logprob, rank)
    if str(entry.token_id) not in found:
        found[str(entry.token_id)] = _vllm_token(entry.piece, entry.logprob, entry.rank)
    return found


def _vllm_token(piece: bytes, logprob: float, rank: int | None) -> dict[str, Any]:
    text = piece.decode("utf-8", "replace")
    return {"logprob": finite(logprob), "rank": rank, "decoded_token": text}


def scores_of(events: Iterable[Event]) -> tuple[TokenLogprob | None, ...]:
    """The entries of the PromptScored event among these."""
    return next((event.entries for event in events if isinstance(event, PromptScored)), ())
