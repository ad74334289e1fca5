"""What stands around the talk: lists, search, files, models, privacy, the arena, keys alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from page_reader import Reader

HOSTED = "openai:gpt-4.1"


def searching(reader: Reader) -> None:
    """A word in the middle of a long conversation is found and gone to."""
    page = reader.page
    reader.sidebar()
    reader.look("list")
    page.fill("#search", "1234. What")
    page.fill("#search", "zzz nothing")
    page.get_by_text(reader.word("nothing_found")).wait_for()
    page.fill("#search", "needle haystack")
    page.locator(".row.hit mark").first.wait_for()
    reader.shot("hits")
    page.locator(".row.hit a").first.click()
    page.wait_for_selector("[data-id]")
    page.wait_for_timeout(1500)
    place = page.locator(".typed", has_text="needle").evaluate(
        "(found) => { const box = document.querySelector('.talk').getBoundingClientRect();"
        " const at = found.getBoundingClientRect();"
        " return [at.top - box.top, box.height, document.activeElement.contains(found)]; }"
    )
    is_seen = -5 <= place[0] < place[1] and place[2]
    reader.check("a hit is gone to and has the focus", is_seen, place)
    reader.shot("found")
    reader.sidebar()
    page.fill("#search", "")
    reader.until("!document.querySelector('.row.hit')")
    if reader.is_phone:
        page.locator(".sidebar .brand button").click()


def _choose_model(reader: Reader, name: str) -> None:
    reader.page.keyboard.press("Control+Shift+M")
    reader.page.locator("dialog .models button", has_text=name).click()
    reader.until("!document.querySelector('dialog')")


def picking(reader: Reader) -> None:
    """Each model with its verdict and its speed; the long list can be narrowed."""
    page = reader.page
    reader.until("!document.querySelector('.model .pill')?.textContent.includes('...')")
    page.locator("#model").click()
    page.wait_for_selector("dialog .models")
    for _ in range(150):
        if reader.word("measuring") not in page.locator("dialog").inner_text():
            break
        page.wait_for_timeout(200)
    told = {
        row.locator(".name").inner_text(): row.inner_text()
        for row in page.locator("dialog .models button").all()
    }
    facts = {one["name"]: one["fit"] for one in reader.api("/models")["models"]}
    keys = {"fits": "fits", "may be slow": "may_be_slow", "won't fit": "wont_fit"}
    for name, fit in facts.items():
        wanted = reader.word(keys[fit["verdict"]] if fit else "hosted")
        reader.check(f"{name} is marked", wanted in told[name], wanted)
        if fit and fit["tokens_per_s"]:
            speed = reader.word("speed", n="").strip()
            reader.check(f"{name} has its speed", speed in told[name], told[name].split("\n")[-1])
    reader.look("models")
    page.locator("dialog input[type=search]").fill("405")
    page.wait_for_timeout(200)
    left = page.locator("dialog .models .name").all_inner_texts()
    reader.check("the list can be narrowed", left == ["oak-405b"], left)
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    reader.until("!document.querySelector('dialog')")


def hosting(reader: Reader) -> None:
    """A hosted answer has its name and its price; a private conversation bars hosted models."""
    page = reader.page
    reader.new_chat()
    _choose_model(reader, HOSTED)
    reader.ask("Hello afar")
    said = reader.answer()
    who = page.locator(".who").last.inner_text()
    reader.check("a hosted model answers by name", "From afar" in said and HOSTED in who, who)
    facts = page.locator(".from-model .facts").last.inner_text()
    cost = reader.stored()["messages"][-1]["usage"]["cost_usd"]
    reader.check("its price is shown", cost and "$0" in facts, f"{facts} ({cost})")
    reader.look("hosted")
    reader.button("private").click()
    reader.until("document.querySelector('.private').ariaPressed === 'true'")
    page.wait_for_timeout(200)
    chosen = page.locator("#model .name").inner_text()
    reader.check("private leaves the hosted model", chosen == "tulip-1b", chosen)
    page.locator("#model").click()
    row = page.locator("dialog .models button", has_text=HOSTED)
    reader.check("private bars hosted models", row.is_disabled())
    reader.look("private")
    page.keyboard.press("Escape")
    told = reader.told("echo whether it is private")
    stored = reader.stored()
    reader.check("private reaches the model", told["is_private"] and stored["is_private"])
    path = f"/app/api/conversations/{stored['id']}/answers"
    body = {"content": "x", "parent": stored["head"], "model": HOSTED}
    refused = page.request.post(reader.address + path, data=body).text()
    is_refused = '"error"' in refused and '"text"' not in refused
    reader.check("the server refuses it too", is_refused, refused[-160:-1])
    reader.button("private").click()


def keeping(reader: Reader) -> None:
    """Export, import, rename, remove, and a conversation that leaves no trace."""
    page = reader.page
    reader.sidebar()
    reader.button("preferences").click()
    page.wait_for_selector("dialog")
    reader.look("preferences")
    with page.expect_download() as download:
        reader.button("export_all").click()
    values = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    page.set_input_files("dialog input[type=file]", files=[_file(values)])
    page.locator("dialog [role=status]").wait_for()
    text = page.locator("dialog [role=status]").inner_text()
    num = len(values["conversations"])
    expected = reader.word("imported", added=0, known=num, skipped=0)
    reader.check("an export is known again", text == expected, text)
    page.set_input_files("dialog input[type=file]", files=[_file(_chatgpt(reader.name))])
    added = reader.word("imported", added=1, known=0, skipped=0)
    page.locator("dialog [role=status]", has_text=added).wait_for()
    page.keyboard.press("Escape")
    name = f"From ChatGPT {reader.name}"
    page.get_by_role("link", name=name).click()
    page.wait_for_selector(".turner")
    reader.check("ChatGPT's branches are there", "Blue, too." in reader.answer(), reader.answer())
    reader.sidebar()
    row = page.locator(".row", has_text=name)
    row.hover()
    row.get_by_role("button", name=reader.word("rename_it", title=name)).click()
    page.locator("dialog input").fill(f"Renamed {reader.name}")
    page.keyboard.press("Enter")
    row = page.locator(".row", has_text=f"Renamed {reader.name}")
    row.wait_for()
    row.hover()
    row.get_by_role("button", name=reader.word("remove_it", title=f"Renamed {reader.name}")).click()
    row.get_by_role("button", name=reader.word("sure")).click()
    row.wait_for(state="detached")
    reader.check("renamed and removed", f"Renamed {reader.name}" not in _titles(reader))
    reader.new_chat()
    page.keyboard.press("Control+Shift+S")
    page.get_by_label(reader.word("not_kept_hint")).check()
    page.keyboard.press("Control+Shift+S")
    reader.ask(f"leave no trace {reader.name}")
    found = [one for one in reader.api("/conversations")["conversations"] if not one["is_kept"]]
    reader.check("one that is not stored", found and found[0]["id"].startswith("passing-"))


def _file(values: object) -> Any:
    content = json.dumps(values).encode()
    return {"name": "conversations.json", "mimeType": "application/json", "buffer": content}


def _titles(reader: Reader) -> list[str]:
    return [one["title"] for one in reader.api("/conversations")["conversations"]]


def _chatgpt(name: str) -> list[dict[str, Any]]:
    """A conversation as in ChatGPT's export: two answers to one question, the second one shown."""

    def node(key: str, parent: str | None, children: list[str], role: str, text: str) -> Any:
        message = {
            "id": key,
            "author": {"role": role},
            "create_time": 1.7e9,
            "content": {"content_type": "text", "parts": [text]},
        }
        return {"id": key, "parent": parent, "children": children, "message": message}

    nodes = [
        {"id": "root", "parent": None, "children": ["q"], "message": None},
        node("q", "root", ["a", "b"], "user", "Which colour has the sky?"),
        node("a", "q", [], "assistant", "Blue."),
        node("b", "q", [], "assistant", "Blue, too."),
    ]
    head = {"id": f"gpt-{name}", "conversation_id": f"gpt-{name}", "current_node": "b"}
    times = {"create_time": 1.7e9, "update_time": 1.7e9}
    mapping = {"mapping": {one["id"]: one for one in nodes}}
    return [{**head, **times, **mapping, "title": f"From ChatGPT {name}"}]


