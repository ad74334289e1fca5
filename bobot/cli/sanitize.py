"""Text of a model or a file, made safe for a terminal: without the characters that command it."""

from __future__ import annotations

_REMOVED = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)])
for _kept in "\n\t":
    del _REMOVED[ord(_kept)]


def sanitize(text: str) -> str:
    """`text` without control characters; newline and tab stay. An escape sequence becomes inert
    letters.
    """
    return text.translate(_REMOVED)
