"""OpenAI's completions: the answer, whole and in chunks, the prompt in front where it is wanted.

A beginning token that was put before a text has no text of its own, so that text_offset counts in
the text that was sent. The first log-probability is null: nothing precedes that token. Clients with
strict types can't read that; leniently it is 0.
"""

from __future__ import annotations

import time
from codecs import getincrementaldecoder
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from bobot.chat.protocol import (
    Delta,
    Event,
    Finished,
    PromptScored,
    Started,
    TokenLogprob,
    Usage,
)
from bobot.server.openai_chat_answer import (
    FINGERPRINT,
    finite,
    new_id,
    usage_object,
    vllm_prompt_logprobs,
)
from bobot.server.openai_text import TextPlan
from bobot.server.running import Answer, Gathered, usage_sum
from bobot.server.timings import timings
from bobot.server.wire import DONE, sse
from bobot.text import Tokenizer

Pieces = list[tuple[bytes, float | None, tuple[tuple[int, bytes, float], ...]]]
"""(bytes, log-probability, most likely tokens) of each token."""


@dataclass(frozen=True)
class Echo:
    """The prompts as an answer shows them."""

    plan: TextPlan
    tokenizer: Tokenizer | None
    nothing: float | None = None
    """In the place of a log-probability that does not exist."""

    def text(self, number: int) -> str:
        prompt = self.plan.requests[number].prompt
        if not self.plan.echoes:
            return ""
        if isinstance(prompt, str):
            return prompt
        return "" if self.tokenizer is None else self.tokenizer.decode(prompt)

    def pieces(self, number: int, entries: Iterable[TokenLogprob | None]) -> Pieces:
        """Of the prompt's tokens, where their log-probabilities are shown."""
        if not self.plan.echoes or self.plan.num_logprobs is None:
            return []
        return [
            (self._first(number), self.nothing, ())
            if entry is None
            else (entry.piece, entry.logprob, entry.top)
            for entry in entries
        ]

    def _first(self, number: int) -> bytes:
        """The bytes of the first token."""
        prompt, tokenizer = self.plan.requests[number].prompt, self.tokenizer
        if tokenizer is None:
            return b""
        if isinstance(prompt, str):
            if tokenizer.bos_id is not None and tokenizer.adds_bos:
                return b""
            prompt = tuple(tokenizer.encode(prompt)[:1])
        return next(iter(tokenizer.decode_pieces(prompt)), b"")


def whole_texts(gathered: list[Gathered], plan: TextPlan, echo: Echo) -> dict[str, Any]:
    """The text_completion object."""
    choices = [
        _choice(answer, one, plan, echo, number)
        for number, one in enumerate(gathered)
        for answer in one.answers
    ]
    usage = usage_sum([one.usage for one in gathered])
    return {
        "id": new_id("cmpl"),
        "object": "text_completion",
        "created": int(time.time()),
        "model": gathered[0].model,
        "system_fingerprint": FINGERPRINT,
        "choices": choices,
        "usage": usage_object(usage),
        "timings": timings(usage),
    }


def _choice(
    answer: Answer, one: Gathered, plan: TextPlan, echo: Echo, number: int
) -> dict[str, Any]:
    choice: dict[str, Any] = {
        "index": number * plan.num_answers + answer.index,
        "text": echo.text(number) + answer.text,
        "logprobs": None,
        "finish_reason": answer.reason,
    }
    if plan.num_logprobs is not None:
        pieces = echo.pieces(number, one.prompt_scores) + _pieces(answer.logprobs)
        choice["logprobs"] = text_logprobs(pieces, plan.num_logprobs, Offsets())
    if answer.stop is not None:
        choice["stop_reason"] = answer.stop
    if plan.shows_prompt_scores:
        choice["prompt_logprobs"] = vllm_prompt_logprobs(one.prompt_scores)
    if plan.shows_ids:
        choice["prompt_token_ids"] = list(one.prompt_ids or ())
        choice["token_ids"] = answer.token_ids
    return choice


def _pieces(entries: Iterable[TokenLogprob]) -> Pieces:
    return [(entry.piece, entry.logprob, entry.top) for entry in entries]


class Offsets:
    """Counts the characters before each token of a text; a character that several tokens make
    begins at the first of them."""

    def __init__(self) -> None:
        self._decoder = getincrementaldecoder("utf-8")("replace")
        self._count = 0

    def pass_over(self, piece: bytes) -> int:
        """Where the token begins."""
        begin = self._count
        self._count += len(self._decoder.decode(piece))
        return begin


