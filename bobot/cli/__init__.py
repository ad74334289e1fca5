"""The `bobot` program: finds the command, runs it, turns every failure into one line and an exit
status.

0 done, 1 failed, 2 wrong usage, 130 stopped with Ctrl-C. A command is one module of this package
with `add_arguments(parser)` and `run(args) -> int`, imported only when it runs; a new one needs its
file and a line in commands().
"""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import sys
import traceback
from argparse import SUPPRESS
from collections.abc import Sequence
from importlib import import_module

from bobot import __version__
from bobot.cli.arguments import Parser
from bobot.errors import BobotError, UsageError
from bobot.log import show_warnings
from bobot.messages import LANGUAGES, language_of, tr

DEFAULT_COMMAND = "chat"


def commands() -> dict[str, str]:
    """Name -> one line of help; each is the module bobot/cli/<name>.py."""
    return {
        "chat": tr("talk with a model in the terminal"),
        "run": tr("one answer to standard output; reads standard input when piped"),
        "serve": tr("an HTTP server for apps that speak OpenAI's, Anthropic's or Ollama's API"),
        "keys": tr("the keys of bobot serve"),
        "launch": tr("coding agents and other tools with the models of bobot serve"),
        "pull": tr("download a model, or go on with a download"),
        "list": tr("the models on this machine"),
        "show": tr("what a model is: architecture, size, context, licence"),
        "fit": tr("will a model run here: memory, disk, speed, which form"),
        "rm": tr("remove a model from this machine"),
        "export": tr("write a model as safetensors or GGUF for other programs"),
        "quantize": tr("write a model with fewer bits per weight"),
        "bench": tr("how fast a model runs, against the limits of this machine"),
        "doctor": tr("what this machine has, what is missing, what to do"),
        "train": tr("train a model from scratch by a recipe"),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status of one command line; never raises for a user's mistake."""
    # Not list(...): in this package that name is the module of `bobot list`.
    argv = [*(sys.argv[1:] if argv is None else argv)]
    debug = "--debug" in argv
    try:
        _prepare_output()
        tr.language = _language(argv)
        show_warnings(debug)
        status = _run(argv)
        sys.stdout.flush()
        return status
    except SystemExit as stop:  # argparse, after --help
        return int(stop.code or 0)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our pipe left; Python would complain when it flushes at exit.
        with contextlib.suppress(OSError, ValueError, io.UnsupportedOperation):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except BobotError as error:
        return _fail(error.render(tr.translate), error.exit_code, debug)
    except Exception as error:  # noqa: BLE001  a bug too must end in one line
        return _fail(_unexpected(error), 1, debug)


def _unexpected(error: Exception) -> str:
    """The line for an error that is not one of ours."""
    kind, reason = type(error).__name__, " ".join(str(error).split())
    # torch says it with a RuntimeError: "DefaultCPUAllocator: can't allocate memory ..."
    if isinstance(error, MemoryError) or "allocate memory" in reason:
        return tr("not enough memory. Close other programs or use a smaller model.")
    return tr(
        "unexpected {kind}: {reason}. Run again with --debug for the details.",
        kind=kind,
        reason=reason,
    )


def _fail(line: str, status: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    print(f"bobot: {line}", file=sys.stderr)
    return status


def _prepare_output() -> None:
    """A terminal that can't show a letter gets a question mark, not a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _language(argv: Sequence[str]) -> str:
    """--lang wherever it stands, else the environment's; needed before any help text is made."""
    for index, word in enumerate(argv):
        if word == "--":
            break
        value = argv[index + 1] if word == "--lang" and index + 1 < len(argv) else ""
        value = word.removeprefix("--lang=") if word.startswith("--lang=") else value
        if value in LANGUAGES:
            return value
    return language_of(os.environ)


def _run(argv: list[str]) -> int:
    parser = _main_parser()
    args = parser.parse_args(argv)
    if args.version:
        print(f"bobot {__version__}")
        return 0
    name = args.command or DEFAULT_COMMAND
    if name not in commands():
        raise _unknown_command(name)
    module = import_module(f"bobot.cli.{name}")
    summary = commands()[name]
    command = Parser(prog=f"bobot {name}", description=f"{summary[:1].upper()}{summary[1:]}.")
    _add_global_options(command)
    module.add_arguments(command)
    return module.run(command.parse_words(args.rest, args))


def _main_parser() -> Parser:
    lines = [f"  {name:<10}{text}" for name, text in commands().items()]
    parser = Parser(
        prog="bobot",
        usage=tr("bobot [COMMAND] [OPTIONS]      without a command: chat"),
        description=tr("Run, chat with and train open-weight language models on your own machine."),
        epilog="\n".join(
            [tr("commands:"), *lines, "", tr("more about one: bobot COMMAND --help"), ""]
        )
        + tr("example: bobot run 'Why is the sky blue?'"),
    )
    parser.add_argument("--version", action="store_true", help=tr("print the version and stop"))
    _add_global_options(parser)
    parser.add_argument("command", nargs="?", help=SUPPRESS)
    parser.add_argument("rest", nargs="...", help=SUPPRESS)
    return parser


def _add_global_options(parser: Parser) -> None:
    parser.add_argument(
        "--lang",
        choices=LANGUAGES,
        help=tr("language of the interface: en or id (default: that of the system)"),
    )
    parser.add_argument("--debug", action="store_true", help=tr("print the traceback of a failure"))


def _unknown_command(name: str) -> UsageError:
    known = ", ".join(commands())
    if os.path.exists(name):
        return UsageError(
            "{name!r} is no command; there are {known}.",
            hint="To talk with that model: bobot chat {name}",
            name=name,
            known=known,
        )
    close = difflib.get_close_matches(name, commands(), n=1, cutoff=0.5)
    if close:
        return UsageError(
            "{name!r} is no command; did you mean {close!r}?",
            hint="There are {known}.",
            name=name,
            close=close[0],
            known=known,
        )
    return UsageError(
        "{name!r} is no command; there are {known}.",
        hint="See bobot --help.",
        name=name,
        known=known,
    )
