"""Reasoning on a terminal: its last lines, dimmed, while it comes; then one line that says how long
it was.
"""

from __future__ import annotations

import time
from itertools import islice

from rich.text import Text

from bobot.cli.live_lines import REDRAW_S, WAITING, LiveLines
from bobot.cli.sanitize import sanitize
from bobot.cli.screen import thought_line

NUM_LINES = 4
_TAIL = 4000  # characters that are laid out again; no window shows more in NUM_LINES


class Thinking:
    """push(text, num_tokens) as it comes, finish() when it ended or was stopped."""

    def __init__(self, lines: LiveLines) -> None:
        self.lines = lines
        self.num_tokens = 0
        self._tail = ""
        self._drawn_at = 0.0

    def push(self, text: str, num_tokens: int) -> None:
        self.num_tokens += num_tokens
        self._tail = (self._tail + sanitize(text))[-_TAIL:]
        if self._tail.strip() and time.monotonic() - self._drawn_at >= REDRAW_S:
            self.lines.replace([], [_dim(line) for line in self._last_lines()])
            self._drawn_at = time.monotonic()

    def finish(self, *, is_after_text: bool = False) -> None:
        """Text that follows other text brings its own blank line."""
        line = _dim(thought_line(self.num_tokens))
        self.lines.replace(["", line] if is_after_text else [line, ""], [WAITING])

    def _last_lines(self) -> list[str]:
        """The end of the reasoning, folded to the width of the window."""
        console = self.lines.console
        folded = Text(self._tail.strip()).wrap(console, max(8, console.width - 1))
        last = list(islice(reversed(folded), NUM_LINES))
        return [line.plain.rstrip() for line in reversed(last)]


def _dim(line: str) -> str:
    return f"\x1b[2m{line}\x1b[0m"
