"""The page in a real browser: what a reader does, in both languages and themes, on a phone, with a
long conversation, and under axe-core's eyes.

    python tests/accept/page.py FOLDER --chromium /usr/bin/chromium --axe axe.min.js

needs playwright (pip) and axe-core's axe.min.js (npm). Screenshots go into FOLDER, to be looked at.
Prints a line for each check; exits 1 where one failed.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, Playwright, sync_playwright

SERVER = Path(__file__).with_name("page_server.py")
DESK, PHONE = {"width": 1280, "height": 850}, {"width": 390, "height": 800}
MAX_FRAME_MS = 200
"""The longest task while a long conversation is scrolled."""

failed: list[str] = []


def check(name: str, is_good: bool, detail: object = "") -> None:
    print(f"{'ok  ' if is_good else 'FAIL'} {name} {detail}", flush=True)
    if not is_good:
        failed.append(name)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


@contextmanager
def served(folder: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The server's process, once it answers; it is killed -9 at the end of the block."""
    command = [ARGS.server_python or sys.executable, str(SERVER), folder, str(port)]
    with subprocess.Popen(["bash", "-c", 'exec "$@"', "bash", *command]) as process:
        try:
            for _ in range(150):
                time.sleep(0.2)
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                    break
                except OSError:
                    continue
            yield process
        finally:
            process.kill()


def ask(page: Page, text: str) -> None:
    page.fill("#question", text)
    page.keyboard.press("Enter")
    page.wait_for_selector("button.round:not(.primary)")
    page.wait_for_selector("button.round.primary", timeout=20000)


def shot(page: Page, name: str) -> None:
    page.wait_for_timeout(350)
    page.screenshot(path=str(Path(ARGS.folder) / f"{name}.png"))


def axe(page: Page, name: str) -> None:
    """Violations of every weight are printed; serious and critical ones fail."""
    page.evaluate(Path(ARGS.axe).read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    for one in found:
        nodes = [node["html"][:90] for node in one["nodes"][:3]]
        print(f"     axe {name}: {one['impact']} {one['id']} x{len(one['nodes'])} {nodes}")
    heavy = [one["id"] for one in found if one["impact"] in ("serious", "critical")]
    check(f"axe {name}", not heavy, f"{len(found)} findings, serious: {heavy}")


def talking(page: Page) -> None:
    """Asking, editing, branches, files, probabilities, markdown that is hostile."""
    ask(page, "What is the area of a circle?")
    page.wait_for_selector(".maths.set")
    check("code is coloured", page.locator(".hljs-keyword").count() > 0)
    check("formulas are set", page.locator("math").count() == 2)
    hostile = page.evaluate(
        "[...document.querySelectorAll('.prose script, .prose img, .prose a')].length"
    )
    check("hostile markdown is text", hostile == 0, hostile)
    shot(page, "talk")
    axe(page, "talk")
    page.get_by_label("Another answer").click()
    page.wait_for_selector(".turner")
    page.wait_for_selector("button.round.primary", timeout=20000)
    check("a second answer is a branch", "2 of 2" in page.locator(".turner").inner_text())
    page.get_by_label("Edit the question").click()
    page.keyboard.press("Control+A")
    page.keyboard.type("And of a square?")
    page.keyboard.press("Enter")
    page.wait_for_selector("button.round:not(.primary)")
    page.wait_for_selector("button.round.primary", timeout=20000)
    typed = page.locator(".typed").all_inner_texts()
    check("an edited question is a branch", typed == ["And of a square?"], typed)
    page.locator(".talk").focus()
    page.keyboard.press("Alt+ArrowLeft")
    page.wait_for_timeout(200)
    typed = page.locator(".typed").all_inner_texts()
    check("keys turn the branch", typed == ["What is the area of a circle?"], typed)
    page.set_input_files("form.composer input[type=file]", files=[FILE])
    check("a file is a chip", page.locator(".composer .chip").count() == 1)
    page.keyboard.press("Control+Shift+P")
    ask(page, "Look at this file")
    page.locator(".tokens .token").nth(2).hover()
    page.wait_for_selector(".alternatives")
    check("alternatives of a token", page.locator(".alternatives tr").count() == 3)
    shot(page, "tokens")
    axe(page, "tokens")
    page.keyboard.press("Control+Shift+P")
    said = page.locator("[role=status]").first.inner_text()
    check("the answer is announced", "area" in said, said[:40])


FILE = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"a note\n"}


def stopping(page: Page) -> None:
    """A page that is loaded again takes up the answer; Esc stops it."""
    page.keyboard.press("Control+Shift+O")
    page.fill("#question", "Once more")
    page.keyboard.press("Enter")
    page.wait_for_selector(".meter")
    page.reload()
    page.wait_for_selector(".meter")
    before = page.locator(".prose").last.inner_text()
    check("a reload takes the answer up", len(before) > 0, len(before))
    page.keyboard.press("Escape")
    page.wait_for_selector(".note")
    check("Esc stops", page.locator(".note").inner_text() == "Stopped.")


def arena(page: Page) -> None:
    page.keyboard.press("Control+Shift+A")
    page.wait_for_selector(".setup")
    shot(page, "arena-setup")
    ask(page, "Which of you is better?")
    hidden = page.locator(".side h2").all_inner_texts()
    check("the arena is blind", all("hidden" in text for text in hidden), hidden)
    shot(page, "arena-vote")
    axe(page, "arena")
    page.get_by_role("button", name="A is better").click()
    page.wait_for_selector(".ratings table")
    check("a vote makes ratings", page.locator(".ratings tbody tr").count() == 2)
    shot(page, "arena-ratings")


