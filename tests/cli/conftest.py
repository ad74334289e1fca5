"""The command line called in this process, with folders of its own and a model that answers at
once.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from fake_model import FakeModel

import bobot
from bobot.cli import main
from bobot.messages import tr


class Result(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user with empty folders and an English system."""
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    for name in ("LC_ALL", "LC_MESSAGES", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LANG", "en_US.UTF-8")
    monkeypatch.setenv("COLUMNS", "80")
    yield tmp_path
    tr.language = "en"


@pytest.fixture
def run_bobot(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """run_bobot("list", "--json", stdin=b"...") -> its status and what it printed."""

    def call(*words: str, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        status = main(words)
        out, err = capsys.readouterr()
        assert "Traceback" not in err, err
        return Result(status, out, err)

    return call


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> FakeModel:
    """The model that every name loads."""
    fake = FakeModel()
    monkeypatch.setattr(bobot, "load", lambda name: fake, raising=False)
    return fake
