"""A hosted model for the terminal: the calls that `bobot run` and `bobot chat` make of LocalModel,
without an event loop of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bobot.chat.protocol import (
    ChatModel,
    ChatRequest,
    Delta,
    Event,
    Finished,
    Started,
    TextRequest,
    Usage,
)
from bobot.errors import RequestError
from bobot.text.parts import PartDelta

HEARTBEAT_S = 0.1
BYTES_PER_TOKEN = 4


@dataclass(frozen=True)
class HostedStats:
    """What the last answer took, in the words of LocalModel's GenerationStats."""

    num_prompt_tokens: int
    num_cached_tokens: int
    num_completion_tokens: int
    time_to_first_token_s: float
    decode_s: float
    finish_reason: str | None
    model: str
    """The one that answered."""
    cost_usd: float | None

    @property
    def tokens_per_s(self) -> float:
        return (self.num_completion_tokens - 1) / self.decode_s if self.decode_s > 0 else 0.0


class HostedTemplate:
    """What a session asks of a tokenizer, for a model whose tokens only its host sees."""

    chat_template = "hosted"

    def takes(self, variable: str) -> bool:
        return variable in ("reasoning_effort", "tools")

    def encode_chat(self, messages: Sequence[Mapping[str, Any]], **_: Any) -> range:
        """As long as the conversation is likely to be in tokens; the host counts."""
        return range(estimated_tokens(messages))


def estimated_tokens(messages: Sequence[Mapping[str, Any]]) -> int:
    """A token for four bytes of text, as in English on the average, and four for each message."""
    num_bytes = sum(len(str(message.get("content") or "").encode()) for message in messages)
    return -(-num_bytes // BYTES_PER_TOKEN) + 4 * len(messages)


class BlockingModel:
    """A ChatModel in the place of a LocalModel."""

    is_hosted = True

    def __init__(self, model: ChatModel, routes_to: Sequence[str] = ()) -> None:
        self.model = model
        self.routes_to = tuple(routes_to)
        """Of a policy's name: the models that it chooses among."""
        self.name = model.name
        self.max_model_len = model.max_model_len
        self.tokenizer = HostedTemplate()
        self.default_sampling: dict[str, Any] = {}
        self.last_stats: HostedStats | None = None
        self.total_cost_usd = 0.0
        """Of all answers with a known price."""

    def answer(
        self,
        messages: Sequence[Mapping[str, Any]],
        stream: bool = True,
        *,
        stop: Sequence[str] = (),
        reasoning_effort: str | None = None,
        is_private: bool = False,
        **sampling: Any,
    ) -> Generator[PartDelta, None, None]:
        """The deltas of the answer, with empty ones while the host is silent, so that a caller can
        stop. Raises the errors of ChatModel.chat.
        """
        if not stream:
            raise RequestError("a hosted model answers as a stream.")
        request = ChatRequest(
            messages=tuple(messages),
            sampling=sampling,
            stop=tuple(stop),
            reasoning_effort=reasoning_effort,
            is_private=is_private,
        )
        return self._deltas(self.model.chat(request))

    def continued(
        self,
        prompt: str,
        *,
        stop: Sequence[str] = (),
        is_private: bool = False,
        **sampling: Any,
    ) -> Generator[PartDelta, None, None]:
        """Like answer, for a text that is to be continued."""
        request = TextRequest(
            prompt=prompt, sampling=sampling, stop=tuple(stop), is_private=is_private
        )
        return self._deltas(self.model.complete(request))

    def _deltas(self, events: AsyncIterator[Event]) -> Generator[PartDelta, None, None]:
        name, reason, last = self.name, None, PartDelta(part=-1, kind="text")
        usage = Usage(prompt_tokens=0, completion_tokens=0)
        self.last_stats = None
        try:
            for event in self._events(events):
                if event is None:
                    yield PartDelta(part=last.part, kind=last.kind)
                elif isinstance(event, Started):
                    name = event.model
                elif isinstance(event, Delta):
                    last = event.part
                    yield last
                elif isinstance(event, Finished):
                    reason = event.reason
                    yield PartDelta(part=last.part, kind=last.kind, finish_reason=reason)
                elif isinstance(event, Usage):
                    usage = event
        finally:
            self.total_cost_usd += usage.cost_usd or 0.0
            self.last_stats = HostedStats(
                num_prompt_tokens=usage.prompt_tokens,
                num_cached_tokens=usage.cached_tokens or 0,
                num_completion_tokens=usage.completion_tokens,
                time_to_first_token_s=usage.prompt_s or 0.0,
                decode_s=usage.completion_s or 0.0,
                finish_reason=reason,
                model=name,
                cost_usd=usage.cost_usd,
            )

    def _events(self, events: AsyncIterator[Event]) -> Generator[Event | None, None, None]:
        """The events, and None for each HEARTBEAT_S without one. An event loop and a connection
        live as long as one answer.
        """
        loop = asyncio.new_event_loop()
        task: asyncio.Task[Event] | None = None
        try:
            while True:
                task = task or loop.create_task(_next(events))
                loop.run_until_complete(asyncio.wait({task}, timeout=HEARTBEAT_S))
                if not task.done():
                    yield None
                    continue
                done, task = task, None
                try:
                    event = done.result()
                except StopAsyncIteration:
                    return
                yield event
        finally:
            loop.run_until_complete(_hang_up(events, task))
            loop.run_until_complete(self.model.close())
            loop.close()


async def _next(events: AsyncIterator[Event]) -> Event:
    return await events.__anext__()


async def _hang_up(events: AsyncIterator[Event], task: asyncio.Task[Event] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.wait({task})
    await events.aclose()  # type: ignore[attr-defined]  # chat() of every ChatModel is a generator
