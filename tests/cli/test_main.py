"""The outermost frame: help at once, one line for each mistake, the right exit status."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from bobot import __version__
from bobot.cli import commands, main
from bobot.errors import ConfigError
from bobot.messages import tr

Run = Callable[..., tuple[int, str, str]]


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from bobot.cli import main; status = main(['--help']);"
        "heavy = {'torch', 'numpy', 'rich', 'prompt_toolkit', 'jinja2'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    seconds = time.perf_counter() - start
    assert done.returncode == 0, done.stderr
    for name in commands():
        assert f"\n  {name} " in done.stdout
    assert seconds < 3, f"bobot --help took {seconds:.2f} s"


@pytest.mark.parametrize("language", ["en", "id"])
@pytest.mark.parametrize("name", list(commands()))
def test_help_of_every_command_has_an_example(run_bobot: Run, name: str, language: str) -> None:
    status, out, _ = run_bobot(name, "--help", "--lang", language)
    assert status == 0
    assert ("example" if language == "en" else "contoh") in out
    assert f"bobot {name}" in out.split("\n\n", 1)[1]
    assert max(map(len, out.splitlines())) <= 80, out


def test_version_is_printed(run_bobot: Run) -> None:
    assert run_bobot("--version") == (0, f"bobot {__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["chta"], "did you mean 'chat'?"),
        (["xyzzy"], "See bobot --help"),
        (["--frobnicate"], "--frobnicate is not understood"),
        (["list", "--frobnicate"], "--frobnicate is not understood. See bobot list --help."),
        (["list", "extra"], "extra is not understood"),
        (["--lang", "xx"], "--lang is 'xx'; allowed: en, id"),
        (["run", "--seed"], "--seed needs a value"),
        (["run", "--seed", "1.5", "x"], "--seed takes a whole number, not '1.5'"),
        (["run", "--temperature", "hot", "x"], "--temperature takes a number, not 'hot'"),
        (["train"], "recipe is missing"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_status_2(
    run_bobot: Run, words: list[str], part: str
) -> None:
    status, out, err = run_bobot(*words)
    assert (status, out) == (2, "")
    assert err.startswith("bobot: ")
    assert err.count("\n") == 1
    assert part in err


def test_path_in_place_of_a_command_leads_to_chat(run_bobot: Run) -> None:
    status, _, err = run_bobot("/")
    assert status == 2
    assert "bobot chat /" in err


def test_language_comes_from_the_option_or_the_system(
    run_bobot: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "usage:" in run_bobot("--help")[1]
    assert "pemakaian:" in run_bobot("--help", "--lang=id")[1]
    assert "pemakaian:" in run_bobot("--lang", "id", "list", "--help")[1]
    monkeypatch.setenv("LANG", "id_ID.UTF-8")
    assert "pemakaian:" in run_bobot("--help")[1]
    assert "usage:" in run_bobot("--help", "--lang", "en")[1]


def failing(error: BaseException) -> Callable[..., int]:
    def run(args: object) -> int:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ConfigError("{x} is wrong.", x="it"), 1, "bobot: it is wrong.\n"),
        (KeyboardInterrupt(), 130, ""),
        (ValueError("a\nb"), 1, "bobot: unexpected ValueError: a b. Run again with --debug"),
        (MemoryError(), 1, "bobot: not enough memory."),
        (RuntimeError("[enforce] can't allocate memory: 8 bytes"), 1, "bobot: not enough memory."),
    ],
)
def test_every_failure_ends_in_at_most_one_line(
    run_bobot: Run,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    status: int,
    line: str,
) -> None:
    monkeypatch.setattr("bobot.cli.list.run", failing(error))
    found, _, err = run_bobot("list")
    assert found == status
    assert err.startswith(line)
    assert err.count("\n") == bool(line)


def test_debug_adds_the_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bobot.cli.list.run", failing(ConfigError("wrong")))
    assert main(["list", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_reader_that_leaves_a_pipe_gets_no_complaint() -> None:
    code = (
        "import sys; from bobot.cli import main, list;\n"
        "def run(args):\n"
        "    while True: print('x' * 1000)\n"
        "list.run = run; sys.exit(main(['list']))"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert writer.stdout and writer.stderr
    writer.stdout.read(100)
    writer.stdout.close()
    assert writer.stderr.read() == b""
    writer.stderr.close()
    assert writer.wait() == 1


def test_language_does_not_leak_between_calls(run_bobot: Run) -> None:
    run_bobot("--help", "--lang", "id")
    run_bobot("--help")
    assert tr.language == "en"
