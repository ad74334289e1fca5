"""Ollama's chat, generate and embed: the routes, and the answer whole and as lines of JSON."""

from __future__ import annotations

import datetime
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal

from msgspec import Struct

from bobot.chat.protocol import Delta, Event, Finished, ParameterError, Started, TokenLogprob, Usage
from bobot.server.calls import Call, Reply, Stream, ollama_stream
from bobot.server.ollama import (
    AskBody,
    GenerateBody,
    OllamaChatBody,
    generate_request,
    ollama_chat_request,
)
from bobot.server.openai_chat_answer import finite
from bobot.server.running import Runner
from bobot.server.settings import Settings
from bobot.server.wire import decode, line
from bobot.text.parts import Part, PartDelta

NS = 1_000_000_000


class EmbedBody(Struct, kw_only=True):
    model: str
    input: str | list[str] = []
    prompt: str | None = None
    truncate: bool | None = None
    dimensions: int | None = None
    private: bool = False
    keep_alive: float | str | None = None


class Ollama:
    def __init__(self, runner: Runner, settings: Settings) -> None:
        self._runner = runner
        self._is_lenient = settings.is_lenient

    async def chat(self, call: Call) -> Reply | Stream:
        body = decode(call.body, OllamaChatBody)
        call.is_private |= body.private
        if not body.messages:
            return await self._load(body, "chat")
        request = ollama_chat_request(body, lenient=self._is_lenient)
        return await self._answer(body, self._runner.run(call, body.model, request), "chat")

    async def generate(self, call: Call) -> Reply | Stream:
        body = decode(call.body, GenerateBody)
        call.is_private |= body.private
        if not body.prompt and not body.system:
            return await self._load(body, "generate")
        async with self._runner.models.borrow(body.model) as opened:
            tokenizer = opened.tokenizer
            has_template = tokenizer is None or tokenizer.chat_template is not None
        request = generate_request(body, lenient=self._is_lenient, has_template=has_template)
        return await self._answer(body, self._runner.run(call, body.model, request), "generate")

    async def embed(self, call: Call) -> Reply:
        body = decode(call.body, EmbedBody)
        _refuse_cuts(body, lenient=self._is_lenient)
        texts = [body.input] if isinstance(body.input, str) else body.input
        started_s = time.monotonic()
        call.is_private |= body.private
        vectors, num_tokens, name = await self._embed(call, body.model, texts)
        return Reply(
            {
                "model": name,
                "embeddings": vectors,
                "total_duration": int((time.monotonic() - started_s) * NS),
                "load_duration": 0,
                "prompt_eval_count": num_tokens,
            }
        )

    async def embeddings(self, call: Call) -> Reply:
        """The older form, one text."""
        body = decode(call.body, EmbedBody)
        _refuse_cuts(body, lenient=self._is_lenient)
        if body.prompt is None:
            raise ParameterError(
                "{param} is missing.", param="prompt", code="missing_required_parameter"
            )
        call.is_private |= body.private
        vectors, _, _ = await self._embed(call, body.model, [body.prompt])
        return Reply({"embedding": vectors[0]})

    async def _embed(
        self, call: Call, model: str, texts: list[str]
    ) -> tuple[list[list[float]], int, str]:
        if not texts:
            return [], 0, self._runner.models.name_of(model)
        return await self._runner.embed(call, model, [*texts])

    async def _load(self, body: AskBody, kind: Literal["chat", "generate"]) -> Reply:
        """No prompt: the model is loaded, or leaves memory with keep_alive 0."""
        if body.unloads:
            await self._runner.models.unload(body.model)
            name, reason = self._runner.models.name_of(body.model), "unload"
        else:
            async with self._runner.models.borrow(body.model) as opened:
                name, reason = opened.model.name, "load"
        empty = {"message": {"role": "assistant", "content": ""}}
        shown = empty if kind == "chat" else {"response": ""}
        head = {"model": name, "created_at": _now(), **shown}
        return Reply({**head, "done": True, "done_reason": reason})

    async def _answer(
        self, body: AskBody, events: AsyncGenerator[Event, None], kind: Literal["chat", "generate"]
    ) -> Reply | Stream:
        if body.unloads:
            self._runner.models.release(body.model)
        writer = _LineWriter(kind, shows_logprobs=bool(body.logprobs))
        if body.stream:
            return ollama_stream(_lines(events, writer))
        async with aclosing(events):
            async for event in events:
                writer.push(event)
        return Reply(writer.last(writer.rest()))


