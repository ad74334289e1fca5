"""Talking to one model on the page: answers, branches, files, probabilities, settings."""

from __future__ import annotations

import re

from page_reader import Reader

QUESTION = "What is the area of a circle?"
NOTE = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"a note\n```\nfenced\n```\n"}
BINARY = {"name": "cat.png", "mimeType": "image/png", "buffer": b"\x89PNG\x00\xff"}


def answering(reader: Reader) -> None:
    """An answer comes bit by bit with its speed, is set as it should be, and says whose it is."""
    page = reader.page
    reader.begin(QUESTION)
    page.wait_for_selector(".meter")
    lengths, meters = [], set()
    while page.locator("button.round:not(.primary)").count():
        lengths.append(len(page.locator(".lines").inner_text()))
        meters |= set(page.locator(".meter").all_inner_texts())
        page.wait_for_timeout(60)
    reader.check("an answer comes bit by bit", len(set(lengths)) > 4, len(set(lengths)))
    speed = reader.word("speed", n="N").replace("N", r"[\d.,]+")
    with_speed = [text for text in meters if re.search(speed, text)]
    reader.check("tokens/s while it comes", len(with_speed) > 1, f"{len(with_speed)} readings")
    page.wait_for_selector(".maths.set")
    page.wait_for_selector(".hljs-keyword")
    reader.check("formulas are set", page.locator("math").count() == 2)
    reader.check("code is coloured", page.locator(".hljs-keyword").count() >= 2)
    foreign = page.locator(".prose :is(script, img, a, iframe)").count()
    reader.check("hostile markdown is text", foreign == 0, foreign)
    facts = page.locator(".from-model .facts").inner_text()
    reader.check("what it took", re.search(speed, facts), facts)
    reader.check("who answered", page.locator(".who").inner_text() == "tulip-1b")
    page.locator(".code-head .copy").click()
    copied = page.evaluate("navigator.clipboard.readText()")
    reader.check("code is copied", copied.startswith("def area"), copied[:20])
    reader.until("document.querySelector('.unseen[role=status]').textContent.length > 3")
    reader.look("talk")


def branching(reader: Reader) -> None:
    """Another answer, an edited question, and the way back, by button and by key."""
    page = reader.page
    reader.button("regenerate").click()
    page.wait_for_selector(".turner")
    reader.wait()
    turner = page.locator(".turner").inner_text()
    reader.check("another answer is a branch", reader.word("of", n=2, count=2) in turner, turner)
    reader.button("edit_question").click()
    page.keyboard.press("Control+A")
    page.keyboard.type("And of a square?")
    page.keyboard.press("Enter")
    page.wait_for_selector("button.round:not(.primary)")
    reader.wait()
    reader.check("an edited question is a branch", reader.questions() == ["And of a square?"])
    page.locator(".talk").focus()
    page.keyboard.press("Alt+ArrowLeft")
    page.wait_for_timeout(200)
    reader.check("a key turns the branch", reader.questions() == [QUESTION])
    reader.button("branch_before").click()
    turner = page.locator(".from-model .turner").inner_text()
    reader.check("a button turns the answer", reader.word("of", n=1, count=2) in turner, turner)
    page.locator(".from-user").get_by_role("button", name=reader.word("branch_after")).click()
    page.wait_for_timeout(200)
    reader.check("a button turns the question", reader.questions() == ["And of a square?"])
    reader.ask("A second question")
    before = reader.stored()
    page.reload()
    page.wait_for_selector(".message")
    after = reader.stored()
    reader.check("the branch shown is kept", reader.questions()[0] == "And of a square?")
    reader.check("the tree is kept", before["messages"] == after["messages"])


def attaching(reader: Reader) -> None:
    page = reader.page
    page.set_input_files("form.composer input[type=file]", files=[NOTE])
    page.locator(".composer .chip").first.wait_for()  # the page reads it first
    reader.check("a file is a chip", page.locator(".composer .chip").count() == 1)
    page.set_input_files("form.composer input[type=file]", files=[BINARY])
    page.wait_for_selector(".failure")
    said = page.locator(".failure p").inner_text()
    reader.check("a picture is refused by name", "cat.png" in said, said)
    reader.shot("refused")
    page.locator(".failure button").click()
    told = reader.told("echo this file")
    asked = told["messages"][-1]["content"]
    is_fenced = asked.startswith("echo this file\n\nnotes.txt:\n````\na note\n")
    reader.check("the model reads the file", is_fenced, repr(asked[:60]))
    reader.check("the question keeps its chip", page.locator(".bubble .chip").count() == 1)