def arena(reader: Reader) -> None:
    """Two of this machine blind; then one of this machine against a hosted one, by name."""
    page = reader.page
    page.keyboard.press("Control+Shift+A")
    page.wait_for_selector(".setup")
    reader.look("arena-setup")
    _pair(reader, "tulip-1b", "rose-8b")
    reader.ask_both("Which of you is better?")
    hidden = page.locator(".side h2").all_inner_texts()
    is_blind = all(reader.word("hidden") in text for text in hidden)
    names = page.locator(".columns").inner_text()
    reader.check("the arena is blind", is_blind and "tulip" not in names, hidden)
    page.locator(".arena .scroll").evaluate("(box) => { box.scrollTop = 0; }")
    bar, box = page.locator(".votes").bounding_box(), page.locator(".arena .scroll").bounding_box()
    assert bar and box
    is_free = bar["y"] >= box["y"] + box["height"] - 1
    reader.check("the votes cover no answer", is_free, (bar["y"], box["y"] + box["height"]))
    reader.look("arena-vote")
    votes = _num_votes(reader)
    reader.button("vote_a").click()
    page.wait_for_selector(".ratings table")
    page.wait_for_selector(".side.winner")
    reader.check("a vote is kept", _num_votes(reader) == votes + 1)
    reader.look("arena-verdict")
    reader.button("new_pair").click()
    _pair(reader, "tulip-1b", HOSTED)
    page.get_by_label(reader.word("blind_hint")).uncheck()
    reader.ask_both("And now?")
    heads = page.locator(".side h2").all_inner_texts()
    is_told = "tulip-1b" in heads[0] and HOSTED in heads[1]
    reader.check("local against hosted", is_told and "From afar" in _side(reader, 1), heads)
    reader.button("vote_b").click()
    page.wait_for_selector(".side.winner")
    page.locator(".arena .scroll").evaluate("(box) => { box.scrollTop = box.scrollHeight; }")
    rows = {row["model"]: row for row in reader.api("/arena/ratings")["ratings"]}
    is_rated = rows[HOSTED]["low"] <= rows[HOSTED]["elo"] <= rows[HOSTED]["high"]
    shown = page.locator(".ratings tbody tr", has_text=HOSTED).inner_text()
    reader.check("Elo with its interval", is_rated and "\u2013" in shown, shown)
    reader.look("arena-ratings")
    page.get_by_role("link", name=reader.word("open_conversation")).click()
    page.wait_for_selector(".turner")
    reader.check("both sides are branches", "2" in page.locator(".turner").first.inner_text())