def text_logprobs(pieces: Pieces, num_top: int, places: Offsets) -> dict[str, Any]:
    """OpenAI's logprobs of a completion. With alternatives each dict has the token itself too, as
    OpenAI's has."""
    tokens, values, tops, offsets = [], [], [], []
    for piece, logprob, top in pieces:
        text = piece.decode("utf-8", "replace")
        tokens.append(text)
        values.append(None if logprob is None else finite(logprob))
        offsets.append(places.pass_over(piece))
        if logprob is None or not num_top:
            tops.append(None)
            continue
        found: dict[str, float] = {}
        for _, other, value in (*top[:num_top], (0, piece, logprob)):
            # Two tokens with the same text: the likelier one counts, and it comes first.
            found.setdefault(other.decode("utf-8", "replace"), finite(value))
        tops.append(found)
    return {
        "tokens": tokens,
        "token_logprobs": values,
        "top_logprobs": tops if num_top else None,
        "text_offset": offsets,
    }


async def text_chunks(
    events: AsyncGenerator[tuple[int, Event], None],
    plan: TextPlan,
    echo: Echo,
    *,
    includes_usage: bool,
) -> AsyncGenerator[bytes, None]:
    """Server-sent events with text_completion objects, each with one choice."""
    writer = _ChunkWriter(plan, echo, includes_usage)
    async with aclosing(events):
        async for number, event in events:
            if frame := b"".join(map(sse, writer.chunks(number, event))):
                yield frame
    if includes_usage:
        yield sse(writer.usage_chunk())
    yield DONE


class _ChunkWriter:
    def __init__(self, plan: TextPlan, echo: Echo, includes_usage: bool) -> None:
        self._plan = plan
        self._echo = echo
        self._includes_usage = includes_usage
        self._head = {
            "id": new_id("cmpl"),
            "object": "text_completion",
            "created": int(time.time()),
            "model": "",
            "system_fingerprint": FINGERPRINT,
        }
        self._offsets: dict[int, Offsets] = {}
        """Of each choice that has begun."""
        self._usages: list[Usage] = []
        self._prompt_ids: dict[int, tuple[int, ...]] = {}
        self._scores: dict[int, tuple[TokenLogprob | None, ...]] = {}

    def chunks(self, number: int, event: Event) -> Iterable[dict[str, Any]]:
        if isinstance(event, Started):
            self._head["model"] = event.model
            self._prompt_ids[number] = event.prompt_ids or ()
        elif isinstance(event, PromptScored):
            self._scores[number] = event.entries
        elif isinstance(event, Delta):
            yield from self._begin(number, event.index)
            if event.part.text or event.logprobs or (event.token_ids and self._plan.shows_ids):
                yield self._delta(number, event)
        elif isinstance(event, Finished):
            yield from self._begin(number, event.index)
            chunk = self._chunk(number, event.index, "", reason=event.reason)
            if event.stop is not None:
                chunk["choices"][0]["stop_reason"] = event.stop
            yield chunk
        elif isinstance(event, Usage):
            self._usages.append(event)

    def usage_chunk(self) -> dict[str, Any]:
        usage = usage_sum(self._usages)
        return {
            **self._head,
            "choices": [],
            "usage": usage_object(usage),
            "timings": timings(usage),
        }

    def _begin(self, number: int, index: int) -> Iterable[dict[str, Any]]:
        """The echo of the prompt, and what is known of it."""
        choice_index = number * self._plan.num_answers + index
        if choice_index in self._offsets:
            return
        places = self._offsets[choice_index] = Offsets()
        plan = self._plan
        if not (plan.echoes or plan.shows_prompt_scores or plan.shows_ids):
            return
        chunk = self._chunk(number, index, self._echo.text(number))
        choice = chunk["choices"][0]
        if plan.echoes and plan.num_logprobs is not None:
            pieces = self._echo.pieces(number, self._scores.get(number, ()))
            choice["logprobs"] = text_logprobs(pieces, plan.num_logprobs, places)
        if plan.shows_prompt_scores:
            choice["prompt_logprobs"] = vllm_prompt_logprobs(self._scores.get(number, ()))
        if plan.shows_ids:
            choice["prompt_token_ids"] = list(self._prompt_ids[number])
        yield chunk

    def _delta(self, number: int, event: Delta) -> dict[str, Any]:
        places = self._offsets[number * self._plan.num_answers + event.index]
        chunk = self._chunk(number, event.index, event.part.text)
        choice = chunk["choices"][0]
        if self._plan.num_logprobs is not None:
            pieces = _pieces(event.logprobs)
            choice["logprobs"] = text_logprobs(pieces, self._plan.num_logprobs, places)
        if self._plan.shows_ids:
            choice["token_ids"] = list(event.token_ids)
        return chunk

    def _chunk(
        self, number: int, index: int, text: str, *, reason: str | None = None
    ) -> dict[str, Any]:
        choice_index = number * self._plan.num_answers + index
        choice = {
            "index": choice_index,
            "text": text,
            "logprobs": None,
            "finish_reason": reason,
        }
        usage = {"usage": None} if self._includes_usage else {}
        return {**self._head, "choices": [choice], **usage}
