"""What a test of a malformed file needs to know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bobot.errors import BobotError


@dataclass(frozen=True)
class Case:
    """What `make` writes must raise `error` with `words` in its message, opened or read."""

    name: str
    make: Callable[[Path], Path]
    error: type[BobotError]
    words: str