def long(page: Page) -> None:
    """500 messages: how long opening takes, the longest task while scrolling, what is drawn."""
    page.evaluate(
        "window.tasks = []; new PerformanceObserver((list) => tasks.push(...list.getEntries()"
        ".map((one) => one.duration))).observe({type: 'longtask'})"
    )
    begin = time.monotonic()
    page.get_by_role("link", name="A long conversation").click()
    page.wait_for_selector("[data-id='500'] .block")
    opened = time.monotonic() - begin
    opening = page.evaluate("tasks.splice(0)")
    drawn = page.locator(".message:has(.block)").count()
    check("far messages are not drawn", drawn < 60, f"{drawn} of 250 answers")
    for step in range(60):
        page.mouse.move(700, 400)
        page.mouse.wheel(0, -1500 if step < 50 else 1500)
        page.wait_for_timeout(30)
    page.evaluate("document.querySelector('.talk').scrollTop = 0")
    page.wait_for_selector("[data-id='2'] .block")
    scrolling = page.evaluate("tasks.splice(0)")
    letters = page.evaluate("document.querySelector('.lines').textContent.length")
    detail = f"opened {opened:.2f} s (tasks {opening}), scrolling tasks over 50 ms: {scrolling}"
    check("a long conversation scrolls", max(scrolling, default=0) < MAX_FRAME_MS, detail)
    print(f"     {letters} letters on the page")
    same = page.evaluate(BLOCKS)
    check("blocks while it comes are those of the whole", same == [], same)


BLOCKS = """async () => {
  const {Blocks, blocksOf} = await import('/app/web/js/blocks.js');
  const {htmlOf} = await import('/app/web/js/markdown.js');
  const wrong = [];
  for (const message of [...document.querySelectorAll('.prose.far')].slice(0, 3)) {
    const text = message.textContent, blocks = new Blocks();
    for (let i = 1; i <= text.length; i += 3) blocks.read(text.slice(0, i));
    blocks.read(text);
    const grown = [...blocks.done, blocks.open].map(htmlOf).join('');
    const flat = (html) => html.replace(/\\s+/g, ' ');
    if (flat(grown) !== flat(htmlOf(text))) wrong.push(text.slice(0, 40));
  }
  return wrong;
}"""


def views(page: Page, language: str, theme: str, size: str) -> None:
    name = f"{language}-{theme}-{size}"
    page.evaluate(
        "([l, t]) => { localStorage['bobot.language'] = l; localStorage['bobot.theme'] = t; }",
        [language, theme],
    )
    page.goto(page.url.split("#")[0])
    page.reload()
    page.wait_for_selector(".welcome")
    shot(page, f"{name}-welcome")
    axe(page, f"{name} welcome")
    if size == "phone":
        page.locator(".bar .only-phone").click()
        shot(page, f"{name}-list")
    page.locator(".row a").nth(1).click()
    page.wait_for_selector(".message .block")
    shot(page, f"{name}-talk")
    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    check(f"{name} fits the width", wide <= 0, wide)
    for keys, selector in (("Control+Shift+S", ".panel"), ("Control+Shift+M", "dialog")):
        page.keyboard.press(keys)
        page.wait_for_selector(selector)
        shot(page, f"{name}-{selector.strip('.')}")
        axe(page, f"{name} {selector}")
    page.keyboard.press("Escape")
    page.keyboard.press("Control+Shift+S")
    page.locator(".talk").focus()
    page.keyboard.press("?")
    page.wait_for_selector("dialog .keys")
    shot(page, f"{name}-help")
    page.keyboard.press("Escape")


def killing(page: Page, folder: str, port: int, kill: Callable[[], object]) -> None:
    """kill -9 in the middle of an answer loses at most the last second."""
    page.goto(f"http://127.0.0.1:{port}/app/")
    page.wait_for_selector("#question")
    page.fill("#question", "slowly please")
    page.keyboard.press("Enter")
    page.wait_for_selector(".meter")
    page.wait_for_timeout(2000)
    words = page.locator(".message .prose").last
    before = len(words.inner_text())
    page.wait_for_timeout(1100)
    seen = len(words.inner_text())
    kill()
    with served(folder, port):
        page.reload()
        page.wait_for_selector(".message .block")
        after = len(words.inner_text())
        note = page.locator(".note").inner_text()
        check("kill -9 loses a second at most", before <= after <= seen, (before, after, seen))
        check("a cut answer says so", "cut off" in note, note)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        port = free_port()
        with served(folder, port) as process:
            page = drive(driver, f"http://127.0.0.1:{port}")
            killing(page, folder, port, process.kill)
        page.context.browser.close()
    sys.exit(1 if failed else 0)


def drive(driver: Playwright, address: str) -> Page:
    browser = driver.chromium.launch(executable_path=ARGS.chromium)
    context = browser.new_context(viewport=DESK, locale="en-US")
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda m: m.type == "error" and problems.append(m.text))
    page.on("request", lambda r: r.url.startswith(address) or problems.append(r.url))
    page.goto(f"{address}/app/")
    page.wait_for_selector("#question")
    steps: list[Callable[[Page], None]] = [talking, stopping, arena, long]
    for step in steps:
        step(page)
    for size, viewport in (("desk", DESK), ("phone", PHONE)):
        page.set_viewport_size(viewport)
        for language in ("en", "id"):
            for theme in ("light", "dark"):
                views(page, language, theme, size)
    check("no error in the console, no foreign request", not problems, json.dumps(problems))
    page.set_viewport_size(DESK)
    page.evaluate("localStorage['bobot.language'] = 'en'")
    return page


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--chromium")
    parser.add_argument("--axe", required=True)
    parser.add_argument("--server-python", help="that has bobot; default: the one running this")
    ARGS = parser.parse_args()
    main()
