"""A host of models on this machine's loopback that speaks one of the four wire formats, written
from the hosts' public API references, with faults on demand.

    with running_host("anthropic", [("text", "halo")]) as host:
        host.faults = [Refuse(529, {...}), Cut(after=2)]     # for its next answers
        host.requests                                        # what was asked, in order

A body with a field that the API does not know is refused, as the real ones do.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from fake_events import KEY, embeddings
from fake_openai import OpenAI, Responses
from fake_others import Anthropic, Gemini

__all__ = ["KEY", "WIRES", "Cut", "End", "FakeHost", "Hold", "Insert", "Refuse", "running_host"]

WIRES: dict[str, Any] = {
    "openai": OpenAI,
    "openai-responses": Responses,
    "anthropic": Anthropic,
    "gemini": Gemini,
}

Part = tuple[str, ...]
"""("text", TEXT), ("reasoning", TEXT) or ("tool_call", ID, NAME, ARGUMENTS)"""


class Request(NamedTuple):
    path: str
    headers: Mapping[str, str]
    body: Any


@dataclass
class Refuse:
    """An answer with this status instead."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Cut:
    """The connection ends after so many events."""

    after: int


@dataclass
class End:
    """The stream ends properly after so many events, as if that were all."""

    after: int


@dataclass
class Insert:
    """So many events, then these bytes, then the rest."""

    after: int
    content: bytes


@dataclass
class Hold:
    """After so many events nothing comes any more, until `release` is set."""

    after: int
    release: threading.Event = field(default_factory=threading.Event)


Fault = Refuse | Cut | End | Insert | Hold


@dataclass
class Usage:
    prompt: int = 40
    completion: int = 12
    cached: int = 8
    reasoning: int = 5


class FakeHost:
    def __init__(self, wire: str, parts: Sequence[Part], reason: str = "stop") -> None:
        self.wire = wire
        self.parts = list(parts)
        self.reason = reason
        """stop, length or content_filter."""
        self.stop_sequence: str | None = None
        self.usage = Usage()
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.whole = False
        """Answers without a stream, whatever was asked."""
        self.addresses: list[Any] = []
        """Of the client, for each request: equal ones came over one connection."""
        self.never_ends = False
        """Streams stay open after their last event."""
        self.gone = threading.Event()
        """Set when a client has hung up in the middle of an answer."""
        host = self
        self.server = _Server(("127.0.0.1", 0), type("H", (_Handler,), {"host": host}))
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    @property
    def base_url(self) -> str:
        """What stands in hosts.toml; the same ending as that of the real host."""
        return self.root + {"anthropic": "", "gemini": "/v1beta"}.get(self.wire, "/v1")


@contextmanager
def running_host(wire: str, parts: Sequence[Part], reason: str = "stop") -> Iterator[FakeHost]:
    host = FakeHost(wire, parts, reason)
    try:
        yield host
    finally:
        for fault in host.faults:
            if isinstance(fault, Hold):
                fault.release.set()
        host.server.shutdown()
        host.server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that hung up is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    host: FakeHost

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"null")
        host = self.host
        headers = {name.lower(): value for name, value in self.headers.items()}
        host.requests.append(Request(self.path, headers, body))
        host.addresses.append(self.client_address)
        fault = host.faults.pop(0) if host.faults else None
        if isinstance(fault, Refuse):
            return self._json(fault.status, fault.body, fault.headers)
        wire = WIRES[host.wire]
        if problem := wire.problem(urlsplit(self.path).path, headers, body):
            return self._json(problem[0], wire.error(*problem))
        if host.wire == "openai" and self.path.endswith("/embeddings"):
            return self._json(200, embeddings(body))
        is_stream = body.get("stream") or "streamGenerateContent" in self.path
        if host.whole or not is_stream:
            return self._json(200, wire.whole(host, body))
        return self._stream(wire.events(host, body), fault)

    def _json(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        given = {"Content-Type": "application/json", "Content-Length": str(len(content))}
        for name, value in {**given, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _stream(self, events: list[bytes], fault: Fault | None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for number, event in enumerate(events):
                if fault is not None and number == fault.after:  # type: ignore[union-attr]
                    if isinstance(fault, Cut):
                        self.close_connection = True
                        return
                    if isinstance(fault, End):
                        break
                    if isinstance(fault, Insert):
                        self._chunk(fault.content)
                    if isinstance(fault, Hold):
                        self._hold(fault)
                # in two pieces: an event may be cut anywhere
                middle = len(event) // 2
                self._chunk(event[:middle])
                self._chunk(event[middle:])
            while self.host.never_ends:
                self._chunk(b": ping\n\n")
                time.sleep(0.02)
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.host.gone.set()
            self.close_connection = True

    def _hold(self, fault: Hold) -> None:
        """Pings until the client is gone, so that its going is noticed."""
        while not fault.release.is_set():
            self._chunk(b": ping\n\n")
            time.sleep(0.02)

    def _chunk(self, content: bytes) -> None:
        if content:
            self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
            self.wfile.flush()
