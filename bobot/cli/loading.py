"""Loading a model for a command: the wait is shown, Ctrl-C ends it at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from bobot.messages import tr


def load_model(
    name: str | None, *, draft: str | None = None, speculation: str | None = None
) -> Any:
    """The LocalModel called `name`; importing torch is part of the wait. `draft` and `speculation`:
    see `add_speculation`.
    """
    with importing(), waiting(tr("loading the model ...")):
        import bobot

        options: dict[str, Any] = {}
        if draft is not None:
            options["draft"] = draft
        if speculation is not None:
            from bobot.engine import EngineConfig

            options["engine_config"] = EngineConfig(speculation=speculation)  # type: ignore[arg-type]
        return bobot.load(name, **options)


def check_sampling(sampling: dict[str, Any]) -> None:
    """Raises RequestError for a value out of range, before a large model is loaded in vain."""
    with importing(), waiting(tr("loading the model ...")):
        from bobot.engine.sampling_params import SamplingParams

    SamplingParams(**sampling)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Inside this block Ctrl-C leaves the program at once. An exception raised in the middle of
    importing a C++ library can surface as any other error; at this point there is nothing to
    clean up.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _leave(*_: object) -> None:
    if sys.stderr.isatty():
        os.write(2, b"\n")
    os._exit(130)


@contextlib.contextmanager
def waiting(text: str) -> Iterator[None]:
    """A line with `text` on a terminal's stderr while the block runs, wiped afterwards."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield
        return
    print(text, end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        print("\r\x1b[2K", end="", file=sys.stderr, flush=True)
