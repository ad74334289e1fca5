"""The answers that are under way, and how a server ends: it refuses new calls and lets the open
ones finish for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator


class Inflight:
    """Every open call of one server, in its event loop."""

    def __init__(self, max_calls: int) -> None:
        self.max_calls = max_calls
        self.is_draining = False
        self._tasks: dict[asyncio.Future[None], Callable[[], None]] = {}
        self._is_empty = asyncio.Event()
        self._is_empty.set()

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def is_full(self) -> bool:
        return len(self._tasks) >= self.max_calls

    @contextlib.contextmanager
    def holding(self, task: asyncio.Future[None], stop: Callable[[], None]) -> Iterator[None]:
        """Inside this block the call counts as open; `stop` is called before it is cancelled."""
        self._tasks[task] = stop
        self._is_empty.clear()
        try:
            yield
        finally:
            del self._tasks[task]
            if not self._tasks:
                self._is_empty.set()

    async def drain(self, max_s: float) -> int:
        """Waits until no call is open, at most so many seconds, then cancels what is left.
        Returns how many were cancelled.
        """
        self.is_draining = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._is_empty.wait(), max_s)
        left = dict(self._tasks)
        for task, stop in left.items():
            stop()
            task.cancel()
        await self._is_empty.wait()
        return len(left)
