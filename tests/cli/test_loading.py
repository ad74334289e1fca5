"""Ctrl-C while torch is imported or a model is loaded: out at once, with 130, and only then."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from bobot import hardware
from bobot.cli.loading import importing, read_ahead
from bobot.cli.stopping import Stopping
from bobot.hub.made import remember_source
from bobot.paths import user_paths


def test_ctrl_c_while_loading_leaves_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    statuses: list[int] = []
    monkeypatch.setattr(os, "_exit", statuses.append)
    with importing():
        signal.raise_signal(signal.SIGINT)
    assert statuses == [130]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_second_ctrl_c_during_an_answer_is_not_held_back() -> None:
    with pytest.raises(KeyboardInterrupt), Stopping() as stopping:
        signal.raise_signal(signal.SIGINT)
        assert stopping.is_stopped
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that the system was asked to read, in order."""
    names: list[str] = []

    class AtOnce(threading.Thread):
        def start(self) -> None:
            self.run()

    def advise(file: int, *_: int) -> None:
        names.append(Path(os.readlink(f"/proc/self/fd/{file}")).name)

    monkeypatch.setattr(threading, "Thread", AtOnce)
    monkeypatch.setattr(os, "posix_fadvise", advise)
    return names


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs Linux")
def test_weights_are_read_ahead_from_where_they_will_be_mapped(
    asked: list[str], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("b.safetensors", "a.safetensors", "config.json"):
        (tmp_path / name).write_bytes(b"{}")
    read_ahead(str(tmp_path))
    assert asked == ["a.safetensors", "b.safetensors"]
    made = user_paths().tiles / "made.safetensors"
    made.parent.mkdir(parents=True)
    made.write_bytes(bytes(3000))
    remember_source(made, tmp_path)
    read_ahead(str(tmp_path))
    assert asked[2:] == ["made.safetensors"]
    small = type("Facts", (), {"ram_available_bytes": 5000})()
    monkeypatch.setattr(hardware, "detect", lambda *_: small)
    read_ahead(str(tmp_path))
    read_ahead("no/such-model")
    assert len(asked) == 3
