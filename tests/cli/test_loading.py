"""Ctrl-C while torch is imported or a model is loaded: out at once, with 130, and only then."""

from __future__ import annotations

import os
import signal

import pytest

from bobot.cli.loading import importing
from bobot.cli.stopping import Stopping


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
