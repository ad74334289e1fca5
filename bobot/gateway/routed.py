"""A ChatModel that lets a policy choose who answers. Started.model says who did.

A private conversation is kept from hosted models twice: the policy leaves them out, and a hosted
model refuses it before anything is sent (hosted.py).
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import replace

from bobot.chat.protocol import (
    ChatModel,
    ChatRequest,
    Event,
    OverloadedError,
    ParameterError,
    Started,
    TextRequest,
    Usage,
)
from bobot.errors import BobotError
from bobot.gateway.blocking import estimated_tokens
from bobot.gateway.policy import Policy
from bobot.gateway.spending import Ledger

log = logging.getLogger("bobot.gateway")

Open = Callable[[str], AbstractAsyncContextManager[ChatModel]]
"""The model with this name, local or hosted, open inside the block."""


def prompt_tokens(request: ChatRequest) -> int:
    """About how many tokens a request has: nobody can count before the model is chosen."""
    tools = [{"content": str(dict(tool))} for tool in request.tools]
    return estimated_tokens([*request.messages, *tools])


class RoutedModel:
    """One name of a policy. Texts without a conversation, and embeddings, stay with the local
    model.
    """

    max_model_len = None

    def __init__(
        self,
        policy: Policy,
        name: str,
        open_model: Open,
        is_hosted: Callable[[str], bool],
        ledger: Ledger,
        count: Callable[[ChatRequest], int] = prompt_tokens,
    ) -> None:
        self.policy = policy
        self.name = name
        self._open = open_model
        self._is_hosted = is_hosted
        self._ledger = ledger
        self._count = count

    async def chat(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """The answer of the first candidate that begins one. Where none does, the error of the
        first, with those that were not asked because the conversation is private.
        """
        num_tokens = self._count(request)
        names = self.policy.candidates(
            request, self.name, num_tokens, self._ledger.spent, self._is_hosted
        )
        first_error: BobotError | None = None
        for name, following in zip(names, [*names[1:], None], strict=True):
            has_begun = False
            try:
                async with aclosing(self._answer(name, request)) as events:
                    async for event in events:
                        has_begun = True
                        yield event
                return
            except BobotError as error:
                if has_begun:
                    raise
                first_error = first_error or error
                if following is not None:
                    log.warning("%s asks %s, for %s failed: %s", self.name, following, name, error)
        assert first_error is not None, "a policy always names its local model"
        withheld = self.policy.withheld(request, self.name, num_tokens, self._is_hosted)
        if not withheld or isinstance(first_error, OverloadedError):
            raise first_error
        raise ParameterError(
            "{reason} This conversation is private, so {models} was not asked instead.",
            param=getattr(first_error, "param", "model"),
            code=getattr(first_error, "code", "private"),
            reason=first_error,
            models=", ".join(withheld),
        ) from first_error

    async def _answer(self, name: str, request: ChatRequest) -> AsyncGenerator[Event, None]:
        begin, cost = time.monotonic(), 0.0
        has_begun = False
        try:
            async with (
                self._open(name) as model,
                aclosing(model.chat(request)) as events,  # type: ignore[type-var]
            ):
                async for event in events:
                    has_begun = True
                    if isinstance(event, Started):
                        event = replace(event, chosen=model.name)
                    if isinstance(event, Usage):
                        cost = event.cost_usd or 0.0
                    yield event
        finally:
            if has_begun:
                self._ledger.add(name, cost, time.monotonic() - begin)

    async def complete(self, request: TextRequest) -> AsyncGenerator[Event, None]:
        async with (
            self._open(self.policy.local) as model,
            aclosing(model.complete(request)) as events,  # type: ignore[type-var]
        ):
            async for event in events:
                yield event

    async def embed(self, texts: list[str | list[int]]) -> tuple[list[list[float]], int]:
        async with self._open(self.policy.local) as model:
            return await model.embed(texts)

    async def close(self) -> None:
        """Nothing is its own."""
