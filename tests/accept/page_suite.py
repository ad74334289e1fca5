"""page.py with what it needs: playwright and axe-core from the registries, and a Chromium.

    python tests/accept/page_suite.py [--chromium PATH] [PART ...]

Screenshots and the output lie in build/accept/page-shots.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from scores import Score, of_checks, show
from serving import BUILD, environment_with_bobot, node_with, python_with

PARTS = (
    "en-light-desk", "id-dark-desk", "id-light-phone", "en-dark-phone", "long", "views", "killing",
    "keyed", "offline",
)  # fmt: skip
"""Of page.py."""


def chromium() -> str | None:
    """The first one in PATH."""
    return shutil.which("chromium") or shutil.which("google-chrome")


def scores(browser: str, parts: tuple[str, ...] = PARTS) -> Iterator[Score]:
    python = python_with("page", "playwright==1.65.2")
    axe = node_with("axe", "axe-core@4.14.1") / "node_modules" / "axe-core" / "axe.min.js"
    folder = BUILD / "page-shots"
    folder.mkdir(parents=True, exist_ok=True)
    environment = environment_with_bobot(BUILD / "page-home")
    script = Path(__file__).with_name("page.py")
    words = ["--axe", axe, "--chromium", browser, "--python", sys.executable]
    for part in parts:
        command = [python, script, folder, *words, "--parts", part]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        (folder / f"{part}.log").write_text(done.stdout + done.stderr)
        yield of_checks("page", part, done)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--chromium", default=chromium())
    args = parser.parse_args()
    if args.chromium is None:
        parser.error("no chromium was found in PATH; name one with --chromium")
    return show(scores(args.chromium, tuple(args.parts) or PARTS))


if __name__ == "__main__":
    sys.exit(main())
