"""From a request to the events of its answer, and what they took; several answers at once."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import logging
import sqlite3
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bobot.chat.protocol import (
    NO_REASONING,
    ChatRequest,
    Delta,
    Event,
    Finished,
    ParameterError,
    PromptScored,
    Started,
    TextRequest,
    TokenLogprob,
    Usage,
)
from bobot.gateway.wire import private_error
from bobot.server.calls import Account, Call
from bobot.server.keys import Key, KeyStore
from bobot.server.metrics import Metrics
from bobot.server.models import Models, Opened
from bobot.server.rates import Rates
from bobot.server.settings import Settings
from bobot.text import Tokenizer
from bobot.text.parts import Part, PartDelta, joined, parts_of

log = logging.getLogger("bobot.server")

MAX_AT_ONCE = 16
"""Prompts of one request that are worked on at the same time."""


class Runner:
    """Asks models on behalf of calls and keeps the accounts."""

    def __init__(
        self,
        models: Models,
        metrics: Metrics,
        rates: Rates,
        keys: KeyStore,
        settings: Settings,
    ) -> None:
        self.models = models
        self._settings = settings
        self._metrics = metrics
        self._rates = rates
        self._keys = keys

    async def run(
        self, call: Call, model: str | None, request: ChatRequest | TextRequest
    ) -> AsyncGenerator[Event, None]:
        """The events of one answer; closing it cancels the answer."""
        if call.is_private:
            request = replace(request, is_private=True)
        async with self.models.borrow(model) as opened, self.accounted(call, opened) as tally:
            if isinstance(request, ChatRequest):
                events = opened.model.chat(await self._completed(opened, request))
            else:
                sampling = {**self._settings.defaults, **request.sampling}
                events = opened.model.complete(replace(request, sampling=sampling))
            async with _closing(events):
                async for event in events:
                    tally.add(event)
                    yield event

    async def _completed(self, opened: Opened, request: ChatRequest) -> ChatRequest:
        """With the server's defaults where the request does not say."""
        settings, options = self._settings, dict(request.template_options)
        effort = request.reasoning_effort or settings.reasoning_effort
        if settings.is_llama and opened.tokenizer is not None:
            options = _llama_options(opened.tokenizer, request.tools, effort) | options
        request = replace(
            request,
            sampling={**settings.defaults, **request.sampling},
            reasoning_effort=effort,
            template_options=options,
        )
        return await self._within_means(opened, request)

    async def _within_means(self, opened: Opened, request: ChatRequest) -> ChatRequest:
        """Leniently, without a reasoning effort where the model has none."""
        if (
            not self._settings.is_lenient
            or request.reasoning_effort is None
            or opened.prompt_ids is None
        ):
            return request
        try:
            await opened.prompt_ids(request)
        except ParameterError as error:
            if error.param != "reasoning_effort":
                raise
            return replace(request, reasoning_effort=None)
        return request

    async def prompt_ids(self, model: str | None, request: ChatRequest) -> tuple[int, ...]:
        """The prompt of a conversation as the model reads it. ParameterError for a hosted model,
        which does not say; nothing is sent to it.
        """
        async with self.models.borrow(model) as opened:
            if opened.prompt_ids is not None:
                request = await self._completed(opened, request)
                return tuple(await opened.prompt_ids(request))
            raise ParameterError(
                "{name} does not say how it reads a prompt.",
                param="model",
                code="unsupported_parameter",
                name=opened.model.name,
            )

    async def embed(
        self, call: Call, model: str | None, texts: list[str | list[int]]
    ) -> tuple[list[list[float]], int, str]:
        """A vector for each text, the number of tokens, and the model. ParameterError where the
        texts are private and the model is hosted.
        """
        async with self.models.borrow(model) as opened:
            if call.is_private and self.models.describe(opened.model.name).facts.is_hosted:
                raise private_error(opened.model.name)
            async with self.accounted(call, opened) as tally:
                vectors, tally.prompt_tokens = await opened.model.embed(texts)
            return vectors, tally.prompt_tokens, opened.model.name

    @contextlib.asynccontextmanager
    async def accounted(self, call: Call, opened: Opened) -> AsyncIterator[Tally]:
        """Books what was done inside the block, also when it is left early."""
        tally = Tally()
        try:
            yield tally
        finally:
            self._book(call.account, call.key, opened.model.name, tally)

    def _book(self, account: Account, key: Key | None, model: str, tally: Tally) -> None:
        account.model = model
        account.prompt_tokens += tally.prompt_tokens
        account.completion_tokens += tally.completion_tokens
        account.cached_tokens += tally.cached_tokens
        self._metrics.prompt_tokens.labels(model).inc(tally.prompt_tokens)
        self._metrics.cached_tokens.labels(model).inc(tally.cached_tokens)
        self._metrics.completion_tokens.labels(model).inc(tally.completion_tokens)
        ends_s = tally.first_s or time.monotonic()
        self._metrics.llama.totals.add(
            tally.prompt_tokens,
            tally.cached_tokens,
            tally.completion_tokens,
            ends_s - tally.started_s,
            max(tally.last_s - ends_s, 0.0),
        )
        if tally.first_s is not None:
            first_s = tally.first_s - tally.started_s
            account.first_token_s = account.first_token_s or first_s
            self._metrics.first_token_s.labels(model).observe(first_s)
            if tally.completion_tokens > 1:
                per_token_s = (tally.last_s - tally.first_s) / (tally.completion_tokens - 1)
                self._metrics.token_s.labels(model).observe(per_token_s)
        if key is not None:
            num_tokens = tally.prompt_tokens + tally.completion_tokens
            self._rates.spend(key, num_tokens)
            try:
                self._keys.add_usage(key, model, tally.prompt_tokens, tally.completion_tokens)
            except sqlite3.Error:  # the answer is right all the same
                log.exception("%s: the use of key %s was not counted", model, key.name)