def probabilities(reader: Reader) -> None:
    page = reader.page
    page.keyboard.press("Control+Shift+P")
    reader.ask("Once more, with numbers")
    token = page.locator(".tokens").last.locator(".token").nth(12)
    token.scroll_into_view_if_needed()
    token.hover()
    page.wait_for_selector(".alternatives")
    rows = page.locator(".alternatives tr").all_inner_texts()
    reader.check("alternatives of a token", len(rows) == 3, rows)
    shares = [float(re.sub(r"[^\d.]", "", row.replace(",", ".").split("\t")[1])) for row in rows]
    reader.check("their shares make 100 %", abs(sum(shares) - 100) < 0.2, shares)
    near, far = token.bounding_box(), page.locator(".alternatives").bounding_box()
    assert near and far
    gap = min(abs(far["y"] - near["y"] - near["height"]), abs(near["y"] - far["y"] - far["height"]))
    reader.check("they stand beside the token", gap < 30, gap)
    clip = page.locator(".message:has(.alternatives)").evaluate(
        "(found) => getComputedStyle(found).contentVisibility"
    )
    reader.check("no message clips them", clip == "visible", clip)
    reader.look("tokens")
    token.focus()
    page.keyboard.press("ArrowRight")
    place = page.evaluate("document.activeElement.dataset.place")
    reader.check("arrows go from token to token", place == "13", place)
    page.keyboard.press("Escape")
    reader.check("Esc closes them", page.locator(".alternatives").count() == 0)
    page.keyboard.press("Control+Shift+P")
    reader.until("!document.querySelector('.tokens')")


def stopping(reader: Reader) -> None:
    """A page that is loaded again takes up the answer; Esc and the button stop it."""
    page = reader.page
    reader.new_chat()
    reader.begin("slowly, once")
    page.wait_for_selector(".meter")
    page.reload()
    page.wait_for_selector(".meter")
    before = len(page.locator(".prose").last.inner_text())
    reader.check("a reload takes the answer up", before > 0, before)
    page.keyboard.press("Escape")
    page.wait_for_selector(".note")
    stopped = page.locator(".note").inner_text()
    reader.check("Esc stops", stopped == reader.word("was_stopped"), stopped)
    reader.begin("slowly, twice")
    page.wait_for_selector(".meter")
    reader.button("stop_answer").click()
    reader.until("document.querySelectorAll('.note').length === 2")
    last = reader.stored()["messages"][-1]
    is_kept = last["finish_reason"] == "stopped" and reader.answer().startswith("The")
    reader.check("the button stops and keeps what was said", is_kept, len(last["content"]))


def instructing(reader: Reader) -> None:
    """Persona, system prompt and sampling reach the model; a refusal can be tried again."""
    page = reader.page
    reader.new_chat()
    page.locator(".personas button").last.click()
    told = reader.told("echo the persona")
    system = told["messages"][0]
    is_rebel = system["role"] == "system" and len(system["content"]) > 100
    reader.check("a persona has its prompt", is_rebel, system["content"][:40])
    page.keyboard.press("Control+Shift+S")
    page.wait_for_selector(".panel")
    panel = page.locator(".panel")
    panel.locator("textarea").fill("Answer in verse.")
    for name, value in (("temperature", "0.3"), ("top_k", "7"), ("seed", "11")):
        panel.get_by_label(name, exact=True).fill(value)
    page.keyboard.press("Tab")
    page.wait_for_timeout(300)
    reader.look("panel")
    reader.button("close").click() if reader.is_phone else page.keyboard.press("Control+Shift+S")
    told = reader.told("echo the settings")
    reader.check("a system prompt is sent", told["messages"][0]["content"] == "Answer in verse.")
    wanted = {"temperature": 0.3, "top_k": 7, "seed": 11}
    reader.check("sampling is sent", told["sampling"] == wanted, told["sampling"])
    page.fill("#question", "Please fail")
    page.keyboard.press("Enter")
    page.wait_for_selector(".failure")
    reader.look("failure")
    is_kept = "Please fail" in reader.questions()
    retry = page.get_by_role("button", name=reader.word("try_again")).count()
    reader.check("a refusal is told and can be tried again", is_kept and retry == 1)
    page.locator(".failure .plain").click()


def wild(reader: Reader) -> None:
    """Long words, wide tables, code and formulas stay within the page."""
    reader.new_chat()
    reader.ask("Something wild")
    reader.page.wait_for_selector(".maths.set")
    reader.page.locator(".talk").evaluate("(box) => { box.scrollTop = 60; }")
    reader.look("wild")
    wide = reader.page.locator(".talk").evaluate("(box) => box.scrollWidth - box.clientWidth")
    cells = reader.page.locator(".table td").evaluate_all(
        "(cells) => [cells.at(-1).clientHeight, getComputedStyle(cells.at(-1)).textAlign]"
    )
    reader.check("words of a wide table stay whole", cells[0] < 110, cells)
    reader.check("a column is set to the right", cells[1] == "right", cells)
    reader.check("nothing is wider than the talk", wide <= 0, wide)
    money = "Harganya Rp10.000, atau $5 dan $6." in reader.answer()
    reader.check("prices are no formulas", money)
