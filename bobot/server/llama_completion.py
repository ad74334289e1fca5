"""llama-server's /completion: the answer, whole and in chunks."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from bobot.chat.protocol import (
    Delta,
    Event,
    Finished,
    PromptRead,
    Started,
    TokenLogprob,
    Usage,
)
from bobot.server.llama_fields import Plan, shown
from bobot.server.openai_chat_answer import finite
from bobot.server.timings import Clock, timings
from bobot.server.wire import sse
from bobot.text import Tokenizer

NO_SLOT = -1
"""No request is bound to a slot here."""


@dataclass
class _Answer:
    """One answer as far as it has come."""

    text: str = ""
    ids: list[int] = field(default_factory=list)
    probabilities: list[dict[str, Any]] = field(default_factory=list)
    finished: Finished | None = None


class CompletionWriter:
    """Reads the events of all prompts, and writes their objects."""

    def __init__(self, plan: Plan, tokenizer: Tokenizer, n_ctx: int | None) -> None:
        self._plan = plan
        self._tokenizer = tokenizer
        self._n_ctx = n_ctx
        self._model = ""
        self._prompts: dict[int, tuple[int, ...]] = {}
        self._answers: dict[tuple[int, int], _Answer] = {}
        self._usages: dict[int, Usage] = {}
        self._clocks = [Clock() for _ in plan.requests]

    def add(self, number: int, event: Event) -> Iterable[dict[str, Any]]:
        """The chunks that this event gives; the last ones come with the usage."""
        self._clocks[number].add(event)
        if isinstance(event, Started):
            self._model, self._prompts[number] = event.model, event.prompt_ids or ()
        elif isinstance(event, PromptRead):
            chunk = self._chunk(number, 0)
            yield {**chunk, "prompt_progress": self._clocks[number].progress(event)}
        elif isinstance(event, Delta):
            answer = self._answer(number, event.index)
            entries = [self._entry(entry) for entry in event.logprobs]
            answer.text += event.part.text
            answer.ids += event.token_ids
            answer.probabilities += entries
            if event.token_ids or event.part.text:
                yield self._chunk(number, event.index, event, entries)
        elif isinstance(event, Finished):
            self._answer(number, event.index).finished = event
        elif isinstance(event, Usage):
            self._usages[number] = event
            for index in range(self._plan.num_answers):
                yield self._last(number, index, is_chunk=True)

    def whole(self) -> Any:
        """The object, or the list of all."""
        found = [
            self._last(number, index, is_chunk=False)
            for number in range(len(self._plan.requests))
            for index in range(self._plan.num_answers)
        ]
        return found if self._plan.is_list else found[0]

    def _answer(self, number: int, index: int) -> _Answer:
        return self._answers.setdefault((number, index), _Answer())

    def _index(self, number: int, index: int) -> int:
        return number * self._plan.num_answers + index

    def _chunk(
        self,
        number: int,
        index: int,
        event: Delta | None = None,
        entries: Iterable[dict[str, Any]] = (),
    ) -> dict[str, Any]:
        answer = self._answer(number, index)
        chunk: dict[str, Any] = {
            "index": self._index(number, index),
            "content": event.part.text if event else "",
            "tokens": list(event.token_ids) if event else [],
            "stop": False,
            "id_slot": NO_SLOT,
            "tokens_predicted": len(answer.ids),
            "tokens_evaluated": len(self._prompts.get(number, ())),
        }
        if entries:
            chunk["completion_probabilities"] = list(entries)
        if self._plan.body.timings_per_token:
            chunk["timings"] = self._clocks[number].timings()
        return chunk

    def _last(self, number: int, index: int, *, is_chunk: bool) -> dict[str, Any]:
        answer, usage = self._answer(number, index), self._usages[number]
        body, prompt = self._plan.body, self._prompts.get(number, ())
        finished = answer.finished or Finished(index, "length")
        is_full = self._n_ctx is not None and len(prompt) + len(answer.ids) >= self._n_ctx
        found = {
            "index": self._index(number, index),
            "content": "" if is_chunk else answer.text,
            "tokens": answer.ids if body.return_tokens and not is_chunk else [],
            "id_slot": NO_SLOT,
            "stop": True,
            "model": self._model,
            "tokens_predicted": len(answer.ids),
            "tokens_evaluated": len(prompt),
            "generation_settings": self._plan.settings,
            "prompt": shown(self._tokenizer, prompt),
            "has_new_line": "\n" in answer.text,
            "truncated": finished.reason == "length" and is_full and not self._is_done(answer),
            "stop_type": _stop_type(finished),
            "stopping_word": finished.stop or "",
            "tokens_cached": usage.cached_tokens or 0,
            "timings": timings(usage),
        }
        if answer.probabilities and not is_chunk:
            found["completion_probabilities"] = answer.probabilities
        return _picked(found, body.response_fields) if body.response_fields else found

    def _is_done(self, answer: _Answer) -> bool:
        """Whether all tokens that were asked for have come."""
        return len(answer.ids) == self._plan.settings["n_predict"]

    def _entry(self, entry: TokenLogprob) -> dict[str, Any]:
        """One token with its alternatives; drawn ones as probabilities."""
        is_drawn = self._plan.body.post_sampling_probs
        top = [_token(*other, is_drawn=is_drawn) for other in entry.top]
        own = _token(entry.token_id, entry.piece, entry.logprob, is_drawn=is_drawn)
        return {**own, "top_probs" if is_drawn else "top_logprobs": top}


def _token(token_id: int, piece: bytes, logprob: float, *, is_drawn: bool) -> dict[str, Any]:
    value = {"prob": math.exp(logprob)} if is_drawn else {"logprob": finite(logprob)}
    text = piece.decode("utf-8", "replace")
    return {"id": token_id, "token": text, "bytes": list(piece), **value}


def _stop_type(finished: Finished) -> str:
    if finished.reason == "length":
        return "limit"
    return "eos" if finished.stop is None else "word"


def _picked(found: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """The fields of these names; "a/b" is the field b of a."""
    picked = {}
    for name in names:
        value: Any = found
        for step in name.split("/"):
            value = value.get(step) if isinstance(value, dict) else None
        if value is not None:
            picked[name] = value
    return picked


async def completion_chunks(
    events: AsyncGenerator[tuple[int, Event], None], writer: CompletionWriter
) -> AsyncGenerator[bytes, None]:
    """Server-sent events, one for each token, and the last one of each answer; no [DONE]."""
    async with aclosing(events):
        async for number, event in events:
            if frame := b"".join(map(sse, writer.add(number, event))):
                yield frame
