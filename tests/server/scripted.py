"""A ChatModel that answers by script, and a client of a server that holds it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from starlette.applications import Starlette

from bobot.chat.protocol import (
    ChatRequest,
    Delta,
    Event,
    Finished,
    PromptScored,
    Started,
    TextRequest,
    TokenLogprob,
    Usage,
)
from bobot.server.app import create_app
from bobot.server.keys import KeyStore
from bobot.server.models import Facts, Models, Opened, Source
from bobot.server.settings import Settings
from bobot.text.parts import Kind, PartDelta

Bit = tuple[Kind, str]


@dataclass
class ScriptedModel:
    """Answers with `bits`: (kind, text) of each part, a call's as "NAME ARGUMENTS". A letter of
    the prompt is a token, and so is a word of the answer."""

    name: str = "scripted"
    max_model_len: int | None = 64
    bits: Sequence[Bit] = (("text", "Hello there"),)
    error: Exception | None = None
    error_after: int = -1
    """Raises `error` before this delta; -1: before the first event."""
    pause_s: float = 0.0
    requests: list[ChatRequest | TextRequest] = field(default_factory=list)
    num_open: int = 0
    num_cancelled: int = 0
    is_closed: bool = False

    async def chat(self, request: ChatRequest) -> AsyncIterator[Event]:
        prompt = "".join(message["content"] for message in request.messages)
        async for event in self._run(request, tuple(prompt.encode())):
            yield event

    async def prompt_ids(self, request: ChatRequest) -> tuple[int, ...]:
        self.requests.append(request)
        if self.error is not None and self.error_after < 0:
            raise self.error
        return tuple("".join(message["content"] for message in request.messages).encode())

    async def complete(self, request: TextRequest) -> AsyncIterator[Event]:
        prompt = request.prompt
        ids = tuple(prompt.encode()) if isinstance(prompt, str) else prompt
        async for event in self._run(request, ids):
            yield event

    async def _run(
        self, request: ChatRequest | TextRequest, ids: tuple[int, ...]
    ) -> AsyncIterator[Event]:
        self.requests.append(request)
        if self.error is not None and self.error_after < 0:
            raise self.error
        self.num_open += 1
        is_whole = False
        try:
            yield Started(ids, self.name)
            if isinstance(request, TextRequest) and request.prompt_logprobs is not None:
                yield PromptScored(scores(ids, request.prompt_logprobs))
            count = 0
            limit = request.sampling.get("max_tokens")
            for index in range(request.sampling.get("n", 1)):
                deltas = self._deltas(index, request.sampling.get("logprobs"))[:limit]
                for number, delta in enumerate(deltas):
                    if self.error is not None and number == self.error_after:
                        raise self.error
                    await asyncio.sleep(self.pause_s)
                    count += 1
                    yield delta
                has_calls = any(kind == "tool_call" for kind, _ in self.bits)
                cut = limit is not None and len(deltas) == limit
                reason = "length" if cut else "tool_calls" if has_calls else "stop"
                yield Finished(index, reason)
            yield Usage(len(ids), count, 1, 0, None, 0.5, 1.0)
            is_whole = True
        finally:
            self.num_open -= 1
            self.num_cancelled += not is_whole

    def _deltas(self, index: int, logprobs: int | None) -> list[Delta]:
        found = []
        for part, (kind, text) in enumerate(self.bits):
            words = text.split(" ")
            for number, word in enumerate(words):
                is_name = kind == "tool_call" and number == 0
                after_name = kind == "tool_call" and number == 1
                bit = word if number == 0 or after_name else f" {word}"
                delta = PartDelta(
                    part=part,
                    kind=kind,
                    text="" if is_name else bit,
                    id=f"call_{part}" if is_name else "",
                    name=word if is_name else "",
                )
                entries = () if logprobs is None else (_scored(bit, logprobs),)
                found.append(Delta(index, delta, (len(found),), entries))
        return found

    async def embed(self, texts: list[str | list[int]]) -> tuple[list[list[float]], int]:
        return [[1.0, 0.0, 0.5] for _ in texts], sum(len(text) for text in texts)

    async def close(self) -> None:
        self.is_closed = True


def _scored(text: str, num_top: int) -> TokenLogprob:
    piece = text.encode()
    top = [(0, piece, -0.5), (1, b"x", -1.5), (2, b"y", float("-inf"))]
    return TokenLogprob(0, piece, -0.5, tuple(top[:num_top]))


def scores(ids: tuple[int, ...], num_top: int) -> tuple[TokenLogprob | None, ...]:
    """Token i of the prompt has log-probability -i."""
    entries: list[TokenLogprob | None] = [None]
    for place, token_id in enumerate(ids[1:], start=1):
        piece = bytes([token_id % 256])
        top = [(token_id, piece, -float(place)), (7, b"\x07", -9.0)]
        entries.append(TokenLogprob(token_id, piece, -float(place), tuple(top[:num_top])))
    return tuple(entries)


def source_of(model: ScriptedModel, num_bytes: int = 100, tokenizer: object = None) -> Source:
    async def open_it() -> Opened:
        model.is_closed = False
        return Opened(model, tokenizer, model.prompt_ids)  # type: ignore[arg-type]

    facts = Facts(created_s=1_700_000_000, context=model.max_model_len, size_bytes=num_bytes)
    return Source(model.name, facts, lambda: num_bytes, open_it)


class Talk:
    """A client whose requests go straight into an application, in an event loop of its own."""

    def __init__(self, app: Starlette, models: Models, keys: KeyStore) -> None:
        self.app, self.models, self.keys = app, models, keys
        self.loop = asyncio.new_event_loop()
        transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
        self.client = httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8008")

    def ask(self, path: str, body: Any = None, method: str = "", **options: Any) -> httpx2.Response:
        """POST with a body (bytes go as they are), else GET."""
        if isinstance(body, bytes):
            options["content"] = body
        elif body is not None:
            options["json"] = body
        method = method or ("GET" if body is None else "POST")
        return self.loop.run_until_complete(self.client.request(method, path, **options))

    def together(self, *asks: tuple[str, Any]) -> list[httpx2.Response]:
        """Several POSTs at once."""

        async def all_of_them() -> list[httpx2.Response]:
            return await asyncio.gather(*(self.client.post(path, json=body) for path, body in asks))

        return self.loop.run_until_complete(all_of_them())

    def close(self) -> None:
        self.loop.run_until_complete(self.client.aclose())
        self.loop.run_until_complete(self.models.close())
        self.loop.close()
        self.keys.close()


def talk_to(
    folder: Path,
    *models: ScriptedModel,
    tokenizer: object = None,
    any_model: bool = False,
    budget_bytes: int = 1000,
    api_keys: Sequence[str] = (),
    sources: Sequence[Source] = (),
    library: Any = None,
    **settings: Any,
) -> Talk:
    keys = KeyStore.open(folder / "server.db", list(api_keys))
    found = [*sources, *(source_of(model, tokenizer=tokenizer) for model in models)]
    served = Models(found, budget_bytes, any_model=any_model)
    return Talk(create_app(served, Settings(**settings), keys, library), served, keys)


def events_of(text: str) -> list[Any]:
    """The data of each server-sent event, without the [DONE] that must end OpenAI's."""
    data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(entry) for entry in data if entry != "[DONE]"]
