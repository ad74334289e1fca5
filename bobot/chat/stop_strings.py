"""End an answer at a stop string without ever showing part of one."""

from __future__ import annotations

from collections.abc import Sequence

from bobot.errors import RequestError


class StopStrings:
    """Passes text on, holding back what may turn out to be the beginning of a stop string.

        stop = StopStrings(["END"])
        stop.push("a E")   # "a ", since "E" may begin "END"
        stop.push("ND b")  # "" and stop.is_hit: the stop string and what follows are dropped

    The first to be complete ends the text; of several, the one that begins first.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        if not all(strings):
            raise RequestError("A stop string is empty; it needs at least one character.")
        self.strings = tuple(strings)
        self.hit: str | None = None
        """The one that ended the text."""
        self._held = ""

    @property
    def is_hit(self) -> bool:
        return self.hit is not None

    def push(self, text: str) -> str:
        """The text that is now certain to belong to the answer."""
        if not self.strings or self.is_hit:
            return "" if self.is_hit else text
        self._held += text
        hits = [(at + len(s), at, s) for s in self.strings if (at := self._held.find(s)) >= 0]
        if hits:  # the one complete first, wherever the text was cut into pieces
            _, at, self.hit = min(hits)
            return self._release(at)
        return self._release(len(self._held) - self._num_undecided())

    def finish(self) -> str:
        """What was held back, at the end of the answer."""
        return self._release(0 if self.is_hit else len(self._held))

    def _num_undecided(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max(len(string) for string in self.strings) - 1
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(string.startswith(self._held[-size:]) for string in self.strings):
                return size
        return 0

    def _release(self, size: int) -> str:
        text, self._held = self._held[:size], self._held[size:]
        return text
