"""A model hub on this machine's loopback: the addresses, headers and refusals of huggingface.co,
with large files on a storage host of their own (another port), and faults on demand.

    hub.add("org/name", {"config.json": b"{}", "model.safetensors": b"..."})
    hub.faults["model.safetensors"] = [Cut(1000), Status(500)]     # for its next two answers
    hub.requests                                                   # what was asked, in order
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import unquote, urlsplit


class Request(NamedTuple):
    host: str
    method: str
    path: str
    headers: Mapping[str, str]

    @property
    def range(self) -> str | None:
        return self.headers.get("Range")


@dataclass
class Cut:
    """The connection ends after so many bytes of the body."""

    after: int


@dataclass
class Hold:
    """After so many bytes nothing comes any more, until `release` is set; `reached` says when."""

    after: int
    reached: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)


@dataclass
class Status:
    code: int
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Body:
    """Another content than the digest in the listing promises, or one that ignores the range."""

    content: bytes | None = None


@dataclass
class Slow:
    """About so many bytes a second; for people who want to look at the progress bar."""

    bytes_per_s: float


Fault = Cut | Hold | Status | Body | Slow


@dataclass
class Repository:
    files: dict[str, bytes]
    commit: str
    licence: str | None = None
    is_gated: bool = False


class FakeHub:
    """Both hosts and what they hold; use it as `with running_hub() as hub`."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.faults: defaultdict[str, list[Fault]] = defaultdict(list)
        self.requests: list[Request] = []
        self.token: str | None = None
        self.extra_siblings: list[dict] = []
        self.redirects = True
        self.lock = threading.Lock()
        self.hub = _serve(self, "hub")
        self.storage = _serve(self, "storage")

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.hub.server_port}"

    def add(self, name: str, files: dict[str, bytes], **options: object) -> Repository:
        digest = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.repositories[name] = Repository(files, digest, **options)  # type: ignore[arg-type]
        return self.repositories[name]

    def downloads(self, name: str) -> list[Request]:
        """The requests for the content of a file that reached the host that has it."""
        return [r for r in self.requests if r.method == "GET" and r.path.endswith("/" + name)]

    def next_fault(self, name: str) -> Fault | None:
        with self.lock:
            return self.faults[name].pop(0) if self.faults[name] else None


@contextmanager
def running_hub() -> Iterator[FakeHub]:
    hub = FakeHub()
    try:
        yield hub
    finally:
        for server in (hub.hub, hub.storage):
            server.shutdown()
            server.server_close()


class _QuietServer(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that was killed is what some tests are about."""


def _serve(hub: FakeHub, host: str) -> ThreadingHTTPServer:
    handler = type("Handler", (_Handler,), {"fake": hub, "host": host})
    server = _QuietServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.block_on_close = False
    threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02), daemon=True).start()
    return server


def is_large(name: str) -> bool:
    return name.endswith((".safetensors", ".gguf", ".bin", ".pth")) or "/tensor" in name


def etag_of(name: str, content: bytes) -> str:
    if is_large(name):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: FakeHub
    host: str

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        with self.fake.lock:
            self.fake.requests.append(
                Request(self.host, self.command, path, dict(self.headers.items()))
            )
        try:
            if self.host == "storage":
                repository, name = path.removeprefix("/store/").split("/file/")
                self._content(name, self.fake.repositories[repository].files[name], {})
            elif path.startswith("/api/models/"):
                self._listing(path)
            elif "/resolve/" in path:
                self._resolve(path)
            else:
                self._refuse(404)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _listing(self, path: str) -> None:
        name, _, revision = path.removeprefix("/api/models/").partition("/revision/")
        fault = self.fake.next_fault("listing")
        if isinstance(fault, Status):
            return self._refuse(fault.code, fault.headers)
        if isinstance(fault, Body):
            return self._send(200, fault.content or b"", {})
        if (repository := self._repository(name, revision)) is None:
            return None
        siblings = [_sibling(*item) for item in repository.files.items()]
        answer = {
            "id": name,
            "sha": repository.commit,
            "gated": "manual" if repository.is_gated else False,
            "cardData": {"license": repository.licence} if repository.licence else None,
            "siblings": siblings + self.fake.extra_siblings,
        }
        return self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _repository(self, name: str, revision: str) -> Repository | None:
        """The repository, or None when a refusal was sent."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and self.fake.token and token != self.fake.token and token != "no-access":
            reason = "Invalid credentials in Authorization header"
            self._refuse(401, {"X-Error-Message": reason})
        elif name not in self.fake.repositories:
            self._refuse(404 if token else 401, {"X-Error-Code": "RepoNotFound"})
        elif revision not in ("main", self.fake.repositories[name].commit):
            self._refuse(404, {"X-Error-Code": "RevisionNotFound"})
        else:
            return self.fake.repositories[name]
        return None

    def _resolve(self, path: str) -> None:
        name, _, rest = path.removeprefix("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        if (repository := self._repository(name, revision)) is None:
            return None
        if repository.is_gated and self.headers.get("Authorization") != f"Bearer {self.fake.token}":
            code = 403 if self.headers.get("Authorization") else 401
            return self._refuse(code, {"X-Error-Code": "GatedRepo"})
        if file not in repository.files:
            return self._refuse(404, {"X-Error-Code": "EntryNotFound"})
        content = repository.files[file]
        etag = etag_of(file, content)
        headers = {"X-Repo-Commit": repository.commit, "ETag": f'"{etag}"'}
        if not is_large(file) or not self.fake.redirects:
            return self._content(file, content, headers)
        headers |= {
            "X-Linked-Etag": f'"{etag}"',
            "X-Linked-Size": str(len(content)),
            "Location": f"http://127.0.0.1:{self.fake.storage.server_port}/store/{name}/file/{file}",
        }
        return self._send(302, b"", headers)

    def _content(self, name: str, content: bytes, headers: dict[str, str]) -> None:
        fault = self.fake.next_fault(name) if self.command == "GET" else None
        if isinstance(fault, Status):
            return self._refuse(fault.code, fault.headers)
        start, stop = 0, len(content)
        wanted = self.headers.get("Range")
        if isinstance(fault, Body):
            content = content if fault.content is None else fault.content
            stop = len(content)
        elif wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(len(content), int(last or len(content)) + 1)
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
        code = 206 if "Content-Range" in headers else 200
        return self._send(code, content[start:stop], headers, fault)

    def _send(
        self, code: int, body: bytes, headers: Mapping[str, str], fault: Fault | None = None
    ) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if isinstance(fault, Cut):
            self.wfile.write(body[: fault.after])
            self.close_connection = True
        elif isinstance(fault, Hold):
            self.wfile.write(body[: fault.after])
            self.wfile.flush()
            fault.reached.set()
            fault.release.wait(30)
            self.wfile.write(body[fault.after :])
        elif isinstance(fault, Slow):
            self._send_slowly(body, fault.bytes_per_s / 20)
        else:
            self.wfile.write(body)

    def _send_slowly(self, body: bytes, step: float) -> None:
        for start in range(0, len(body), int(step)):
            self.wfile.write(body[start : start + int(step)])
            threading.Event().wait(0.05)

    def _refuse(self, code: int, headers: Mapping[str, str] | None = None) -> None:
        self._send(code, b"", headers or {})


def _sibling(name: str, content: bytes) -> dict:
    oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    sibling = {"rfilename": name, "size": len(content), "blobId": oid}
    if is_large(name):
        digest = hashlib.sha256(content).hexdigest()
        sibling["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
    return sibling
