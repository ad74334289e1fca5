"""A line that says how far a long step is, on a terminal and once it has taken two seconds."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

WIDTH = 30
FIRST_S = 2.0
EVERY_S = 0.1


@contextlib.contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """Gives a function (done, total) for the block to call; the line is wiped at its end."""
    start = time.monotonic()
    shown = [start + FIRST_S - EVERY_S]

    def show(done: int, total: int) -> None:
        now = time.monotonic()
        if not sys.stderr.isatty() or now < shown[0] + EVERY_S:
            return
        shown[0] = now
        filled = WIDTH * done // max(total, 1)
        bar = "#" * filled + "." * (WIDTH - filled)
        line = f"\r{label} [{bar}] {100 * done // max(total, 1)} %"
        print(line, end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        if shown[0] >= start + FIRST_S:
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)
