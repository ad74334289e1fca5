"""The door: what every request passes before a route sees it, and what is written down after.

In this order: the name it is called by, the page it comes from, whether the server is stopping, its
key, its limits. Logs hold numbers and names, never a prompt, an answer or a key.
"""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
import time
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bobot.errors import BobotError
from bobot.server import hosts
from bobot.server.calls import ANTHROPIC, BUSY_S, Call, face_of
from bobot.server.drain import Inflight
from bobot.server.failures import DoorError, failure_of
from bobot.server.keys import Key, KeyStore
from bobot.server.metrics import Metrics
from bobot.server.rates import Rates
from bobot.server.settings import Settings
from bobot.server.wire import encode

requests_log = logging.getLogger("bobot.server.requests")

OPEN_PATHS = frozenset({"/health", "/v1/health", "/", "/app", "/app/"})
"""Answered without a key; they tell nothing about the models."""

PRIVATE_HEADER = "x-bobot-private"
"""true: the request is not sent to a hosted model; `private` in a body says the same."""

SAFE_HEADERS = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}
_BEARER = re.compile(r"^bearer\s+", re.IGNORECASE)
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")


@dataclass
class _Passage:
    """One request on its way through."""

    call: Call
    started_s: float
    headers: dict[str, str]
    """Added to the answer, whatever it is."""
    status: int = 0


class Door:
    """ASGI middleware around all routes."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: Settings,
        keys: KeyStore,
        rates: Rates,
        inflight: Inflight,
        metrics: Metrics,
        open_prefixes: tuple[str, ...] = (),
    ) -> None:
        """`open_prefixes`: paths, such as a page's files, that need no key."""
        self._app = app
        self._settings = settings
        self._keys = keys
        self._rates = rates
        self._inflight = inflight
        self._metrics = metrics
        self._open_prefixes = open_prefixes
        self._names = hosts.own_names() | {name.lower() for name in settings.allowed_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        passage = _Passage(_call(scope, headers), time.monotonic(), dict(SAFE_HEADERS))
        name = "request-id" if face_of(passage.call.path) is ANTHROPIC else "x-request-id"
        passage.headers[name] = passage.call.request_id

        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                passage.status = message["status"]
                added = [(k.encode(), v.encode("latin-1")) for k, v in passage.headers.items()]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        try:
            self._check_size(headers)
            if scope["method"] == "OPTIONS" and self._settings.is_llama:
                # As llama-server: a page that may not call sees no header that lets it.
                with contextlib.suppress(DoorError):
                    self._check_place(passage, headers)
                await _send(dressed, 200, b"", {})
                return
            self._check_place(passage, headers)
            if scope["method"] == "OPTIONS":
                await _send(dressed, 204, b"", {})
                return
            self._check_caller(passage, headers)
            passage.call.is_private = _is_private(headers)
            scope.setdefault("state", {})["call"] = passage.call
            await self._app(scope, receive, dressed)
        except BobotError as error:
            failure = failure_of(error)
            face = face_of(passage.call.path, is_llama=self._settings.is_llama)
            reply = face.reply(failure, passage.call.request_id)
            await _send(dressed, reply.status, encode(reply.content), reply.headers)
        finally:
            self._note(scope["method"], passage)

    def _check_size(self, headers: Headers) -> None:
        """uvicorn limits a head only while parts of it are missing."""
        limit = self._settings.max_head_bytes
        if sum(len(name) + len(value) for name, value in headers.raw) > limit:
            raise DoorError(
                "The headers have more than {limit} bytes.",
                status=431,
                code="headers_too_large",
                limit=limit,
            )

    def _check_place(self, passage: _Passage, headers: Headers) -> None:
        """The name the server is called by, and the page that calls."""
        host, origin = headers.get("host"), headers.get("origin")
        hosts.check_host(host, self._names)
        hosts.check_origin(origin, host, self._settings.allowed_origins)
        passage.headers |= hosts.cors_headers(origin, headers)

    def _check_caller(self, passage: _Passage, headers: Headers) -> None:
        """Whether the server takes requests, the key, and its limits."""
        if self._inflight.is_draining:
            passage.headers["connection"] = "close"
            raise DoorError(
                "The server is stopping.", status=503, code="stopping", retry_after_s=BUSY_S
            )
        path = passage.call.path
        if path in OPEN_PATHS or path.startswith(self._open_prefixes or "\0"):
            return
        key = passage.call.key = self._key_of(headers)
        if key is not None:
            passage.headers |= self._rates.enter(key)

    def _key_of(self, headers: Headers) -> Key | None:
        """The key of the request, in either header: Anthropic's clients send one, the other, or
        both. DoorError 401 where one is needed and this is none. Where none is needed any text
        passes: many clients insist on sending one.
        """
        given = [headers.get(name, "") for name in ("authorization", "x-api-key")]
        texts = [text for value in given if (text := _BEARER.sub("", value).strip())]
        key = next(filter(None, map(self._keys.find, texts)), None)
        if key is None and self._settings.needs_key:
            raise DoorError(
                "This server needs a key, as Authorization: Bearer KEY; the one given is"
                " {found}. bobot keys makes one.",
                status=401,
                code="invalid_api_key",
                found="not valid" if texts else "missing",
            )
        return key

    def _note(self, method: str, passage: _Passage) -> None:
        call, took_s = passage.call, time.monotonic() - passage.started_s
        self._metrics.requests.labels(call.label, str(passage.status)).inc()
        self._metrics.request_s.labels(call.label).observe(took_s)
        account = call.account
        first_s = account.first_token_s
        requests_log.info(
            "request",
            extra={
                "facts": {
                    "request_id": call.request_id,
                    "method": method,
                    "path": call.label if call.label != "other" else call.path,
                    "status": passage.status,
                    "seconds": round(took_s, 4),
                    "key": call.key.name if call.key else None,
                    "asked": account.asked or None,
                    "model": account.model or None,
                    "prompt_tokens": account.prompt_tokens,
                    "cached_tokens": account.cached_tokens,
                    "completion_tokens": account.completion_tokens,
                    "first_token_seconds": None if first_s is None else round(first_s, 4),
                }
            },
        )


def _is_private(headers: Headers) -> bool:
    """DoorError 400 for a value that is neither true nor false: a guess could send it away."""
    given = headers.get(PRIVATE_HEADER, "false").strip().lower()
    if given not in ("true", "false"):
        raise DoorError(
            "{header} is {found!r}; allowed: true, false.",
            status=400,
            code="invalid_value",
            header=PRIVATE_HEADER,
            found=given,
        )
    return given == "true"


def _call(scope: Scope, headers: Headers) -> Call:
    given = headers.get("x-request-id", "")
    is_fine = _REQUEST_ID.fullmatch(given)
    query = dict(
        part.split("=", 1) if "=" in part else (part, "")
        for part in scope["query_string"].decode("latin-1").split("&")
        if part
    )
    return Call(
        path=scope["path"],
        headers=headers,
        params={},
        query=query,
        request_id=given if is_fine else f"req_{secrets.token_hex(12)}",
        key=None,
    )


async def _send(send: Send, status: int, content: bytes, headers: dict[str, str] | object) -> None:
    pairs = dict(headers)  # type: ignore[call-overload]
    pairs = {"content-type": "application/json", "content-length": str(len(content)), **pairs}
    raw = [(name.encode(), value.encode("latin-1")) for name, value in pairs.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": content})
