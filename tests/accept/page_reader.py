"""A reader of the page in a real browser, for page.py: what they press, and what must be true."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Locator, Page

SERVER = Path(__file__).with_name("page_server.py")
LOCALE = Path(__file__).parents[2] / "bobot" / "server" / "web" / "locale"
SIZES = {"desk": {"width": 1280, "height": 850}, "phone": {"width": 390, "height": 800}}
FLAGS = [
    *("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
LONGEST_MS = 15_000


@dataclass
class Checks:
    """What was found, and where pictures go."""

    folder: Path
    axe: str
    """The source of axe-core."""
    chromium: str = ""
    failed: list[str] = field(default_factory=list)
    num_good: int = 0

    def check(self, name: str, is_good: object, detail: object = "") -> None:
        print(f"{'pass' if is_good else 'FAIL'} {name} {detail}", flush=True)
        if is_good:
            self.num_good += 1
        else:
            self.failed.append(name)


class Reader:
    """One browser window with a language, a theme and a size of its own."""

    def __init__(
        self,
        browser: Browser,
        address: str,
        checks: Checks,
        *,
        language: str = "en",
        theme: str = "light",
        size: str = "desk",
    ) -> None:
        self.name = f"{language}-{theme}-{size}"
        self.is_phone = size == "phone"
        self.address = address
        self.checks = checks
        self.words = json.loads((LOCALE / f"{language}.json").read_text(encoding="utf-8"))
        self.context = browser.new_context(
            viewport=SIZES[size],  # type: ignore[arg-type]
            locale={"en": "en-US", "id": "id-ID"}[language],
            color_scheme=theme,  # type: ignore[arg-type]
            has_touch=self.is_phone,
            permissions=["clipboard-read", "clipboard-write"],
        )
        self.context.set_default_timeout(LONGEST_MS)
        self.page: Page = self.context.new_page()
        self.problems: list[str] = []
        """Errors in the console, broken rules of the policy for contents, foreign requests."""
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda m: m.type == "error" and self.problems.append(m.text))
        self.context.on("request", self._requested)
        self.page.add_init_script(
            "document.addEventListener('securitypolicyviolation',"
            " (e) => console.error('policy', e.violatedDirective, e.blockedURI))"
        )
        self.open("")

    def _requested(self, request: Any) -> None:
        if not request.url.startswith((self.address, "blob:", "data:")):
            self.problems.append(request.url)

    def open(self, path: str) -> None:
        self.page.goto(f"{self.address}/app/{path}")
        self.page.wait_for_selector("#question")

    def check(self, name: str, is_good: object, detail: object = "") -> None:
        self.checks.check(f"{self.name}: {name}", is_good, detail)

    def word(self, key: str, **values: object) -> str:
        text = self.words[key]
        for name, value in values.items():
            text = text.replace("{" + name + "}", str(value))
        return text

    def button(self, key: str, **values: object) -> Locator:
        """The last button of the page with this name."""
        return self.page.get_by_role("button", name=self.word(key, **values), exact=True).last

    def sidebar(self) -> None:
        if self.is_phone:
            self.page.locator(".bar .only-phone").click()
            self.page.wait_for_timeout(250)

    def new_chat(self) -> None:
        self.page.keyboard.press("Control+Shift+O")
        self.page.wait_for_selector(".welcome")

    def begin(self, text: str) -> None:
        """Sends a question; returns when its answer is under way."""
        self.page.fill("#question", text)
        self.page.keyboard.press("Enter")
        self.page.wait_for_selector("button.round:not(.primary)")

    def ask(self, text: str) -> None:
        """Sends a question; returns when it is answered."""
        num = self.page.locator(".typed").count()
        self.page.fill("#question", text)
        self.page.keyboard.press("Enter")
        self.until(f"document.querySelectorAll('.typed').length > {num}")
        self.wait()

    def told(self, text: str) -> Any:
        """Sends a question that is answered with JSON; returns that."""
        self.ask(text)
        return json.loads(self.stored()["messages"][-1]["content"])

    def until(self, condition: str) -> None:
        """Playwright's own wait_for_function needs eval, which the page's policy forbids."""
        end = time.monotonic() + LONGEST_MS / 1000
        while not self.page.evaluate(condition):
            if time.monotonic() > end:
                raise TimeoutError(condition)
            self.page.wait_for_timeout(50)

    def ask_both(self, text: str) -> None:
        """Sends a question in the arena; returns when both have answered."""
        self.page.fill("#question", text)
        self.page.keyboard.press("Enter")
        self.page.wait_for_selector(".votes")

    def wait(self) -> None:
        self.page.wait_for_selector("button.round.primary")

    def answer(self) -> str:
        return self.page.locator(".from-model").last.locator(".prose").inner_text()

    def questions(self) -> list[str]:
        return self.page.locator(".typed").all_inner_texts()

    def api(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.address}/app/api{path}", timeout=20) as answer:
            return json.load(answer)

    def stored(self) -> dict[str, Any]:
        """The open conversation as the server has it."""
        return self.api(f"/conversations/{self.page.url.rpartition('/')[2]}")

    def shot(self, name: str) -> None:
        self.page.wait_for_timeout(350)
        self.page.screenshot(path=str(self.checks.folder / f"{self.name}-{name}.png"))

    def look(self, name: str) -> None:
        """A picture, axe-core's findings, and whether anything sticks out at the side."""
        self.shot(name)
        self.page.evaluate(self.checks.axe)
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        found = found["violations"]
        for one in found:
            nodes = [node["html"][:90] for node in one["nodes"][:3]]
            print(f"     axe {self.name} {name}: {one['impact']} {one['id']} {nodes}")
        heavy = [one["id"] for one in found if one["impact"] in ("serious", "critical")]
        self.check(f"axe {name}", not heavy, f"{len(found)} findings, serious: {heavy}")
        wide = self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        self.check(f"{name} fits the width", wide <= 0, wide)

    def close(self) -> None:
        self.check("no error, no broken policy, no foreign request", not self.problems)
        for problem in self.problems:
            print(f"     {problem}")
        self.context.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


@contextmanager
def served(python: str, folder: str, port: int, *more: str) -> Iterator[subprocess.Popen[bytes]]:
    """The server's process, once it answers; it is killed -9 at the end of the block."""
    with subprocess.Popen([python, str(SERVER), folder, str(port), *more]) as process:
        try:
            for _ in range(300):
                time.sleep(0.2)
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                    break
                except OSError:
                    continue
            yield process
        finally:
            process.kill()