def _pair(reader: Reader, *names: str) -> None:
    for place, name in enumerate(names):
        reader.page.locator(".setup select").nth(place).select_option(name)


def _side(reader: Reader, place: int) -> str:
    return reader.page.locator(".side").nth(place).inner_text()


def _num_votes(reader: Reader) -> int:
    return sum(row["num_votes"] for row in reader.api("/arena/ratings")["ratings"]) // 2


def keys_alone(reader: Reader) -> None:
    """A whole conversation without a pointer."""
    page = reader.page
    reader.open("")
    at = page.evaluate("document.activeElement.id")
    reader.check("the question has the focus at first", at == "question", at)
    page.evaluate("document.body.tabIndex = -1; document.body.focus()")
    page.keyboard.press("Tab")
    skip = page.evaluate("document.activeElement.className")
    page.keyboard.press("Enter")
    at = page.evaluate("document.activeElement.id")
    reader.check("the first Tab leads to the question", (skip, at) == ("skip", "question"), at)
    page.keyboard.type("By keys alone")
    page.keyboard.press("Enter")
    page.wait_for_selector("button.round:not(.primary)")
    reader.wait()
    page.keyboard.press("Alt+ArrowUp")
    page.keyboard.press("Alt+ArrowUp")
    page.keyboard.press("Alt+ArrowDown")
    seen = _tab_to(reader, reader.word("regenerate"))
    page.keyboard.press("Enter")
    page.wait_for_selector(".turner")
    reader.wait()
    reader.check("Tab reaches another answer", page.locator(".turner").count() == 1, seen)
    page.keyboard.press("Control+k")
    reader.until("document.activeElement.id === 'search'")
    page.keyboard.type("keys alone")
    page.locator(".row.hit").first.wait_for()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_timeout(500)
    reader.check("a hit is opened", "By keys alone" in reader.questions()[0])
    page.evaluate("document.querySelector('.talk').focus()")
    page.keyboard.press("?")
    page.wait_for_selector("dialog .keys")
    reader.look("help")
    page.keyboard.press("Escape")
    reader.until("!document.querySelector('dialog')")
    inside = page.evaluate("document.activeElement.className")
    reader.check("the focus comes back from a dialog", inside == "talk", inside)
    page.keyboard.press("/")
    reader.check(
        "/ leads to the question", page.evaluate("document.activeElement.id") == "question"
    )
    page.keyboard.press("Control+k")
    reader.until("document.activeElement.id === 'search'")
    page.keyboard.press("Control+a")
    page.keyboard.press("Delete")
    reader.until("!document.querySelector('.row.hit')")


def _tab_to(reader: Reader, name: str) -> str:
    for _ in range(40):
        reader.page.keyboard.press("Tab")
        found = reader.page.evaluate("document.activeElement.ariaLabel")
        if found == name:
            return found
    return "not reached"
