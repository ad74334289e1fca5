"""A hosted model as a ChatModel: the request in the host's own form, its answer as our events."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from types import ModuleType

from bobot.chat.protocol import ChatRequest, Event, Started, TextRequest, Usage
from bobot.gateway import anthropic_messages, gemini, openai_chat, openai_responses
from bobot.gateway.client import Client, Sleep, broken_off, to_the_end
from bobot.gateway.hosts import Host
from bobot.gateway.wire import AnswerReader, Call, private_error, unsupported

_WIRES: dict[str, ModuleType] = {
    "openai": openai_chat,
    "openai-responses": openai_responses,
    "anthropic": anthropic_messages,
    "gemini": gemini,
}


class HostedModel:
    """One model of one host; made by gateway.open_model. A ChatModel."""

    def __init__(
        self,
        host: Host,
        model: str,
        environ: Mapping[str, str] | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.host = host
        self.model = model
        self.name = f"{host.name}:{model}"
        self.facts = host.facts(model)
        self.max_model_len = self.facts.context_length
        self._wire = _WIRES[self.facts.wire or host.wire]
        self._client = Client(host, os.environ if environ is None else environ, sleep)

    async def chat(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """The answer as events. Raises ParameterError for what the host can't do, before anything
        is sent, and for every conversation that is private; then the errors of failures.py.
        """
        if request.effort_is_optional:  # its host knows what is usual
            request = replace(request, reasoning_effort=None)
        call = self._wire.chat_call(self.host, self.model, request)
        reader = self._wire.Reader(self.host)
        reader.num_answers = call.body.get("n", 1)
        async with aclosing(self._events(call, reader)) as events:
            async for event in events:
                yield event

    async def complete(self, request: TextRequest) -> AsyncGenerator[Event, None]:
        if request.is_private:
            raise private_error(self.host.name)
        if self._wire is not openai_chat:
            raise unsupported("prompt", self.host)
        call = openai_chat.text_call(self.host, self.model, request)
        reader = openai_chat.Reader(self.host)
        reader.num_answers = call.body.get("n", 1)
        async with aclosing(self._events(call, reader)) as events:
            async for event in events:
                yield event

    async def embed(self, texts: list[str | list[int]]) -> tuple[list[list[float]], int]:
        if self._wire is not openai_chat:
            raise unsupported("input", self.host)
        openai_chat.check_texts(texts)
        reader = openai_chat.Reader(self.host)
        call = openai_chat.embed_call(self.model, texts)
        async with aclosing(self._client.answer(call, self.model)) as objects:
            async for data in objects:
                vectors, num_tokens = openai_chat.vectors_of(reader, data)
                if len(vectors) != len(texts):
                    raise reader.wrong("embedding")
                return vectors, num_tokens
        raise broken_off(self.host)

    async def close(self) -> None:
        await self._client.close()

    async def _events(self, call: Call, reader: AnswerReader) -> AsyncGenerator[Event, None]:
        """Started, what the reader finds, and Usage with times and cost."""
        begin = time.monotonic()
        first = last = None
        is_started = False
        async with aclosing(self._client.answer(call, self.model)) as objects:
            async for data in objects:
                found = list(reader.read(data))
                if not is_started:
                    is_started = True
                    yield Started(None, f"{self.host.name}:{reader.model or self.model}")
                for event in found:
                    last = time.monotonic()
                    first = first or last
                    yield event
                if reader.is_complete:
                    await to_the_end(objects)
        if not reader.has_finished:
            raise broken_off(self.host)
        yield self._usage(reader, begin, first or begin, last or begin)

    def _usage(self, reader: AnswerReader, begin: float, first: float, last: float) -> Usage:
        """A host that counts nothing leaves zeros, and the cost unknown."""
        usage = reader.usage or Usage(prompt_tokens=0, completion_tokens=0)
        facts = self.host.facts(reader.model or self.model)
        facts = self.facts if facts.input is None else facts
        return replace(
            usage,
            cost_usd=None if reader.usage is None else facts.cost_usd(usage),
            prompt_s=first - begin,
            completion_s=last - first,
        )
