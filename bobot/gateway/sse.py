"""Server-sent events out of bytes, within limits: a host may be hostile, or not what it seems.

Only the data is kept: every host repeats the name of an event inside it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

MAX_EVENT_BYTES = 8 << 20
MAX_ANSWER_BYTES = 64 << 20


class TooLarge(Exception):
    """An event or an answer beyond the limits."""


async def events(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The data of each event; one that was cut off is none, as the standard says."""
    data: list[bytes] = []
    async for line in _lines(chunks):
        if not line:
            if data:
                yield b"\n".join(data)
            data = []
        elif line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
            if sum(map(len, data)) > MAX_EVENT_BYTES:
                raise TooLarge


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Lines without their end, which is LF, CR LF or CR, and may be cut anywhere."""
    open_line, total, after_cr = bytearray(), 0, False
    async for chunk in chunks:
        total += len(chunk)
        if total > MAX_ANSWER_BYTES:
            raise TooLarge
        if after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        after_cr = chunk.endswith(b"\r") or (after_cr and not chunk)
        open_line += chunk
        if b"\n" not in chunk and b"\r" not in chunk:
            if len(open_line) > MAX_EVENT_BYTES:
                raise TooLarge
            continue
        whole = bytes(open_line).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = whole.split(b"\n")
        open_line = bytearray(rest)
        for line in lines:
            yield line
    if open_line:
        yield bytes(open_line)


async def whole(chunks: AsyncIterator[bytes], limit: int = MAX_ANSWER_BYTES) -> bytes:
    """All bytes of an answer; raises TooLarge beyond `limit`."""
    content = bytearray()
    async for chunk in chunks:
        content += chunk
        if len(content) > limit:
            raise TooLarge
    return bytes(content)