def _llama_options(
    tokenizer: Tokenizer, tools: Sequence[Mapping[str, Any]], effort: str | None
) -> dict[str, Any]:
    """The variables that llama-server gives to every chat template that knows them."""
    today = datetime.date.today()
    options: dict[str, Any] = {
        "date_string": today.strftime("%d %b %Y"),
        "datetime": today.strftime("%b %d %Y"),
        "functions": json.dumps(tools, indent=2) if tools else "",
    }
    if effort != NO_REASONING:
        options["enable_thinking"] = True
    return {name: value for name, value in options.items() if tokenizer.takes(name)}


@contextlib.asynccontextmanager
async def _closing(events: AsyncIterator[Event]) -> AsyncIterator[None]:
    """Closes an iterator that can be closed: a model may answer with one that can't."""
    try:
        yield
    finally:
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()


@dataclass
class Tally:
    """Counts of one answer, from its last event or, when it was cancelled, from those seen."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    started_s: float = field(default_factory=time.monotonic)
    first_s: float | None = None
    last_s: float = 0.0

    def add(self, event: Event) -> None:
        if isinstance(event, Started):
            self.prompt_tokens = len(event.prompt_ids or ())
        elif isinstance(event, Delta):
            self.last_s = time.monotonic()
            self.first_s = self.first_s or self.last_s
            self.completion_tokens += len(event.token_ids)
        elif isinstance(event, Usage):
            self.prompt_tokens = event.prompt_tokens
            self.completion_tokens = event.completion_tokens
            self.cached_tokens = event.cached_tokens or 0


@dataclass
class Answer:
    """One of the n answers, whole."""

    index: int
    deltas: list[PartDelta] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    reason: str = "stop"
    stop: str | None = None

    @property
    def parts(self) -> list[Part]:
        return parts_of(self.deltas)

    @property
    def text(self) -> str:
        return joined(self.parts, "text")

    @property
    def reasoning(self) -> str:
        return joined(self.parts, "reasoning")

    @property
    def calls(self) -> list[Part]:
        return [part for part in self.parts if part.kind == "tool_call"]


@dataclass
class Gathered:
    """All events of a request, put together."""

    model: str = ""
    prompt_ids: tuple[int, ...] | None = None
    prompt_scores: tuple[TokenLogprob | None, ...] = ()
    answers: list[Answer] = field(default_factory=list)
    usage: Usage = field(default_factory=lambda: Usage(0, 0))

    def add(self, event: Event) -> None:
        if isinstance(event, Started):
            self.model, self.prompt_ids = event.model, event.prompt_ids
        elif isinstance(event, PromptScored):
            self.prompt_scores = event.entries
        elif isinstance(event, Delta):
            answer = self._answer(event.index)
            answer.deltas.append(event.part)
            answer.token_ids += event.token_ids
            answer.logprobs += event.logprobs
        elif isinstance(event, Finished):
            answer = self._answer(event.index)
            answer.reason, answer.stop = event.reason, event.stop
        elif isinstance(event, Usage):
            self.usage = event

    def _answer(self, index: int) -> Answer:
        while len(self.answers) <= index:
            self.answers.append(Answer(len(self.answers)))
        return self.answers[index]


async def gather(events: AsyncGenerator[Event, None]) -> Gathered:
    """The whole answer."""
    gathered = Gathered()
    async with contextlib.aclosing(events):
        async for event in events:
            gathered.add(event)
    return gathered


async def merge(
    starts: list[Callable[[], AsyncGenerator[Event, None]]],
) -> AsyncGenerator[tuple[int, Event], None]:
    """The events of several requests as they come, each with the number of its request. At most
    MAX_AT_ONCE run; an error of one ends all.
    """
    queue: asyncio.Queue[tuple[int, Event] | Exception | None] = asyncio.Queue(64)
    turns = asyncio.Semaphore(MAX_AT_ONCE)

    async def pump(number: int, start: Callable[[], AsyncGenerator[Event, None]]) -> None:
        async with turns:
            try:
                async with contextlib.aclosing(start()) as events:
                    async for event in events:
                        await queue.put((number, event))
                await queue.put(None)
            except Exception as error:  # noqa: BLE001  raised again by the reader
                await queue.put(error)

    tasks = [asyncio.ensure_future(pump(number, start)) for number, start in enumerate(starts)]
    num_open = len(tasks)
    try:
        while num_open:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                num_open -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def usage_sum(usages: list[Usage]) -> Usage:
    """Of several requests together; times are the longest."""

    def added(values: list[int | None]) -> int | None:
        known = [value for value in values if value is not None]
        return sum(known) if known else None

    return Usage(
        prompt_tokens=sum(usage.prompt_tokens for usage in usages),
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        cached_tokens=added([usage.cached_tokens for usage in usages]),
        reasoning_tokens=added([usage.reasoning_tokens for usage in usages]),
        cost_usd=usages[0].cost_usd if len(usages) == 1 else None,
        prompt_s=max((usage.prompt_s or 0.0 for usage in usages), default=None),
        completion_s=max((usage.completion_s or 0.0 for usage in usages), default=None),
    )
