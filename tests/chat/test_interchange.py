"""Conversations out and in: bobot's own form loses nothing; ChatGPT's export becomes a tree."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from bobot.chat.interchange import exported, import_into, read_file
from bobot.chat.store import Store
from bobot.chat.store_rows import NewMessage
from bobot.errors import NotFoundError, StorageError


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "a.db")


def filled(store: Store) -> str:
    key = store.create(title="T", settings={"top_p": 0.5}, extra={"x": 1}, persona="rebel")
    root = store.add(key, None, NewMessage(role="user", content="q"))
    for text in ("one", "two"):
        message = NewMessage(
            role="assistant",
            content=text,
            reasoning="r",
            model="m",
            usage={"cost_usd": 0.5},
            finish_reason="stop",
            extra={"tool_calls": []},
        )
        store.add(key, root, message)
    store.change(key, head=root + 1)
    return key


def tree(store: Store, key: str) -> list[dict[str, Any]]:
    """The messages without what a database makes up: ids become places in the list."""
    messages = [asdict(message) for message in store.messages(key)]
    place = {message["id"]: number for number, message in enumerate(messages)}
    for message in messages:
        message["parent"] = place.get(message["parent"])
        del message["id"], message["conversation"]
    return messages


def test_own_form_brings_everything_back(store: Store, tmp_path: Path) -> None:
    key = filled(store)
    file = tmp_path / "out.json"
    file.write_text(json.dumps(exported(store)), encoding="utf-8")
    other = Store(tmp_path / "b.db")
    other.create(title="there before")
    report = import_into(other, read_file(file))
    assert (report.num_added, report.num_known, report.skipped) == (1, 0, [])
    new = next(c for c in other.conversations() if c.title == "T")
    old = store.get(key)
    assert tree(other, new.id) == tree(store, key)
    for name in ("title", "settings", "extra", "persona", "system", "created", "updated"):
        assert getattr(new, name) == getattr(old, name), name
    assert [m.content for m in other.branch(new.head)] == ["q", "one"]


def test_second_import_adds_nothing(store: Store, tmp_path: Path) -> None:
    filled(store)
    values = exported(store)
    assert import_into(store, values).num_known == 1
    other = Store(tmp_path / "b.db")
    assert [import_into(other, values).num_added for _ in range(2)] == [1, 0]


def node(key: str, parent: str | None, role: str = "", *parts: Any, **more: Any) -> dict[str, Any]:
    """A node of ChatGPT's mapping."""
    content = more.pop("content", {"content_type": "text", "parts": list(parts)})
    message = {
        "id": key,
        "author": {"role": role, "name": None, "metadata": {}},
        "create_time": 1700000000.5,
        "content": content,
        "metadata": {"model_slug": "gpt-4o"} if role == "assistant" else {},
        **more,
    }
    return {"id": key, "message": message if role else None, "parent": parent, "children": []}


def chatgpt(*nodes: dict[str, Any], current: str, **more: Any) -> dict[str, Any]:
    return {
        "title": "Kopi",
        "create_time": 1700000000.0,
        "update_time": 1700000100.0,
        "mapping": {n["id"]: n for n in nodes},
        "current_node": current,
        "conversation_id": "c-1",
        **more,
    }


THOUGHTS = {"content_type": "thoughts", "thoughts": [{"content": "hm"}]}
TALK = chatgpt(
    node("root", None),
    node("hidden", "root", "system", ""),
    node("q", "hidden", "user", "Kopi apa?"),
    node(
        "t", "q", "assistant", content={"content_type": "thoughts", "thoughts": [{"content": "hm"}]}
    ),
    node("recap", "t", "assistant", content={"content_type": "reasoning_recap", "content": "1 s"}),
    node("a1", "recap", "assistant", "Toraja."),
    node("a2", "q", "assistant", "Gayo."),
    node("q2", "a2", "user", {"content_type": "image_asset_pointer"}, "Ini?"),
    node("c", "q2", "assistant", content={"content_type": "code", "text": "print(1)"}),
    node("r", "c", "tool", content={"content_type": "execution_output", "text": "1"}),
    node("a3", "r", "assistant", "Satu."),
    current="a3",
)


def test_export_of_chatgpt_becomes_a_tree(store: Store) -> None:
    report = import_into(store, [TALK])
    assert (report.num_added, report.skipped) == (1, [])
    [found] = store.conversations()
    assert (found.title, found.created, found.updated) == ("Kopi", 1700000000.0, 1700000100.0)
    line = store.branch(found.head)
    assert [(m.role, m.content) for m in line] == [
        ("user", "Kopi apa?"),
        ("assistant", "Gayo."),
        ("user", "[image_asset_pointer]\n\nIni?"),
        ("assistant", "```\nprint(1)\n```"),
        ("tool", "1"),
        ("assistant", "Satu."),
    ]
    other = next(m for m in store.messages(found.id) if m.content == "Toraja.")
    assert (other.reasoning, other.model, other.parent) == ("hm", "gpt-4o", line[0].id)
    assert other.created == 1700000000.5
    assert import_into(store, [TALK]).num_known == 1


def test_one_bad_conversation_does_not_stop_the_others(store: Store) -> None:
    circle = chatgpt(node("a", "b", "user", "x"), node("b", "a", "user", "y"), current="a")
    bad = [
        {**circle, "title": "circle", "conversation_id": "c-2"},
        {"mapping": 3, "title": "odd"},
        {"mapping": {"a": {"parent": None, "message": {"author": None}}}, "title": "nobody"},
        {**TALK, "title": "nameless", "conversation_id": 7},
    ]
    report = import_into(store, [*bad, TALK])
    assert report.num_added == 1
    assert [line.split(":")[0] for line in report.skipped] == [
        *("circle", "odd", "nobody", "nameless")
    ]
    assert len(store.conversations()) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"title": None},
        {"settings": []},
        {"created": "now"},
        {"messages": [{"id": 1}]},
        {"messages": 5},
        {"system": 4},
    ],
)
def test_own_form_is_checked(store: Store, tmp_path: Path, change: dict[str, Any]) -> None:
    filled(store)
    values = exported(store)
    values["conversations"][0] |= change
    other = Store(tmp_path / "b.db")
    report = import_into(other, values)
    assert (report.num_added, len(report.skipped)) == (0, 1)
    assert other.conversations() == []


@pytest.mark.parametrize(
    ("key", "value"),
    [("role", "root"), ("content", 3), ("parent", 77), ("usage", 3), ("extra", None), ("model", 1)],
)
def test_messages_of_the_own_form_are_checked(
    store: Store, tmp_path: Path, key: str, value: Any
) -> None:
    filled(store)
    values = exported(store)
    values["conversations"][0]["messages"][1][key] = value
    other = Store(tmp_path / "b.db")
    assert len(import_into(other, values).skipped) == 1
    assert other.conversations() == []


@pytest.mark.parametrize("values", [None, 3, "x", {}, {"bobot_conversations": 2}, [1], [{}]])
def test_anything_else_is_refused(store: Store, values: Any) -> None:
    with pytest.raises(StorageError, match="neither an export"):
        import_into(store, values)


def test_files_that_can_not_be_read_are_told(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        read_file(tmp_path / "none.json")
    for content in (b"{", b"\xff", b"[" * 100_000):
        (tmp_path / "x.json").write_bytes(content)
        with pytest.raises(StorageError, match="not valid JSON"):
            read_file(tmp_path / "x.json")
