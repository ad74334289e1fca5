"""Text of a model or a file, made safe for a terminal: without the characters that command it."""

from __future__ import annotations

_CONTROLS = [*range(0x20), *range(0x7F, 0xA0)]
_REORDERING = [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]  # what follows, seen backwards
_REMOVED = dict.fromkeys(_CONTROLS + _REORDERING)
for _kept in "\n\t":
    del _REMOVED[ord(_kept)]


def sanitize(text: str) -> str:
    """`text` without control characters; newline and tab stay. An escape sequence becomes inert
    letters. Characters that turn the direction of a line go too; letters of a script that is
    written from right to left keep theirs.
    """
    return text.translate(_REMOVED)
