"""What a suite reports: how much of each part passes, and how much has to."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass

WIDTH = 80
"""Letters of a failure that are shown."""


@dataclass(frozen=True)
class Score:
    suite: str
    part: str
    passed: int
    total: int
    least: int | None = None
    """How many must pass; None: all. The file of the suite says what the others miss."""
    note: str = ""

    @property
    def is_fine(self) -> bool:
        return self.total > 0 and self.passed >= (self.total if self.least is None else self.least)


def table(scores: Iterable[Score]) -> str:
    """One line for each part, in columns."""
    rows = [("suite", "part", "pass", "of", "needed", "")]
    for score in scores:
        least = score.total if score.least is None else score.least
        verdict = "" if score.is_fine else "FAIL"
        numbers = (str(score.passed), str(score.total), str(least))
        rows.append((score.suite, score.part, *numbers, f"{verdict} {score.note}".strip()))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = []
    for suite, part, *numbers, note in rows:
        figures = "  ".join(n.rjust(w) for n, w in zip(numbers, widths[2:], strict=True))
        lines.append(f"{suite:{widths[0]}}  {part:{widths[1]}}  {figures}  {note}".rstrip())
    return "\n".join(lines)


def show(scores: Iterable[Score], *, is_json: bool = False) -> int:
    """Prints them, each as it comes to stderr and all at the end; returns the exit status."""
    found: list[Score] = []
    for score in scores:
        found.append(score)
        told = f"{score.suite}, {score.part}: {score.passed} of {score.total}"
        print(told, file=sys.stderr, flush=True)
    print(as_json(found) if is_json else table(found))
    return 0 if all(score.is_fine for score in found) else 1


def as_json(scores: Iterable[Score]) -> str:
    return json.dumps([{**dataclasses.asdict(s), "is_fine": s.is_fine} for s in scores], indent=1)


def of_checks(suite: str, part: str, done: subprocess.CompletedProcess[str]) -> Score:
    """From a program's lines that begin with "pass" or "FAIL"; its status tells whether it came to
    its end.
    """
    lines = done.stdout.splitlines()
    passed = sum(line.startswith("pass ") for line in lines)
    failed = [line[5 : 5 + WIDTH] for line in lines if line.startswith("FAIL ")]
    if done.returncode and not failed:
        failed = [f"ended with status {done.returncode}"]
    return Score(suite, part, passed, passed + len(failed), note=", ".join(failed))
