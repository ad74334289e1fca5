"""Saved conversations: whole, under names, with every branch; files of earlier versions come in."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from bobot.chat.archive import Archive
from bobot.chat.messages import Message
from bobot.chat.session import Session
from bobot.chat.store import Store
from bobot.chat.store_rows import NewMessage
from bobot.errors import NotFoundError, StorageError, UsageError


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(Store(tmp_path / "chats.db"))


def session_with(*texts: str) -> Session:
    session = Session()
    roles = ("user", "assistant")
    session.messages = [Message(roles[i % 2], text) for i, text in enumerate(texts)]
    return session


def test_saved_conversation_comes_back_equal(archive: Archive) -> None:
    session = session_with("Apa kabar? \U0001f600", "ya")
    session.take_persona("rebel")
    session.own_system = "Be brief."
    session.set("temperature", "0.3")
    session.set_reasoning_effort("low")
    session.messages[1] = Message("assistant", "ya", "I thought.")
    archive.save(session, "first talk", "bobot")
    again = archive.load("first talk")
    assert again.as_dict() == session.as_dict()
    assert again.name == "first talk"


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/etc/passwd",
        "a/b",
        ".hidden",
        "",
        "x" * 65,
        "a\\b",
        "a\nb",
        "end.",
        "nul\0",
        "_",
    ],
)
def test_name_that_hides_or_looks_like_a_path_is_refused(archive: Archive, name: str) -> None:
    session = session_with("x")
    session.name = name
    if name:
        with pytest.raises(UsageError, match="can't name a conversation"):
            archive.save(session, name)
    with pytest.raises(UsageError, match="can't name a conversation"):
        archive.load(name)
    assert archive.names() == []


def test_two_unnamed_conversations_of_one_second_get_two_names(archive: Archive) -> None:
    first, second = session_with("a"), session_with("b")
    assert len({archive.save(first), archive.save(second)}) == 2
    assert archive.save(first) == first.name, "a second save must go to the same conversation"
    assert len(archive.names()) == 2


def test_list_shows_the_latest_first(archive: Archive) -> None:
    for name in ("old", "young"):
        archive.save(session_with(f"about {name}", "x", "y"), name)
    entries = [(entry.name, entry.title, entry.num_turns) for entry in archive.entries()]
    assert entries == [("young", "about young", 2), ("old", "about old", 2)]
    archive.save(archive.load("old"))
    assert archive.names() == ["old", "young"]


def test_unknown_name_says_how_to_list(archive: Archive) -> None:
    with pytest.raises(NotFoundError, match="/load lists them"):
        archive.load("nothing")


def test_undone_and_repeated_answers_stay_as_branches(archive: Archive) -> None:
    session = session_with("q", "one")
    archive.save(session, "talk")
    session.messages[1] = Message("assistant", "two")
    archive.save(session)
    session.messages[:] = []
    archive.save(session)
    assert archive.load("talk").messages == []
    session.messages[:] = [Message("user", "q"), Message("assistant", "one"), Message("user", "on")]
    archive.save(session)
    found = archive.store.named("talk")
    assert found is not None
    said = [(m.content, m.parent) for m in archive.store.messages(found.id)]
    ids = [m.id for m in archive.store.messages(found.id)]
    assert said == [("q", None), ("one", ids[0]), ("two", ids[0]), ("on", ids[1])]
    assert [m.content for m in archive.load("talk").messages] == ["q", "one", "on"]


def test_answer_that_was_cut_by_a_crash_is_there_after(archive: Archive) -> None:
    session = session_with("q")
    writer = archive.answering(session, "m")
    assert session.name is not None
    assert [m.content for m in archive.load(session.name).messages] == ["q"]
    writer.push("Ha")
    again = Archive(Store(archive.store.path)).load(session.name)
    assert [m.content for m in again.messages] == ["q", "Ha"]


def test_conversation_of_the_web_chat_can_be_gone_on_with(archive: Archive) -> None:
    store = archive.store
    key = store.create(title="From the page", extra={"folder": "x"}, settings={"top_p": 0.5})
    parent = store.add(key, None, NewMessage(role="system", content="s"))
    for role, text in (
        ("user", "q"),
        ("assistant", "a"),
        ("tool", "1"),
        ("assistant", "b"),
    ):
        parent = store.add(key, parent, NewMessage(role=role, content=text))  # type: ignore[arg-type]
    session = archive.load(key)
    assert [(m.role, m.content) for m in session.messages] == [
        ("user", "q"),
        ("assistant", "a\n\nb"),
    ]
    assert session.settings == {"top_p": 0.5}
    session.messages.append(Message("user", "more"))
    assert archive.save(session, model="m") == key
    found = store.get(key)
    assert (found.title, found.extra["folder"]) == ("From the page", "x")
    assert [m.content for m in store.branch(parent)] == ["s", "q", "a", "1", "b"]


def test_settings_of_another_form_are_one_clear_error(archive: Archive) -> None:
    archive.store.create(name="odd", settings={"temperature": "hot"})
    with pytest.raises(StorageError, match="settings of 'odd'"):
        archive.load("odd")


def test_search_gives_each_conversation_once(archive: Archive) -> None:
    archive.save(session_with("kopi satu", "kopi dua"), "coffee")
    archive.save(session_with("teh", "hangat"), "tea")
    [(name, snippet)] = archive.search("kop")
    assert name == "coffee"
    assert "kopi" in snippet.replace("\x02", "").replace("\x03", "")
    assert archive.search("susu") == []


# ------------------------------------------------------------------ files of earlier versions


def file_of(session: Session, model: str = "bobot") -> bytes:
    return json.dumps({"bobot_conversation": 1, "model": model, **session.as_dict()}).encode()


def test_files_of_earlier_versions_come_in_once_and_stay(tmp_path: Path) -> None:
    folder = tmp_path / "chats"
    folder.mkdir()
    old = session_with("halo", "ya")
    old.take_persona("rebel")
    (folder / "my talk.json").write_bytes(file_of(old))
    os.utime(folder / "my talk.json", (1000, 1000))
    (folder / "end..json").write_bytes(file_of(session_with("odd name")))
    store = Store(tmp_path / "chats.db")
    archive = Archive(store, folder)
    assert archive.load("my talk").as_dict() == old.as_dict()
    assert len(archive.names()) == 2
    found = store.named("my talk")
    assert found is not None
    assert (found.updated, found.model) == (1000.0, "bobot")
    session = archive.load("my talk")
    session.messages.append(Message("user", "more"))
    archive.save(session)
    again = Archive(Store(tmp_path / "chats.db"), folder)
    assert len(again.names()) == 2
    assert len(again.load("my talk").messages) == 3
    assert sorted(os.listdir(folder)) == ["end..json", "my talk.json"]


def test_name_that_is_taken_does_not_lose_the_file(tmp_path: Path) -> None:
    archive = Archive(Store(tmp_path / "chats.db"))
    archive.save(session_with("mine"), "talk")
    (tmp_path / "talk.json").write_bytes(file_of(session_with("theirs")))
    archive = Archive(archive.store, tmp_path)
    assert sorted(entry.title for entry in archive.entries()) == ["mine", "theirs"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"bobot_conversation": 2}',
        b'{"bobot_conversation": 1}',
        b'{"bobot_conversation": 1, "persona": 1, "persona_system": [], "system": null,'
        b' "settings": {}, "messages": []}',
        b'{"bobot_conversation": 1, "persona": "plain", "persona_system": {}, "system": null,'
        b' "settings": {"temperature": "hot"}, "messages": []}',
        b'{"bobot_conversation": 1, "persona": "plain", "persona_system": {}, "system": null,'
        b' "settings": {}, "messages": [{"role": "root", "content": "x"}]}',
    ],
)
def test_damaged_file_is_told_and_tried_again_when_it_is_mended(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    store = Store(tmp_path / "chats.db")
    assert Archive(store, tmp_path).names() == []
    assert "bad.json can't be read" in caplog.text
    path.write_bytes(file_of(session_with("mended")))
    assert Archive(store, tmp_path).names() == ["bad"]
