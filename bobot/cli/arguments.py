"""Parsing a command line: argparse with our errors, our language, and the options that commands
share.
"""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from bobot.errors import UsageError
from bobot.messages import tr


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UsageError and speaks the language of the interface.

    argparse words its complaints in English inside; `error` recognises each kind and says it in
    our words.
    """

    def __init__(self, **options) -> None:
        super().__init__(
            add_help=False,
            allow_abbrev=False,
            formatter_class=_Formatter,
            **options,
        )
        self.passes_rest = False
        """Words after "--" are for another program: they come as `passed_on`."""
        self._optionals.title = tr("options")
        self._positionals.title = tr("arguments")
        self.add_argument("-h", "--help", action="help", help=tr("show this help and stop"))

    def parse_words(self, words: list[str], known: argparse.Namespace) -> argparse.Namespace:
        """`words` parsed into `known`; options may stand between positional words.

        After "--" every word is positional. argparse can't do both at once in Python 3.11.
        """
        if self.passes_rest:
            end = words.index("--") if "--" in words else len(words)
            words, known.passed_on = words[:end], words[end + 1 :]
        if "--" in words:
            return self.parse_args(words, known)
        # parse_intermixed_args sets the same text, but cuts off "usage: " as if it were English.
        self.usage = self.usage or self.format_usage().removeprefix(tr("usage: ")).rstrip()
        return self.parse_intermixed_args(words, known)

    def error(self, message: str) -> None:
        for pattern, complain in _COMPLAINTS:
            if match := re.fullmatch(pattern, message, re.DOTALL):
                raise complain(self.prog, *match.groups())
        raise UsageError("{problem}.", hint="See {prog} --help.", problem=message, prog=self.prog)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Leaves room between an option and its text, keeps the line breaks of examples."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=min(100, _columns()))

    def add_usage(self, usage, actions, groups, prefix=None) -> None:
        super().add_usage(usage, actions, groups, tr("usage: ") if prefix is None else prefix)


def _columns() -> int:
    return shutil.get_terminal_size().columns - 2


def _unknown_option(prog: str, names: str) -> UsageError:
    return UsageError(
        "{names} is not understood.", hint="See {prog} --help.", names=names, prog=prog
    )


def _missing_value(prog: str, option: str) -> UsageError:
    return UsageError(
        "{option} needs a value.", hint="See {prog} --help.", option=option, prog=prog
    )


def _missing_argument(prog: str, names: str) -> UsageError:
    return UsageError("{names} is missing.", hint="See {prog} --help.", names=names, prog=prog)


def _wrong_type(prog: str, option: str, kind: str, value: str) -> UsageError:
    if kind == "int":
        return UsageError("{option} takes a whole number, not {value}.", option=option, value=value)
    return UsageError("{option} takes a number, not {value}.", option=option, value=value)


def _excluded(prog: str, option: str, other: str) -> UsageError:
    return UsageError(
        "{option} and {other} exclude each other.",
        hint="See {prog} --help.",
        option=option,
        other=other,
        prog=prog,
    )


def _wrong_choice(prog: str, option: str, value: str, allowed: str) -> UsageError:
    allowed = allowed.replace("'", "")
    return UsageError(
        "{option} is {value}; allowed: {allowed}.", option=option, value=value, allowed=allowed
    )


_COMPLAINTS: tuple[tuple[str, Callable[..., UsageError]], ...] = (
    (r"unrecognized arguments: (.+)", _unknown_option),
    (r"argument (.+): expected .*argument.*", _missing_value),
    (r"the following arguments are required: (.+)", _missing_argument),
    (r"argument (.+): invalid (int|float) value: (.+)", _wrong_type),
    (r"argument (.+): not allowed with argument (.+)", _excluded),
    (r"argument (.+): invalid choice: (.+) \(choose from (.+)\)", _wrong_choice),
)


def add_model(parser: argparse.ArgumentParser) -> None:
    """MODEL, the one positional argument of chat and show."""
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help=tr(
            "a folder or file, a Hugging Face id already downloaded, or a short name"
            " (default: bobot, the embedded model)"
        ),
    )


SAMPLING = ("temperature", "top_p", "top_k", "min_p", "seed", "max_tokens")


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """The options that choose among the next tokens; their ranges are checked by SamplingParams."""
    parser.add_argument(
        "--temperature", type=float, metavar="X", help=tr("0 always takes the likeliest token")
    )
    parser.add_argument(
        "--top-p", type=float, metavar="X", help=tr("keep the likeliest tokens that add up to X")
    )
    parser.add_argument("--top-k", type=int, metavar="N", help=tr("keep the N likeliest tokens"))
    parser.add_argument(
        "--min-p",
        type=float,
        metavar="X",
        help=tr("keep tokens at least X times as likely as the best"),
    )
    parser.add_argument(
        "--seed", type=int, metavar="N", help=tr("the same seed gives the same answer")
    )
    parser.add_argument("--max-tokens", type=int, metavar="N", help=tr("stop after N tokens"))


def add_reasoning_effort(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--reasoning-effort",
        choices=("low", "medium", "high"),
        metavar="LEVEL",
        help=tr("how long the model thinks: low, medium or high"),
    )


def add_speculation(parser: argparse.ArgumentParser) -> None:
    """Who guesses tokens ahead of the model; the answers are the same."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--draft",
        metavar="MODEL",
        help=tr("a smaller model of the same family that guesses ahead: the same answer, sooner"),
    )
    group.add_argument(
        "--speculation",
        choices=("ngram", "off"),
        metavar="HOW",
        help=tr("guess ahead from repetitions in the text: ngram (default) or off"),
    )


def add_adapter(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--adapter",
        metavar="PATH",
        help=tr("a LoRA adapter of the model: PEFT's folder or llama.cpp's GGUF file"),
    )


def add_activations(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--activations",
        choices=("int8",),
        metavar="TYPE",
        help=tr(
            "int8: multiply packed weights with activations of 8 bits;"
            " faster, a little less precise"
        ),
    )


def add_policy(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--policy",
        type=Path,
        metavar="FILE",
        help=tr("rules that choose who answers (default: policy.toml beside hosts.toml)"),
    )


def sampling_of(args: argparse.Namespace) -> dict[str, float | int]:
    """The sampling options that were given; those left out keep the model's own defaults."""
    values = {name: getattr(args, name) for name in SAMPLING}
    return {name: value for name, value in values.items() if value is not None}
