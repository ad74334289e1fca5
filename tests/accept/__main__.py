"""All foreign clients and suites, one after the other, with their scores as a table.

    python tests/accept [SUITE ...] [--json] [--spec openapi.yaml] [--gpt-oss FOLDER] ...
    make accept

Each suite's own file says what it checks and what it needs. A suite that needs a file from
elsewhere runs where it is given; those left out are named at the end, with what they lack. What
they install goes into build/accept: some 3 GiB, most of it the coding agents of `launch`. All of it
takes an hour and a half; `storm` alone ten minutes. Exits 1 where a part has less than it needs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import clients
import fuzz
import gpt_oss_suite
import harness
import launch
import llama_suite
import page_suite
import schema_suite
import sdk_suites
import storm
from scores import Score, show

STORIES = "--stories stories260K.gguf"


class Suite(NamedTuple):
    run: Callable[[], Iterator[Score]]
    lacks: str = ""
    """What it cannot run without here; empty: nothing."""


def suites(args: argparse.Namespace) -> dict[str, Suite]:
    """All of them, by the names they are asked for with."""
    spec, gpt_oss, stories = args.spec, args.gpt_oss, args.stories
    return {
        "clients": Suite(clients.scores),
        "sdk": Suite(sdk_suites.scores),
        "schema": Suite(lambda: schema_suite.scores(spec), "" if spec else "--spec openapi.yaml"),
        "gpt-oss": Suite(
            lambda: gpt_oss_suite.scores(gpt_oss), "" if gpt_oss else "--gpt-oss FOLDER"
        ),
        "harness": Suite(harness.scores),
        "llama": Suite(llama_suite.scores),
        "llama-random": Suite(
            lambda: llama_suite.scores(stories, is_random=True), "" if stories else STORIES
        ),
        "llama-real": Suite(lambda: llama_suite.scores(stories), "" if stories else STORIES),
        "launch": Suite(launch.scores),
        "page": Suite(
            lambda: page_suite.scores(args.chromium), "" if args.chromium else "--chromium PATH"
        ),
        "fuzz": Suite(fuzz.scores),
        "storm": Suite(storm.scores),
    }


def scores(chosen: dict[str, Suite]) -> Iterator[Score]:
    """One that breaks off (no registry, no server) does not keep the others from running."""
    for name, suite in chosen.items():
        try:
            yield from suite.run()
        except (OSError, subprocess.SubprocessError, AssertionError) as error:
            yield Score(name, "broke off", 0, 1, note=" ".join(str(error).split())[-300:])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/accept")
    parser.add_argument("names", nargs="*", metavar="SUITE", help="default: all that can run")
    parser.add_argument("--json", action="store_true", help="the scores as JSON")
    parser.add_argument("--spec", type=Path, help="OpenAI's openapi.yaml; see schema_suite.py")
    parser.add_argument("--gpt-oss", type=Path, help="its test; see gpt_oss_suite.py")
    parser.add_argument("--stories", type=Path, help="stories260K as GGUF; see llama_suite.py")
    parser.add_argument(
        "--chromium", default=page_suite.chromium(), help="default: the one in PATH"
    )
    args = parser.parse_args()
    known = suites(args)
    if unknown := [name for name in args.names if name not in known]:
        parser.error(f"{', '.join(unknown)}: not among {', '.join(known)}")
    chosen = {name: known[name] for name in args.names or known}
    lacking = {name: suite.lacks for name, suite in chosen.items() if suite.lacks}
    if lacking and args.names:
        parser.error("; ".join(f"{name} needs {what}" for name, what in lacking.items()))
    status = show(scores({n: s for n, s in chosen.items() if n not in lacking}), is_json=args.json)
    for name, what in lacking.items():
        print(f"not run: {name}, which needs {what}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
