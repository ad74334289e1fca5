"""A download as people watch it: a bar on a terminal, else a line now and then; on stderr."""

from __future__ import annotations

import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from bobot.cli.table import bytes_text
from bobot.hub.transfer import Meter
from bobot.messages import tr

WINDOW_S = 8.0
"""The speed shown is that of the last seconds: it follows the connection without jumping."""
LINE_EVERY_S = 10.0


class Gauge:
    """How far a download is and how fast it goes, in words. `clock` gives seconds."""

    def __init__(self, meter: Meter, clock: Callable[[], float] = time.monotonic) -> None:
        self.meter = meter
        self._clock = clock
        self._samples: deque[tuple[float, int, int]] = deque()

    def read(self) -> None:
        """Takes one sample; call it about ten times a second."""
        now, meter = self._clock(), self.meter
        self._samples.append((now, meter.done_bytes, meter.received_bytes))
        while len(self._samples) > 2 and now - self._samples[0][0] > WINDOW_S:
            self._samples.popleft()

    @property
    def percent(self) -> int:
        """Rounded down: 100 means done."""
        total = self.meter.total_bytes
        return 100 * self.meter.done_bytes // total if total else 100

    @property
    def amount(self) -> str:
        return tr(
            "{done} of {total}",
            done=bytes_text(self.meter.done_bytes),
            total=bytes_text(self.meter.total_bytes),
        )

    @property
    def pace(self) -> str:
        """Speed and time left, or why there are none."""
        if self.meter.waiting:
            return tr("waiting: {reason}", reason=self.meter.waiting)
        if len(self._samples) < 2:
            return ""
        (start, done_then, received_then), (end, done, received) = (
            self._samples[0],
            self._samples[-1],
        )
        speed = max(0, done - done_then) / max(end - start, 1e-3)
        if speed == 0:
            return tr("waiting for data")
        left = duration_text((self.meter.total_bytes - done) / speed)
        if received == received_then:
            return tr("checking what is here, {left} left", left=left)
        rate = bytes_text(int((received - received_then) / max(end - start, 1e-3)))
        return tr("{rate}/s, {left} left", rate=rate, left=left)


def duration_text(seconds: float) -> str:
    """8 s, 3 min, 2 h 5 min."""
    minutes = round(seconds / 60)
    if seconds <= 59:
        return tr("{count} s", count=math.ceil(seconds))
    if minutes < 60:
        return tr("{count} min", count=minutes)
    return tr("{hours} h {minutes} min", hours=minutes // 60, minutes=minutes % 60)


@contextmanager
def watching(meter: Meter) -> Iterator[Callable[[], None]]:
    """Gives a function that shows the state of `meter` when it is called, ten times a second."""
    gauge = Gauge(meter)
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with _bar(gauge) as show:
            yield show
    else:
        yield _lines(gauge)


@contextmanager
def _bar(gauge: Gauge) -> Iterator[Callable[[], None]]:
    columns = (
        TextColumn("{task.percentage:>3.0f}%"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[text]}", markup=False),
    )
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, auto_refresh=False, expand=True, transient=True
    ) as progress:
        task = progress.add_task("", total=100, text="")

        def show() -> None:
            gauge.read()
            text = f"{gauge.amount}  {gauge.pace}"
            progress.update(task, completed=gauge.percent, text=text)
            progress.refresh()

        yield show


def _lines(gauge: Gauge) -> Callable[[], None]:
    last = time.monotonic()

    def show() -> None:
        nonlocal last
        gauge.read()
        if time.monotonic() - last >= LINE_EVERY_S:
            last = time.monotonic()
            print(f"{gauge.percent}%  {gauge.amount}  {gauge.pace}", file=sys.stderr, flush=True)

    return show
