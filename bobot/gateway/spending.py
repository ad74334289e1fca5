"""What hosted models cost today: one small SQLite file, shared by every bobot of a user.

An answer is counted when it has ended; requests that run at the same time can pass a budget
together by what they cost. One that was left before its end counts its seconds but no dollars:
its host does not say what it charged.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bobot.database import open_database, translated
from bobot.paths import user_paths

_LADDER = (
    """
CREATE TABLE spending (
    day TEXT NOT NULL,
    model TEXT NOT NULL,
    answers INTEGER NOT NULL,
    usd REAL NOT NULL,
    seconds REAL NOT NULL,
    PRIMARY KEY (day, model)
);
""",
)


@dataclass(frozen=True)
class Spent:
    usd: float = 0.0
    seconds: float = 0.0
    answers: int = 0


def spending_file(environ: Mapping[str, str] | None = None) -> Path:
    """Where a user's spending is kept."""
    return user_paths(environ).data / "spending.db"


def today() -> str:
    """The date here, as 2026-11-21."""
    return time.strftime("%Y-%m-%d")


class Ledger:
    """The open file. Any thread may call. Raises StorageError."""

    def __init__(self, path: Path, day: Callable[[], str] = today) -> None:
        self.path = path
        self._day = day
        self._connection = open_database(path, _LADDER)
        self._lock = threading.Lock()

    def close(self) -> None:
        self._connection.close()

    def spent(self, model: str) -> Spent:
        """On this model since midnight."""
        query = "SELECT usd, seconds, answers FROM spending WHERE day = ? AND model = ?"
        with self._lock, translated(self.path):
            row = self._connection.execute(query, (self._day(), model)).fetchone()
        return Spent(*row) if row else Spent()

    def add(self, model: str, usd: float, seconds: float) -> None:
        """Counts one answer."""
        with self._lock, translated(self.path):
            self._connection.execute(
                "INSERT INTO spending (day, model, answers, usd, seconds) VALUES (?, ?, 1, ?, ?)"
                " ON CONFLICT DO UPDATE SET answers = answers + 1, usd = usd + excluded.usd,"
                " seconds = seconds + excluded.seconds",
                (self._day(), model, usd, seconds),
            )
