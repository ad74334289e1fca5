"""Keys on a full terminal: what Enter, Alt-Enter, three quotes and Ctrl-C do, and what is kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

from bobot.cli.screen import is_open, unquote
from bobot.cli.terminal import Terminal, _fitting

ALT_ENTER, CTRL_C, CTRL_D, UP = "\x1b\r", "\x03", "\x04", "\x1b[A"


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> Iterator[PipeInput]:
    monkeypatch.setenv("TERM", "xterm")  # on a dumb one prompt_toolkit has other key bindings
    with create_pipe_input() as keyboard, create_app_session(keyboard, DummyOutput()):
        yield keyboard


def terminal(history: Path | None = None) -> Terminal:
    return Terminal(history, lambda text: [])


@pytest.mark.parametrize(
    ("typed", "entry"),
    [
        ("halo\r", "halo"),
        (f"a{ALT_ENTER}b\r", "a\nb"),
        ('"""\ra\rb"""\r', "a\nb"),
        ('"""a"""\r', "a"),
        (f"wrong{CTRL_C}right\r", "right"),
        ("\x1b[200~two\nlines\x1b[201~\r", "two\nlines"),
    ],
)
def test_typed_keys_become_one_entry(keys: PipeInput, typed: str, entry: str) -> None:
    keys.send_text(typed)
    assert terminal().read("status") == entry


def test_ctrl_d_leaves_and_ctrl_c_on_an_empty_line_says_so(keys: PipeInput) -> None:
    keys.send_text(CTRL_D)
    with pytest.raises(EOFError):
        terminal().read("")
    keys.send_text(CTRL_C)
    with pytest.raises(KeyboardInterrupt):
        terminal().read("")


def test_history_is_kept_across_runs_and_private(keys: PipeInput, tmp_path: Path) -> None:
    file = tmp_path / "state" / "history"
    keys.send_text("remember me\r")
    terminal(file).read("")
    assert file.stat().st_mode & 0o777 == 0o600
    keys.send_text(f"{UP}\r")
    assert terminal(file).read("") == "remember me"


def test_quotes_are_open_until_they_are_closed() -> None:
    assert [is_open(text) for text in ('"""', '"""a', '"""a"""', '""""""', "a", '""')] == [
        True, True, False, False, False, False,
    ]  # fmt: skip
    assert unquote('"""\na\nb\n"""') == "a\nb"
    assert unquote('say """x"""') == 'say """x"""'


def test_narrow_window_drops_the_last_parts_of_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    assert _fitting("bobot  5 of 10 tokens  name  /help") == "bobot"
