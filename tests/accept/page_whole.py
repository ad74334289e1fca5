"""The page as a whole: a long conversation, every view by the reader's own choice of language and
theme, a server that dies, and one that asks for a key.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from page_reader import Checks, Reader, free_port, served
from playwright.sync_api import Browser

MAX_TASK_MS = 200
"""What the longest task may take of the processor while a long conversation is opened and scrolled;
above it a press of a key is felt to be late. Other programs on the machine make a task last longer
by the clock, but not work more."""
NUM_FAR = 60


def long(browser: Browser, python: str, checks: Checks) -> None:
    """500 messages: how long opening takes, the longest task while scrolling, what is drawn."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        with served(python, folder, port):
            _long(browser, Reader(browser, f"http://127.0.0.1:{port}", checks))


def _long(browser: Browser, reader: Reader) -> None:
    page = reader.page
    page.evaluate(
        "window.frames_ = []; let last = performance.now(); (function frame() {"
        " const now = performance.now(); frames_.push(now - last); last = now;"
        " requestAnimationFrame(frame); })()"
    )
    browser.start_tracing(page=page)
    begin = time.monotonic()
    page.get_by_role("link", name="A long conversation").click()
    page.wait_for_selector("[data-id='500'] .block")
    opened = time.monotonic() - begin
    reader.until("document.querySelectorAll('.message').length === 500")
    page.wait_for_timeout(500)
    opening = _tasks(browser.stop_tracing())
    drawn = page.locator(".message:has(.block)").count()
    reader.check("far messages are not drawn", drawn < NUM_FAR, f"{drawn} of 250 answers")
    browser.start_tracing(page=page)
    page.evaluate("frames_.splice(0)")
    for step in range(60):
        page.mouse.move(700, 400)
        page.mouse.wheel(0, -1500 if step < 50 else 1500)
        page.wait_for_timeout(30)
    page.evaluate("document.querySelector('.talk').scrollTop = 0")
    page.wait_for_selector("[data-id='2'] .block")
    frames = sorted(page.evaluate("frames_.splice(0)"))
    scrolling = _tasks(browser.stop_tracing())
    letters = page.evaluate("document.querySelector('.lines').textContent.length")
    print(f"     {letters} letters, the end seen after {opened:.2f} s")
    for name, tasks in (("opening", opening), ("scrolling", scrolling)):
        cpu, wall = max(tasks), max(task[1] for task in tasks)
        detail = f"longest task {cpu[0]:.0f} ms of the processor, {wall:.0f} ms by the clock"
        reader.check(f"{name} 500 messages never freezes", cpu[0] < MAX_TASK_MS, detail)
    print(
        f"     frames while scrolling: median {frames[len(frames) // 2]:.0f} ms,"
        f" 99 of 100 below {frames[len(frames) * 99 // 100]:.0f} ms, longest {frames[-1]:.0f} ms"
    )
    same = page.evaluate(BLOCKS)
    reader.check("blocks while it comes are those of the whole", same == [], same)
    reader.close()


def _tasks(trace: bytes) -> list[tuple[float, float]]:
    """Milliseconds of the processor and of the clock, of each task of the page's main thread."""
    events = json.loads(trace)["traceEvents"]
    named = {
        (one["pid"], one["tid"]): one["args"]["name"]
        for one in events
        if one["name"] == "thread_name"
    }
    return [
        (one.get("tdur", one["dur"]) / 1000, one["dur"] / 1000)
        for one in events
        if one["name"] == "RunTask"
        and one.get("ph") == "X"
        and named.get((one["pid"], one["tid"])) == "CrRendererMain"
    ]


BLOCKS = """async () => {
  const {Blocks} = await import('/app/web/js/blocks.js');
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


def views(browser: Browser, python: str, checks: Checks) -> None:
    """Language and theme as the reader chose them, against those of the system."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        with served(python, folder, port):
            for size, language, theme in itertools.product(
                ("desk", "phone"), ("en", "id"), ("light", "dark")
            ):
                address = f"http://127.0.0.1:{port}"
                _chosen(browser, address, checks, language, theme, size)


