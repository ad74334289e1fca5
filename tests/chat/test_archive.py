"""Saved conversations: whole files, private, under names that stay in their folder."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from bobot.chat.archive import Archive
from bobot.chat.messages import Message
from bobot.chat.session import Session
from bobot.errors import NotFoundError, StorageError, UsageError


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "chats")


def session_with(text: str) -> Session:
    session = Session()
    session.messages = [Message("user", text), Message("assistant", "ya")]
    return session


def test_saved_conversation_comes_back_equal_and_private(archive: Archive) -> None:
    session = session_with("Apa kabar? \U0001f600")
    path = archive.save(session, "first talk", "bobot")
    assert archive.load("first talk").as_dict() == session.as_dict()
    assert path.stat().st_mode & 0o777 == 0o600
    assert archive.folder.stat().st_mode & 0o777 == 0o700


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
def test_name_that_leaves_the_folder_or_hides_is_refused(archive: Archive, name: str) -> None:
    session = session_with("x")
    session.name = name
    if name:
        with pytest.raises(UsageError, match="can't name a conversation"):
            archive.save(session, name)
    with pytest.raises(UsageError, match="can't name a conversation"):
        archive.load(name)
    assert not archive.folder.exists()


def test_two_unnamed_conversations_of_one_second_get_two_names(archive: Archive) -> None:
    first, second = session_with("a"), session_with("b")
    names = {archive.save(first).name, archive.save(second).name}
    assert len(names) == 2
    assert archive.save(first).stem == first.name, "a second save must go to the same file"


def test_list_shows_the_latest_first_and_leaves_out_damaged_files(archive: Archive) -> None:
    for index, name in enumerate(("old", "young")):
        path = archive.save(session_with(f"about {name}"), name)
        os.utime(path, ns=(index, index))
    (archive.folder / "broken.json").write_text("{")
    assert [(entry.name, entry.title) for entry in archive.entries()] == [
        ("young", "about young"),
        ("old", "about old"),
    ]


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
def test_damaged_conversation_is_one_clear_error(archive: Archive, content: bytes) -> None:
    archive.folder.mkdir()
    (archive.folder / "bad.json").write_bytes(content)
    with pytest.raises(StorageError, match=r"bad\.json is damaged"):
        archive.load("bad")


def test_unknown_name_says_how_to_list(archive: Archive) -> None:
    with pytest.raises(NotFoundError, match="/load lists them"):
        archive.load("nothing")


def test_full_disk_keeps_the_old_file_and_leaves_no_part(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = session_with("before")
    path = archive.save(session, "talk")
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    session.messages.append(Message("user", "after"))
    with pytest.raises(StorageError, match="disk is full"):
        archive.save(session)
    assert path.read_bytes() == before
    assert os.listdir(archive.folder) == ["talk.json"]