async def _lines(
    events: AsyncGenerator[Event, None], writer: _LineWriter
) -> AsyncGenerator[bytes, None]:
    async with aclosing(events):
        async for event in events:
            writer.push(event)
            if isinstance(event, Delta) and (shown := writer.rest()):
                yield line(writer.object(shown))
    yield line(writer.last(writer.rest()))


@dataclass
class _LineWriter:
    """Gathers deltas until they are shown. A call is shown whole, with its arguments as object."""

    kind: Literal["chat", "generate"]
    shows_logprobs: bool
    model: str = ""
    started_s: float = field(default_factory=time.monotonic)
    waiting: list[PartDelta] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    reason: str = "stop"
    usage: Usage = field(default_factory=lambda: Usage(0, 0))
    call: list[PartDelta] = field(default_factory=list)
    last_part: dict[str, int] = field(default_factory=dict)
    num_calls: int = 0

    def push(self, event: Event) -> None:
        if isinstance(event, Started):
            self.model = event.model
        elif isinstance(event, Delta):
            self.waiting.append(event.part)
            self.logprobs += event.logprobs
        elif isinstance(event, Finished):
            self.reason = "stop" if event.reason == "tool_calls" else event.reason
        elif isinstance(event, Usage):
            self.usage = event

    def rest(self) -> dict[str, Any]:
        """What has come and was not shown; calls only once they are whole."""
        texts, calls = {"text": "", "reasoning": ""}, []
        deltas, self.waiting = self.waiting, []
        for part in deltas:
            if self.call and self.call[0].part != part.part:
                calls.append(self._whole_call())
            if part.kind == "tool_call":
                self.call.append(part)
                continue
            before = self.last_part.get(part.kind)
            if part.text:
                self.last_part[part.kind] = part.part
                gap = "" if before in (None, part.part) else "\n\n"
                texts[part.kind] += gap + part.text
        return self._shown(texts, calls)

    def last(self, shown: dict[str, Any]) -> dict[str, Any]:
        """The object that ends the answer, with counts and times in nanoseconds."""
        if self.call:
            shown.setdefault("tool_calls", []).append(self._whole_call())
        usage, total_s = self.usage, time.monotonic() - self.started_s
        return {
            **self.object(shown),
            "done": True,
            "done_reason": self.reason,
            "total_duration": int(total_s * NS),
            "load_duration": 0,
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": int((usage.prompt_s or 0) * NS),
            "eval_count": usage.completion_tokens,
            "eval_duration": int((usage.completion_s or 0) * NS),
        }

    def object(self, shown: dict[str, Any]) -> dict[str, Any]:
        head: dict[str, Any] = {"model": self.model, "created_at": _now()}
        logprobs = shown.pop("logprobs", None)
        text = shown.pop("text", "")
        if self.kind == "chat":
            head["message"] = {"role": "assistant", "content": text, **shown}
        else:
            head |= {"response": text, **shown}
        if logprobs:
            head["logprobs"] = logprobs
        return {**head, "done": False}

    def _shown(self, texts: dict[str, str], calls: list[dict[str, Any]]) -> dict[str, Any]:
        shown: dict[str, Any] = {}
        if texts["text"]:
            shown["text"] = texts["text"]
        if texts["reasoning"]:
            shown["thinking"] = texts["reasoning"]
        if calls:
            shown["tool_calls"] = calls
        if self.shows_logprobs and self.logprobs:
            shown["logprobs"] = [_logprob(entry) for entry in self.logprobs]
        self.logprobs = []
        return shown

    def _whole_call(self) -> dict[str, Any]:
        from_text = "".join(part.text for part in self.call)
        first, self.call = self.call[0], []
        call = Part("tool_call", from_text, first.id, first.name)
        function = {"index": self.num_calls, "name": call.name, "arguments": call.arguments or {}}
        self.num_calls += 1
        return {"id": call.id, "function": function}


def _logprob(entry: TokenLogprob) -> dict[str, Any]:
    top = [_token(piece, logprob) for _, piece, logprob in entry.top]
    return {**_token(entry.piece, entry.logprob), "top_logprobs": top}


def _token(piece: bytes, logprob: float) -> dict[str, Any]:
    text = piece.decode("utf-8", "replace")
    return {"token": text, "logprob": finite(logprob), "bytes": list(piece)}


def _refuse_cuts(body: EmbedBody, *, lenient: bool) -> None:
    """A text that is too long is refused, never cut: truncate true is Ollama's default and asks
    for nothing else."""
    if body.dimensions is not None and not lenient:
        raise ParameterError(
            "{param} is not supported here; leave it out.",
            param="dimensions",
            code="unsupported_parameter",
        )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z")