def _chosen(
    browser: Browser, address: str, checks: Checks, language: str, theme: str, size: str
) -> None:
    other = {"en": "id", "id": "en", "light": "dark", "dark": "light"}
    reader = Reader(
        browser, address, checks, language=other[language], theme=other[theme], size=size
    )
    page = reader.page
    reader.sidebar()
    reader.button("preferences").click()
    page.locator("dialog input[type=radio]").nth(["system", "light", "dark"].index(theme)).check()
    page.locator("dialog select").select_option(language)
    page.keyboard.press("Escape")
    page.reload()
    page.wait_for_selector(".welcome")
    reader.name = f"chosen-{language}-{theme}-{size}"
    worn = page.evaluate(
        "[document.documentElement.lang, getComputedStyle(document.body).backgroundColor]"
    )
    ground = {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 24, 23)"}[theme]
    reader.check("language and theme are kept", worn == [language, ground], worn)
    reader.look("welcome")
    reader.sidebar()
    page.locator(".row a", has_text="A long conversation").click()
    page.wait_for_selector("[data-id='500'] .maths.set")
    reader.look("long")
    reader.close()


def killing(browser: Browser, python: str, checks: Checks) -> None:
    """kill -9 in the middle of an answer: the page says so, waits, and goes on by itself; at most
    the last second is lost.
    """
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        with served(python, folder, port) as process:
            reader = Reader(browser, f"http://127.0.0.1:{port}", checks)
            reader.name = "killed"
            page = reader.page
            reader.begin("slowly please")
            page.wait_for_selector(".meter")
            page.wait_for_timeout(2000)
            before = len(reader.answer())
            page.wait_for_timeout(1100)
            process.kill()
            process.wait()
        page.wait_for_selector(".failure")
        seen, said = len(reader.answer()), page.locator(".failure p").inner_text()
        reader.check("the page says that the server is gone", said == reader.word("unreachable"))
        reader.check("what came is still to be read", seen >= before, (before, seen))
        page.fill("#question", "Are you there?")
        page.keyboard.press("Enter")
        page.wait_for_timeout(500)
        typed = page.input_value("#question")
        reader.check("a question is not lost meanwhile", typed == "Are you there?", typed)
        reader.shot("gone")
        with served(python, folder, port):
            reader.until("!document.querySelector('.failure')")
            page.wait_for_selector(".message .block")
            after, note = len(reader.answer()), page.locator(".note").inner_text()
            is_kept = before <= after <= seen
            reader.check("kill -9 loses a second at most", is_kept, (before, after, seen))
            reader.check("a cut answer says so", note == reader.word("cut_off"), note)
            page.keyboard.press("Enter")
            page.wait_for_selector("button.round:not(.primary)")
            reader.wait()
            asked = reader.questions()
            reader.check("the talk goes on", asked == ["slowly please", "Are you there?"], asked)
            reader.shot("back")
            reader.context.close()


def keyed(browser: Browser, python: str, checks: Checks) -> None:
    """A server with keys: the page asks for one, and tells a wrong one from a right one."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        with served(python, folder, port, "key"):
            reader = Reader(browser, f"http://127.0.0.1:{port}", checks)
            reader.name = "keyed"
            page = reader.page
            page.wait_for_selector("dialog input[type=password]")
            reader.look("key")
            page.fill("dialog input", "wrong")
            page.keyboard.press("Enter")
            page.wait_for_timeout(500)
            refused = page.locator("dialog [role=alert]").inner_text()
            reader.check("a wrong key is told", refused == reader.word("key_refused"), refused)
            page.fill("dialog input", "a key for tests")
            page.keyboard.press("Enter")
            reader.until("!document.querySelector('dialog')")
            page.get_by_role("link", name="A long conversation").wait_for()
            reader.check("a right key opens the page", page.locator(".who").count() == 0)
            reader.context.close()


def offline(browser: Browser, python: str, checks: Checks) -> None:
    """page_offline.py, whose own Chromium cannot reach anything either."""
    script = str(Path(__file__).with_name("page_offline.py"))
    command = [sys.executable, script, str(checks.folder), "--python", python]
    command += ["--chromium", checks.chromium]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout, end="")
    told = done.stderr[-500:] if done.returncode else ""
    checks.check("offline", done.returncode == 0, told)


PARTS = [long, views, killing, keyed, offline]
