"""Loading a model for a command: the wait is shown, Ctrl-C ends it at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bobot import hardware
from bobot.cli.routing import policy_named, routed_model
from bobot.errors import BobotError, UsageError
from bobot.hub.made import made_from
from bobot.hub.names import gguf_parts, resolve
from bobot.messages import tr


def load_model(
    name: str | None,
    *,
    draft: str | None = None,
    speculation: str | None = None,
    activations: str | None = None,
    adapter: str | None = None,
    policy: Path | None = None,
) -> Any:
    """The LocalModel called `name`, or the BlockingModel of a host or a policy; importing torch is
    part of the wait. `draft` and `speculation`: see `add_speculation`; `activations`: see
    `add_activations`; `adapter`: see `add_adapter`, on the policy's local model; `policy`: see
    `add_policy`.
    """
    if (found := policy_named(name, policy)) is not None:

        def load(model: str) -> Any:
            is_local = model == found.local
            own_draft, own_adapter = (draft, adapter) if is_local else (None, None)
            return _load(model, own_draft, speculation, activations, own_adapter)

        return routed_model(found, name or found.name, load)
    if is_hosted(name):
        if any(option is not None for option in (draft, speculation, activations, adapter)):
            raise UsageError(
                "{name} is hosted: --draft, --speculation, --activations and --adapter are for"
                " models on this machine.",
                name=name,
            )
        return _open_hosted(name or "")
    return _load(name, draft, speculation, activations, adapter)


def _load(
    name: str | None,
    draft: str | None,
    speculation: str | None,
    activations: str | None,
    adapter: str | None,
) -> Any:
    with importing(), waiting(tr("loading the model ...")):
        import bobot

        options: dict[str, Any] = {}
        if draft is not None:
            options["draft"] = draft
        if activations is not None:
            options["activations"] = activations
        if speculation is not None:
            from bobot.engine import EngineConfig

            options["engine_config"] = EngineConfig(speculation=speculation)  # type: ignore[arg-type]
        if adapter is None:
            return bobot.load(name, **options)
        model = bobot.load(name, adapters={adapter: adapter}, **options)
        model.adapter = adapter
        model.name = f"{model.name} + {Path(adapter).resolve().stem}"
        return model


def read_ahead(name: str | None) -> None:
    """Has the system read the weights of a model from disk while torch is imported, where they fit
    into half of the memory that is free.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    try:
        model = resolve(name)
    except BobotError:  # load() will say so
        return
    files = made_from(model) or (sorted(model.rglob("*")) if model.is_dir() else gguf_parts(model))
    files = [file for file in files if file.suffix in (".safetensors", ".gguf")]
    if sum(file.stat().st_size for file in files) > hardware.detect().ram_available_bytes // 2:
        return

    def read() -> None:
        for file in files:
            with open(file, "rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)

    threading.Thread(target=read, daemon=True).start()


def is_hosted(name: str | None) -> bool:
    """Whether `name` is that of a hosted model, as openai:gpt-4o."""
    if name is None or ":" not in name:
        return False
    from bobot import gateway

    return gateway.is_hosted(name)


def _open_hosted(name: str) -> Any:
    from bobot import gateway

    return gateway.BlockingModel(gateway.open_model(name))


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
