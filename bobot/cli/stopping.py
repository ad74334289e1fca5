"""Ctrl-C while an answer is made: the first stops it after the token, the second at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator, Iterator
from types import TracebackType
from typing import TypeVar

Item = TypeVar("Item")


class Stopping:
    """A context in which the first Ctrl-C is only noted, so that no computation is torn in the
    middle.

    with Stopping() as stopping:
        for piece in stopping.until_stopped(pieces): ...
    """

    def __init__(self) -> None:
        self.is_stopped = False
        self._before: object = None

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)  # type: ignore[arg-type]

    def _note(self, *_: object) -> None:
        if self.is_stopped:
            raise KeyboardInterrupt
        self.is_stopped = True

    def until_stopped(self, items: Generator[Item, None, None]) -> Iterator[Item]:
        """The items up to the one during which Ctrl-C was pressed; `items` is closed in the end."""
        try:
            for item in items:
                yield item
                if self.is_stopped:
                    return
        finally:
            items.close()
