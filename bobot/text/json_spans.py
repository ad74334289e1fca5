"""Where the values of a JSON object lie in its text, without changing a letter of them.

Unlike json.loads this reads text that is cut off or nested without end, keeps 1.50 as 1.50, and
checks nothing inside a value.
"""

from __future__ import annotations

import json
import re

_OUTSIDE = re.compile(r'["{}\[\]]')
_INSIDE = re.compile(r'["\\]')
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_SCALAR = re.compile(r'[^\s,{}\[\]":]+')
_SPACE = re.compile(r"\s*")


class ValueEnd:
    """Finds the end of an object or list that comes bit by bit.

    push(text) gives the place in `text` behind the closing bracket; None while the value is open.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._is_string = False
        self._skips = 0

    def push(self, text: str, start: int = 0) -> int | None:
        place, self._skips = start + self._skips, 0
        while match := (_INSIDE if self._is_string else _OUTSIDE).search(text, place):
            place = match.end()
            if match[0] == '"':
                self._is_string = not self._is_string
            elif match[0] == "\\":
                place += 1
            else:
                self._depth += 1 if match[0] in "{[" else -1
                if self._depth <= 0:
                    return place
        self._skips = max(0, place - len(text))  # an escaped character still to come
        return None


def members(text: str) -> dict[str, str]:
    """Key -> the value's own text, for the object that `text` begins with.

    Where the text is cut off or is no JSON, what was found before; a value that is cut off goes to
    the end of the text.

    >>> members('{"name": "f", "arguments": {"x": 1.50')
    {'name': '"f"', 'arguments': '{"x": 1.50'}
    """
    found: dict[str, str] = {}
    place = _skip(text, 0)
    if text[place : place + 1] != "{":
        return found
    while key := _STRING.match(text, _skip(text, place + 1)):
        place = _skip(text, key.end())
        if text[place : place + 1] != ":":
            break
        start = _skip(text, place + 1)
        end = _value_end(text, start)
        found[string_of(key[0]) or ""] = text[start:end]
        place = _skip(text, end)
        if text[place : place + 1] != ",":
            break
    return found


def string_of(text: str) -> str | None:
    """The string that this JSON text is; None when it is something else."""
    try:
        value = json.loads(text) if text.startswith('"') else None
    except ValueError:
        return None
    return value if isinstance(value, str) else None


def _skip(text: str, place: int) -> int:
    match = _SPACE.match(text, place)
    return match.end() if match else place


def _value_end(text: str, start: int) -> int:
    """Where the value at `start` ends; the end of the text when it is cut off."""
    if text[start : start + 1] in ("{", "["):
        end = ValueEnd().push(text, start)
        return len(text) if end is None else end
    pattern = _STRING if text[start : start + 1] == '"' else _SCALAR
    match = pattern.match(text, start)
    return match.end() if match else len(text)
