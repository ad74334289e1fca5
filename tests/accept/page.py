"""The page in a real browser: what a reader does, in both languages and themes, at a desk and on a
phone, with a long conversation, under axe-core's eyes, through kill -9, and without a network.

    python tests/accept/page.py FOLDER --axe axe.min.js [--chromium PATH] [--parts PART ...]

runs in an environment with playwright; page_suite.py makes one and gets axe-core. Screenshots go
into the folder, to be looked at. Prints a line for each check; exits 1 where one failed.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import page_around
import page_talk
import page_whole
from page_reader import FLAGS, Checks, Reader, free_port, served
from playwright.sync_api import Browser, Error, sync_playwright

Part = Callable[[Browser, str, Checks], None]
"""Is given the Python of the server, too."""

READERS = [
    ("en", "light", "desk"),
    ("id", "dark", "desk"),
    ("id", "light", "phone"),
    ("en", "dark", "phone"),
]
"""Every pair of language, theme and size; all steps are done by each of them."""
STEPS = [
    page_talk.answering,
    page_talk.branching,
    page_talk.attaching,
    page_talk.probabilities,
    page_talk.stopping,
    page_talk.instructing,
    page_talk.wild,
    page_around.searching,
    page_around.picking,
    page_around.hosting,
    page_around.keeping,
    page_around.arena,
    page_around.keys_alone,
]


def reading(
    language: str,
    theme: str,
    size: str,
    browser: Browser,
    python: str,
    checks: Checks,
    only: list[str] | None = None,
) -> None:
    """All steps of one reader, or those named."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        with served(python, folder, port):
            address = f"http://127.0.0.1:{port}"
            reader = Reader(browser, address, checks, language=language, theme=theme, size=size)
            for step in STEPS:
                if only and step.__name__ not in only:
                    continue
                try:
                    step(reader)
                except (Error, TimeoutError) as error:  # the other steps have something to say, too
                    reader.check(step.__name__, False, error)
                    reader.shot(f"failed-{step.__name__}")
                    reader.open("")
            reader.close()


def parts(only: list[str] | None) -> dict[str, Part]:
    """`only`: see reading()."""
    readers: dict[str, Part] = {
        "-".join(reader): functools.partial(reading, *reader, only=only) for reader in READERS
    }
    return {**readers, **{part.__name__: part for part in page_whole.PARTS}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--axe", required=True, type=Path)
    parser.add_argument("--python", default=sys.executable, help="that has bobot")
    parser.add_argument("--parts", nargs="*", choices=[*parts(None)], help="default: all")
    parser.add_argument("--only", nargs="*", help="names of a reader's steps; default: all")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    checks = Checks(args.folder, args.axe.read_text(encoding="utf-8"), args.chromium)
    known = parts(args.only)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=args.chromium, args=FLAGS)
        for name in args.parts or known:
            try:
                known[name](browser, args.python, checks)
            except (Error, TimeoutError) as error:  # so have the other parts
                checks.check(name, False, error)
        browser.close()
    print(f"{checks.num_good} checks passed, {len(checks.failed)} failed: {checks.failed}")
    sys.exit(1 if checks.failed else 0)


if __name__ == "__main__":
    main()
