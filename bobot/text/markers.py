"""Cuts an answer, ids or text as they come, into ordinary text and the markers of its format.

A marker that is a special token counts as that token only: ordinary text that spells it stays
text. A marker that the vocabulary does not call special is found in the text, and no part of it is
passed on before it is certain.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from bobot.text.detokenize import Detokenizer
from bobot.text.tokenizer import Tokenizer


class Marker(str):
    """The name of a marker, as opposed to text that says the same."""

    is_special = False
    """Whether a special token said it, which no ordinary text can."""


class _Special(Marker):
    is_special = True


Bit = str  # text, or a Marker


class MarkerCutter:
    """push() takes one id or some text; each gives the bits that are certain by then.

    Text has no special tokens: there every marker is found by its spelling. `opens_text`: see
    Detokenizer.
    """

    def __init__(
        self, tokenizer: Tokenizer, names: Iterable[str], *, opens_text: bool = True
    ) -> None:
        specials, names = tokenizer.special_tokens, list(names)
        self.special_ids = {specials[name]: _Special(name) for name in names if name in specials}
        self._detokenizer = Detokenizer(tokenizer, opens_text=opens_text)
        self._spelled = _Scanner(name for name in names if name not in specials)
        self._all = _Scanner(names)

    def push(self, piece: int | str) -> Iterator[Bit]:
        if isinstance(piece, str):
            yield from self._all.push(piece)
        elif piece in self.special_ids:
            yield from self._rest()
            yield self.special_ids[piece]
        elif text := self._detokenizer.push(piece):
            yield from self._spelled.push(text)

    def finish(self) -> Iterator[Bit]:
        yield from self._rest()
        yield from self._all.finish()

    def _rest(self) -> Iterator[Bit]:
        yield from self._spelled.push(self._detokenizer.finish())
        yield from self._spelled.finish()


class _Scanner:
    """Finds names in text that comes in pieces. No name may begin another."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = tuple(names)
        self._pattern = re.compile("|".join(map(re.escape, self._names)) or "(?!)")
        self._firsts = {name[0] for name in self._names}
        self._longest = max(map(len, self._names), default=1) - 1
        self._held = ""

    def push(self, text: str) -> Iterator[Bit]:
        text, start = self._held + text, 0
        for match in self._pattern.finditer(text):
            if match.start() > start:
                yield text[start : match.start()]
            yield Marker(match[0])
            start = match.end()
        end = len(text) - self._num_undecided(text[start:])
        self._held = text[end:]
        if end > start:
            yield text[start:end]

    def finish(self) -> Iterator[Bit]:
        if self._held:
            yield self._held
        self._held = ""

    def _num_undecided(self, text: str) -> int:
        """Length of the longest end of `text` that begins a name."""
        tail = text[-self._longest :] if self._longest else ""
        starts = [at for first in self._firsts if (at := tail.find(first)) >= 0]
        for start in range(min(starts, default=len(tail)), len(tail)):
            if any(name.startswith(tail[start:]) for name in self._names):
                return len(tail) - start
        return 0
