"""Answers that go on without their reader: a page that is closed or loaded again finds its answer
in the store, or takes it up where it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from bobot.chat.answer_writer import AnswerWriter
from bobot.chat.protocol import ChatRequest, Delta, Event, Finished, Started, TokenLogprob, Usage
from bobot.chat.store import Store
from bobot.errors import NotFoundError
from bobot.server.calls import Call
from bobot.server.drain import Inflight
from bobot.server.failures import failure_of, openai_error
from bobot.server.openai_chat_answer import finite
from bobot.server.page_bodies import message_object
from bobot.server.running import Runner
from bobot.server.wire import sse

log = logging.getLogger("bobot.server")

STOPPED = "stopped"
"""finish_reason of an answer that its reader ended."""


@dataclass
class LiveAnswer:
    """One answer while it comes: its frames so far, and who waits for more."""

    conversation: str
    message: int
    frames: list[bytes] = field(default_factory=list)
    is_over: bool = False
    task: asyncio.Task[None] | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def send(self, kind: str, **values: Any) -> None:
        self.frames.append(sse({"type": kind, **values}))
        self._tell()

    def end(self) -> None:
        self.is_over = True
        self._tell()

    def _tell(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    async def follow(self) -> AsyncGenerator[bytes, None]:
        """All frames from the first, then each as it comes."""
        place = 0
        while True:
            changed, is_over = self.changed, self.is_over
            if place < len(self.frames):
                frames, place = self.frames[place:], len(self.frames)
                yield b"".join(frames)
            elif is_over:
                return
            else:
                await changed.wait()


@dataclass
class _Gathered:
    """What finish() writes beside the text."""

    has_text: bool = False
    model: str | None = None
    usage: dict[str, Any] | None = None
    reason: str = STOPPED
    tokens: list[Any] = field(default_factory=list)


class LiveAnswers:
    """Every answer of the page that is under way."""

    def __init__(self, runner: Runner, inflight: Inflight) -> None:
        self._runner = runner
        self._inflight = inflight
        self._live: dict[tuple[str, int], LiveAnswer] = {}

    def running(self, conversation: str) -> list[int]:
        return [message for place, message in self._live if place == conversation]

    def find(self, conversation: str, message: int) -> LiveAnswer:
        """Raises NotFoundError for one that is over."""
        live = self._live.get((conversation, message))
        if live is None:
            raise NotFoundError("no answer {id} is under way.", id=message)
        return live

    def start(
        self,
        call: Call,
        store: Store,
        writer: AnswerWriter,
        model: str | None,
        request: ChatRequest,
        conversation: str,
    ) -> LiveAnswer:
        """Begins the answer that `writer` keeps."""
        live = LiveAnswer(conversation, writer.id)
        self._live[conversation, writer.id] = live
        live.task = asyncio.ensure_future(self._run(live, call, store, writer, model, request))
        return live

    async def stop(self, conversation: str, message: int) -> None:
        """Returns when what was written is in the store."""
        live = self.find(conversation, message)
        if live.task is not None:
            live.task.cancel()
            await asyncio.wait([live.task])

    async def stop_all(self, conversation: str) -> None:
        for message in self.running(conversation):
            await self.stop(conversation, message)

    async def _run(
        self,
        live: LiveAnswer,
        call: Call,
        store: Store,
        writer: AnswerWriter,
        model: str | None,
        request: ChatRequest,
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        found = _Gathered()
        failure: dict[str, Any] | None = None
        with self._inflight.holding(task, lambda: None):
            try:
                events = self._runner.run(call, model, request)
                async with contextlib.aclosing(events):
                    async for event in events:
                        await _take(live, writer, found, event)
            except asyncio.CancelledError:
                log.info("%s: answer %d was stopped", live.conversation, live.message)
            except Exception as error:
                failed = failure_of(error)
                if failed.status == 500:
                    log.error(
                        "%s: answer %d failed", live.conversation, live.message, exc_info=error
                    )
                failure = openai_error(failed)["error"]
                found.reason = "error"
            try:
                await _keep(live, store, writer, found, failure)
            finally:
                del self._live[live.conversation, live.message]
                live.end()


async def _take(live: LiveAnswer, writer: AnswerWriter, found: _Gathered, event: Event) -> None:
    if isinstance(event, Started):
        found.model = event.model
        prompt = None if event.prompt_ids is None else len(event.prompt_ids)
        live.send("started", model=event.model, prompt_tokens=prompt)
    elif isinstance(event, Delta):
        tokens = [_token(entry) for entry in event.logprobs]
        found.tokens += tokens
        kind, text = event.part.kind, event.part.text
        # A call of a tool that nobody offered is shown as it came.
        name = "reasoning" if kind == "reasoning" else "text"
        more = {"tokens": tokens} if tokens else {}
        if text or tokens:
            live.send(name, text=text, num=max(1, len(event.token_ids)), **more)
        if text:
            found.has_text = True
            await _push(writer, **{name: text})
    elif isinstance(event, Finished):
        found.reason = event.reason
    elif isinstance(event, Usage):
        found.usage = dataclasses.asdict(event)


async def _push(writer: AnswerWriter, **more: str) -> None:
    """What was told is stored, too: a stop meanwhile is raised when it is written."""
    pushing = asyncio.ensure_future(asyncio.to_thread(writer.push, **more))
    try:
        await asyncio.shield(pushing)
    except asyncio.CancelledError:
        await asyncio.wait([pushing])
        raise


async def _keep(
    live: LiveAnswer,
    store: Store,
    writer: AnswerWriter,
    found: _Gathered,
    failure: dict[str, Any] | None,
) -> None:
    """The end of the answer goes into the store; without a word there is no answer."""
    if not found.has_text and found.reason in (STOPPED, "error"):
        await asyncio.to_thread(writer.drop)
        live.send("dropped")
    else:
        extra = {"tokens": found.tokens} if found.tokens else {}
        fields = {"usage": found.usage, "finish_reason": found.reason, "extra": extra}
        if found.model is not None:
            fields["model"] = found.model
        await asyncio.to_thread(writer.finish, **fields)
        message = await asyncio.to_thread(store.message, live.message)
        live.send("done", message=message_object(message))
    if failure is not None:
        live.send("error", error=failure)


def _token(entry: TokenLogprob) -> list[Any]:
    top = [[_text(piece), finite(logprob)] for _, piece, logprob in entry.top]
    return [_text(entry.piece), finite(entry.logprob), top]


def _text(piece: bytes) -> str:
    return piece.decode("utf-8", "replace")
