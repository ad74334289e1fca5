"""The page in Chromium with the embedded model, in a network namespace in which there is nothing
but loopback: it loads, answers, sets formulas and code, and asks for nothing from elsewhere.

    python tests/accept/page_offline.py FOLDER --chromium /usr/bin/chromium --python PYTHON

page.py runs it. Needs playwright; prints CANNOT where no namespace can be made.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from no_network import enter_namespace
from page_reader import FLAGS, Checks, Reader
from playwright.sync_api import sync_playwright


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--python", default=sys.executable)
    args = parser.parse_args()
    if not enter_namespace():
        print("CANNOT make a network namespace here")
        return
    checks = Checks(args.folder, axe="")
    data = str(args.folder.resolve() / "offline-data")
    environ = {**os.environ, "XDG_DATA_HOME": data, "XDG_CONFIG_HOME": data}
    command = [args.python, "-m", "bobot", "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as server:
        assert server.stdout is not None
        port = 0
        for line in server.stdout:
            port = int(found[1]) if (found := re.search(r"://[\d.]+:(\d+)", line)) else port
            if "ready" in line:
                break
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=args.chromium, args=FLAGS)
            talk(Reader(browser, f"http://127.0.0.1:{port}", checks))
            browser.close()
        server.kill()
    sys.exit(1 if checks.failed else 0)


def talk(reader: Reader) -> None:
    page = reader.page
    reader.name = "offline"
    reader.ask("Write a haiku about the rain.")
    said = reader.answer()
    reader.check("the embedded model answers", len(said) > 10, repr(said[:60]))
    who = page.locator(".who").last.inner_text()
    reader.check("by its name", who == "bobot", who)
    reader.shot("answer")
    reader.close()


if __name__ == "__main__":
    main()
