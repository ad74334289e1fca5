"""Keeps text inside a conversation that looks like a special token from becoming one.

A template mixes its own special tokens with what people wrote. Before rendering, `protect` puts
one unused character (a mark) inside every special token that stands in a message; the template
passes it through; the marked name no longer equals a special token; `restore` takes the marks out
again before the text is encoded. A part of a name at the edge of a message is marked as well, so
that it can't be completed by what the template puts beside it.

Limits: a template whose logic searches messages for a special token does not see it there. A
template that computes text out of a message character by character could take the mark apart from
the name. Roles are protected like any other string. Added tokens that a file does not call
special are ordinary text to their publisher: no text is kept from becoming one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bobot.errors import TemplateError

_MARKS = range(0xF0000, 0xFFFFE)  # a private plane: no letter, no space, nothing JSON escapes


class Guard:
    """The mark for one conversation; `data` is all that will be protected with this guard."""

    def __init__(self, names: Iterable[str], data: object) -> None:
        used = set(_strings(data))
        taken = set().union(*map(set, used)) if used else set()
        mark = next((chr(code) for code in _MARKS if chr(code) not in taken), None)
        if mark is None:
            raise TemplateError("The conversation uses every character of a private Unicode plane.")
        self.mark = mark
        self.names = sorted((name for name in names if len(name) > 1), key=len, reverse=True)
        self.pattern = re.compile(
            "|".join(f"{re.escape(n[0])}(?={re.escape(n[1:])})" for n in self.names)
        )
        self.heads = {name[:cut] for name in self.names for cut in range(1, len(name))}
        self.tails = {name[cut:] for name in self.names for cut in range(1, len(name))}
        self.longest = max(map(len, self.names), default=0)

    def protect(self, data: Any) -> Any:
        """A copy of `data` with every string in it marked where needed."""
        if isinstance(data, str):
            return self._mark(data)
        if isinstance(data, Mapping):
            return {self.protect(key): self.protect(value) for key, value in data.items()}
        if isinstance(data, Sequence) and not isinstance(data, bytes):
            return [self.protect(item) for item in data]
        return data

    def restore(self, text: str) -> str:
        """`text` without the marks, also where a template wrote them as JSON escapes."""
        return text.replace(self.mark, "").replace(json.dumps(self.mark)[1:-1], "")

    def _mark(self, text: str) -> str:
        if not self.names:
            return text
        marked = self.pattern.sub(lambda match: match[0] + self.mark, text)
        body = marked.rstrip()
        for size in range(min(self.longest, len(body)), 0, -1):
            if body[-size:] in self.heads:
                cut = len(body) - size + 1
                marked = marked[:cut] + self.mark + marked[cut:]
                break
        start = len(marked) - len(marked.lstrip())
        for size in range(min(self.longest, len(marked) - start), 0, -1):
            if marked[start : start + size] in self.tails:
                cut = start + size - 1
                marked = marked[:cut] + self.mark + marked[cut:]
                break
        return marked


def _strings(data: Any) -> Iterable[str]:
    if isinstance(data, str):
        yield data
    elif isinstance(data, Mapping):
        for key, value in data.items():
            yield from _strings(key)
            yield from _strings(value)
    elif isinstance(data, Sequence) and not isinstance(data, bytes):
        for item in data:
            yield from _strings(item)
