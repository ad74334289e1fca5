"""The page in a real browser: what a reader does, in both languages and themes, at a desk and on a
phone, with a long conversation, under axe-core's eyes, through kill -9, and without a network.

    python tests/accept/page.py build/page --chromium /usr/bin/chromium --axe axe.min.js

needs playwright (pip) and axe-core's axe.min.js (npm). Screenshots go into the folder, to be looked
at. Prints a line for each check; exits 1 where one failed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import page_around
import page_talk
import page_whole
from page_reader import FLAGS, Checks, Reader, free_port, served
from playwright.sync_api import Browser, Error, sync_playwright

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--axe", required=True, type=Path)
    parser.add_argument("--python", default=sys.executable, help="that has bobot")
    parser.add_argument("--only", nargs="*", help="names of steps; default: all")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    checks = Checks(args.folder, args.axe.read_text(encoding="utf-8"), args.chromium)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=args.chromium, args=FLAGS)
        read(browser, args.python, checks, args.only)
        browser.close()
    print(f"{checks.num_good} checks passed, {len(checks.failed)} failed: {checks.failed}")
    sys.exit(1 if checks.failed else 0)


def read(browser: Browser, python: str, checks: Checks, only: list[str] | None) -> None:
    def is_wanted(step: object) -> bool:
        return not only or step.__name__ in only  # type: ignore[attr-defined]

    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        address = f"http://127.0.0.1:{port}"
        with served(python, folder, port):
            if is_wanted(page_whole.long):
                page_whole.long(browser, Reader(browser, address, checks))
            for language, theme, size in READERS:
                reader = Reader(browser, address, checks, language=language, theme=theme, size=size)
                for step in filter(is_wanted, STEPS):
                    try:
                        step(reader)
                    except (
                        Error,
                        TimeoutError,
                    ) as error:  # the other steps have something to say, too
                        reader.check(step.__name__, False, error)
                        reader.shot(f"failed-{step.__name__}")
                        reader.open("")
                reader.close()
            if is_wanted(page_whole.views):
                page_whole.views(browser, address, checks)
    for whole in filter(is_wanted, page_whole.SERVERS):
        whole(browser, python, checks)


if __name__ == "__main__":
    main()
