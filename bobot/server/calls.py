"""One call of a route: its body in, its reply out, cancelled when the client leaves.

A route is a function from a `Call` to a `Reply`. A `Stream` begins with its first frame, so that
what is refused before it has a status of its own; an error after it is a frame like the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from bobot.chat.protocol import OverloadedError
from bobot.errors import BobotError
from bobot.server.drain import Inflight
from bobot.server.failures import (
    DoorError,
    Failure,
    anthropic_error,
    anthropic_status,
    failure_of,
    llama_error,
    ollama_error,
    openai_error,
)
from bobot.server.keys import Key
from bobot.server.settings import Settings
from bobot.server.wire import PING, encode, line, sse

log = logging.getLogger("bobot.server")

SSE = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
NDJSON = {"content-type": "application/x-ndjson"}
MAX_BODY_S = 30.0
"""Seconds in which a body has to arrive."""
BUSY_S = 5.0
"""After how many seconds a client may try again where nobody knows better."""


@dataclass
class Account:
    """What a call took, for the log, the metrics and the usage of its key."""

    asked: str = ""
    """The model that was asked for: a policy's name, or that of the one that answers."""
    model: str = ""
    """The one that answers."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    first_token_s: float | None = None
    """Seconds from the request to its first token."""


@dataclass
class Call:
    """A request that has passed the door."""

    path: str
    headers: Mapping[str, str]
    params: Mapping[str, Any]
    """Of the route's path."""
    query: Mapping[str, str]
    request_id: str
    key: Key | None
    is_private: bool = False
    """Asked for by a header or by the body: no hosted model sees it."""
    body: bytes = b""
    label: str = "other"
    """The route, for metrics."""
    account: Account = field(default_factory=Account)


@dataclass(frozen=True)
class Reply:
    """A whole answer; `content` becomes JSON unless it is bytes."""

    content: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Stream:
    """An answer in frames."""

    frames: AsyncGenerator[bytes, None]
    headers: Mapping[str, str]
    error_frame: Callable[[Failure], bytes]
    ping: bytes | None = PING
    """What is sent while nothing happens; None: nothing."""


Handler = Callable[[Call], Awaitable[Reply | Stream]]


@dataclass(frozen=True)
class Face:
    """How one API words its failures."""

    status: Callable[[Failure], int]
    body: Callable[[Failure, str], dict[str, Any]]

    def reply(self, failure: Failure, request_id: str) -> Reply:
        return Reply(self.body(failure, request_id), self.status(failure), failure.headers)


OPENAI = Face(lambda failure: failure.status, lambda failure, _: openai_error(failure))
ANTHROPIC = Face(anthropic_status, anthropic_error)
OLLAMA = Face(lambda failure: failure.status, lambda failure, _: ollama_error(failure))
LLAMA = Face(lambda failure: failure.status, lambda failure, _: llama_error(failure))

LLAMA_PATHS = frozenset(
    {"/completion", "/infill", "/embedding", "/apply-template", "/props", "/slots"}
    | {"/lora-adapters", "/rerank", "/reranking", "/v1/rerank", "/v1/reranking"}
)


def face_of(path: str, *, is_llama: bool = False) -> Face:
    """The API that a path belongs to; `is_llama`: llama-server's in the place of OpenAI's."""
    if path.removeprefix("/v1").startswith("/messages"):
        return ANTHROPIC
    if path.startswith("/api/"):
        return OLLAMA
    return LLAMA if is_llama or path in LLAMA_PATHS else OPENAI


def openai_stream(frames: AsyncGenerator[bytes, None]) -> Stream:
    return Stream(frames, SSE, lambda failure: sse(openai_error(failure)))


def llama_stream(frames: AsyncGenerator[bytes, None]) -> Stream:
    return Stream(frames, SSE, lambda failure: sse(llama_error(failure)))


def ollama_stream(frames: AsyncGenerator[bytes, None]) -> Stream:
    return Stream(frames, NDJSON, lambda failure: line(ollama_error(failure)), ping=None)


