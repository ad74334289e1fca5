"""All foreign clients and suites, one after the other, with their scores as a table.

    python tests/accept [SUITE ...] [--json] [--spec openapi.yaml] [--gpt-oss FOLDER]
    make accept

The suites that need a file from elsewhere run where it is given; each suite's own file says what it
checks and what it needs. What they install goes into build/accept. All of it takes an hour; `storm`
alone ten minutes. Exits 1 where a part has less than it needs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import clients
import fuzz
import gpt_oss_suite
import schema_suite
import sdk_suites
import storm
from scores import Score, as_json, table


def suites(spec: Path | None, gpt_oss: Path | None) -> dict[str, Callable[[], Iterator[Score]]]:
    found: dict[str, Callable[[], Iterator[Score]]] = {
        "clients": clients.scores,
        "sdk": sdk_suites.scores,
    }
    if spec is not None:
        found["schema"] = lambda: schema_suite.scores(spec)
    if gpt_oss is not None:
        found["gpt-oss"] = lambda: gpt_oss_suite.scores(gpt_oss)
    return {**found, "fuzz": fuzz.scores, "storm": storm.scores}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/accept")
    parser.add_argument("names", nargs="*", metavar="SUITE", help="default: all")
    parser.add_argument("--json", action="store_true", help="the scores as JSON")
    parser.add_argument("--spec", type=Path, help="OpenAI's openapi.yaml; see schema_suite.py")
    parser.add_argument("--gpt-oss", type=Path, help="its test; see gpt_oss_suite.py")
    args = parser.parse_args()
    known = suites(args.spec, args.gpt_oss)
    if unknown := [name for name in args.names if name not in known]:
        parser.error(f"{', '.join(unknown)}: not among {', '.join(known)}, or a file is not given")
    found: list[Score] = []
    for name in args.names or known:
        for score in known[name]():
            found.append(score)
            told = f"{score.suite}, {score.part}: {score.passed} of {score.total}"
            print(told, file=sys.stderr, flush=True)
    print(as_json(found) if args.json else table(found))
    return 0 if all(score.is_fine for score in found) else 1


if __name__ == "__main__":
    sys.exit(main())
