"""An answer on its way into the store."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bobot.chat.store import Store


class AnswerWriter:
    """An answer while it comes: push() its pieces; then finish() or drop() it.

    It is written at the first piece and then once a second, by a timer where nothing more comes, so
    that a program that is killed loses at most the last second.
    """

    INTERVAL_S = 1.0

    def __init__(self, store: Store, message: int) -> None:
        self.id = message
        self._store = store
        self._lock = threading.Lock()
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._timer: threading.Timer | None = None
        self._written_at = float("-inf")
        self._error: Exception | None = None

    def push(self, text: str = "", reasoning: str = "") -> None:
        """More of the answer. Raises StorageError where it can't be written."""
        with self._lock:
            self._text.append(text)
            self._reasoning.append(reasoning)
            if self._error is not None:
                raise self._error
            if self._timer is not None:
                return
            left = self._written_at + self.INTERVAL_S - time.monotonic()
            if left <= 0:
                self._write()
            else:
                self._timer = threading.Timer(left, self._write_later)
                self._timer.daemon = True
                self._timer.start()

    def finish(self, **fields: Any) -> None:
        """The answer is whole, with these fields of NewMessage (usage, finish_reason ...); a
        content or reasoning given here replaces what was pushed."""
        with self._lock:
            self._stop_timer()
            said = {"content": "".join(self._text), "reasoning": "".join(self._reasoning)}
            self._store.update(self.id, **{**said, "is_partial": False, **fields})

    def drop(self) -> None:
        """There is no answer after all."""
        with self._lock:
            self._stop_timer()
            self._store.remove(self.id)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _write_later(self) -> None:
        with self._lock:
            if self._timer is not threading.current_thread():
                return
            self._timer = None
            try:
                self._write()
            except Exception as error:  # noqa: BLE001  raised by the next push
                self._error = error

    def _write(self) -> None:
        self._text, self._reasoning = ["".join(self._text)], ["".join(self._reasoning)]
        self._store.update(self.id, content=self._text[0], reasoning=self._reasoning[0])
        self._written_at = time.monotonic()
