"""The files of the page, and the headers that keep foreign scripts out of it."""

from __future__ import annotations

import mimetypes
from pathlib import Path

from bobot.server.calls import Call, Reply
from bobot.server.failures import DoorError

WEB = Path(__file__).with_name("web")
FILES = "/app/web/"
"""Where the files stand; they need no key and hold nothing of the user."""
PAGE = "/app/"

HEADERS = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none';"
        " form-action 'none'; frame-ancestors 'none'"
    ),
    "cache-control": "no-cache",
    "cross-origin-opener-policy": "same-origin",
}
TYPES = {".js": "text/javascript", ".woff2": "font/woff2", ".svg": "image/svg+xml"}


async def page(call: Call) -> Reply:
    return _file(WEB / "index.html")


async def file(call: Call) -> Reply:
    """One file of the page; DoorError 404 for any other path."""
    path = (WEB / call.params["path"]).resolve()
    if WEB not in path.parents or not path.is_file():
        raise DoorError(
            "The page has no file {name!r}.",
            status=404,
            code="not_found",
            name=call.params["path"],
        )
    return _file(path)


async def to_page(call: Call) -> Reply:
    return Reply(b"", 307, {"location": PAGE, "content-type": "text/plain"})


def _file(path: Path) -> Reply:
    kind = TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "text/plain"
    text = "; charset=utf-8" if kind.startswith("text/") else ""
    return Reply(path.read_bytes(), headers={**HEADERS, "content-type": kind + text})