class Endpoint:
    """A route as ASGI application. `scope` is what a key must allow; only `is_work` counts against
    the limit of calls."""

    def __init__(
        self,
        label: str,
        handler: Handler,
        inflight: Inflight,
        settings: Settings,
        *,
        scope: str = "use",
        is_work: bool = False,
    ) -> None:
        self.label = label
        self._handler = handler
        self._inflight = inflight
        self._settings = settings
        self._scope = scope
        self._is_work = is_work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call: Call = scope["state"]["call"]
        call.params, call.label = scope.get("path_params", {}), self.label
        face = face_of(call.path, is_llama=self._settings.is_llama)
        sender = _Sender(send, face, call, self._settings.ping_s)
        try:
            self._check_scope(call)
            call.body = await asyncio.wait_for(
                read_body(receive, self._settings.max_body_bytes), MAX_BODY_S
            )
            self._check_room()
        except TimeoutError:
            await sender.fail(_slow_body())
        except BobotError as error:
            await sender.fail(error)
        else:
            await self._answer(sender, receive)

    def _check_scope(self, call: Call) -> None:
        if call.key is not None and self._scope not in call.key.scopes:
            raise DoorError(
                "The key {name!r} does not allow this; it allows: {allowed}.",
                status=403,
                code="missing_scope",
                name=call.key.name,
                allowed=", ".join(call.key.scopes) or "none",
            )

    def _check_room(self) -> None:
        """Nothing is awaited between this check and the call's being counted."""
        if self._is_work and self._inflight.is_full:
            raise OverloadedError(
                "{count} requests wait already; try again later.",
                retry_after_s=BUSY_S,
                count=self._inflight.max_calls,
            )

    async def _answer(self, sender: _Sender, receive: Receive) -> None:
        """Until it is whole, its client is gone, its time is over or the server stops."""
        answering = asyncio.ensure_future(sender.answer(self._handler))
        leaving = asyncio.ensure_future(_left(receive))
        with self._inflight.holding(answering, lambda: sender.stop(_stopping())):
            try:
                done, _ = await asyncio.wait(
                    {answering, leaving},
                    timeout=self._settings.max_answer_s,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if not done:
                    sender.stop(_took_too_long(self._settings.max_answer_s))
            finally:
                leaving.cancel()
                if not answering.done():
                    answering.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await answering


class _Sender:
    def __init__(self, send: Send, face: Face, call: Call, ping_s: float) -> None:
        self._stopped_by: DoorError | None = None
        self._send = send
        self._face = face
        self._call = call
        self._ping_s = ping_s
        self._opening = asyncio.Lock()
        self._is_silent = True
        self._error_frame: Callable[[Failure], bytes] | None = None  # set once the head is out

    async def answer(self, handler: Handler) -> None:
        try:
            reply = await handler(self._call)
            await (self._stream(reply) if isinstance(reply, Stream) else self._whole(reply))
        except asyncio.CancelledError:
            if self._stopped_by is not None:
                await self.fail(self._stopped_by)
            raise
        except Exception as error:  # noqa: BLE001  the client is told, the log has the details
            await self.fail(error)

    def stop(self, why: DoorError) -> None:
        """The answer will be cancelled, and its client told why."""
        self._stopped_by = why

    async def fail(self, error: Exception) -> None:
        failure = failure_of(error)
        if failure.status == 500:
            log.error("%s %s failed", self._call.request_id, self._call.path, exc_info=error)
        if self._error_frame is None:
            await self._whole(self._face.reply(failure, self._call.request_id))
        else:
            await self._body(self._error_frame(failure), more=False)

    async def _whole(self, reply: Reply) -> None:
        is_raw = isinstance(reply.content, bytes)
        content = reply.content if is_raw else encode(reply.content)
        headers = {"content-type": "application/json", **reply.headers}
        await self._head(reply.status, {**headers, "content-length": str(len(content))})
        await self._body(content, more=False)

    async def _stream(self, stream: Stream) -> None:
        """Sends each frame as it comes; the head goes out with the first, or with a ping when
        that takes long."""
        pinging = asyncio.ensure_future(self._keep_pinging(stream))
        try:
            async with contextlib.aclosing(stream.frames) as frames:
                async for frame in frames:
                    self._is_silent = False
                    await self._open(stream)
                    await self._body(frame, more=True)
        finally:
            pinging.cancel()
        await self._open(stream)
        await self._body(b"", more=False)

    async def _keep_pinging(self, stream: Stream) -> None:
        while stream.ping is not None:
            self._is_silent = True
            await asyncio.sleep(self._ping_s)
            if self._is_silent:
                await self._open(stream)
                await self._body(stream.ping, more=True)

    async def _open(self, stream: Stream) -> None:
        async with self._opening:
            if self._error_frame is None:
                await self._head(200, stream.headers)
                self._error_frame = stream.error_frame

    async def _head(self, status: int, headers: Mapping[str, str]) -> None:
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def _body(self, content: bytes, *, more: bool) -> None:
        await self._send({"type": "http.response.body", "body": content, "more_body": more})


def _stopping() -> DoorError:
    return DoorError("The server is stopping.", status=503, code="stopping", retry_after_s=BUSY_S)


def _took_too_long(max_s: float) -> DoorError:
    return DoorError(
        "The answer took longer than {limit:.0f} seconds.",
        status=503,
        code="timeout",
        limit=max_s,
    )


def _slow_body() -> DoorError:
    return DoorError(
        "The body did not arrive within {seconds:.0f} seconds.",
        status=408,
        code="request_timeout",
        seconds=MAX_BODY_S,
    )


async def read_body(receive: Receive, max_bytes: int) -> bytes:
    """The whole body. DoorError for one that is too large; a client that leaves has sent ""."""
    chunks, size = [], 0
    while True:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            return b""
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > max_bytes:
            raise DoorError(
                "The body has more than {limit} bytes.",
                status=413,
                code="request_too_large",
                limit=max_bytes,
            )
        if not message.get("more_body", False):
            return b"".join(chunks)


async def _left(receive: Receive) -> None:
    """Returns when the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
