"""The last lines of an answer that may still change, drawn again in one write.

Nothing that has scrolled away is touched.
"""

from __future__ import annotations

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

REDRAW_S = 0.06
WAITING = "\x1b[2m...\x1b[0m"
_SYNCHRONIZED = "\x1b[?2026h{}\x1b[?2026l"


class LiveLines:
    """At first a line of dots, until something is known."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.lines = [WAITING]
        self._write(f"{WAITING}\n")

    def replace(self, final: list[str], live: list[str]) -> None:
        """Wipes the live lines, prints `final` for good and `live` below, all in one write."""
        up = sum(self._rows(line) for line in self.lines)
        head = f"\x1b[{up}A\r\x1b[J" if up else ""
        self._write(_SYNCHRONIZED.format(head + "".join(f"{line}\n" for line in final + live)))
        self.lines = live

    def _rows(self, line: str) -> int:
        """Rows the line takes now: a narrowed window folds what was drawn in a wider one."""
        return max(1, -(-cell_len(Text.from_ansi(line).plain) // max(1, self.console.width)))

    def _write(self, text: str) -> None:
        self.console.file.write(text)
        self.console.file.flush()
