"""A user's folders on each system, and writes that happen whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from bobot.errors import StorageError
from bobot.paths import user_paths, write_atomic


def test_folders_follow_xdg_and_ignore_relative_values() -> None:
    paths = user_paths({"HOME": "/h", "XDG_DATA_HOME": "/d", "XDG_STATE_HOME": "here"}, "linux")
    assert paths.models == Path("/d/bobot/models")
    assert paths.history == Path("/h/.local/state/bobot/history")
    assert paths.config == Path("/h/.config/bobot")


def test_other_systems_have_their_own_places() -> None:
    assert user_paths({"HOME": "/h"}, "darwin").data == Path("/h/Library/Application Support/bobot")
    assert user_paths({"HOME": "/h", "LOCALAPPDATA": "/l"}, "win32").chats == Path("/l/bobot/chats")


def test_file_is_private_and_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b.json"
    write_atomic(file, b"one")
    write_atomic(file, b"two")
    assert file.read_bytes() == b"two"
    assert file.stat().st_mode & 0o777 == 0o600
    assert os.listdir(file.parent) == ["b.json"]


@pytest.mark.parametrize(
    ("number", "part"), [(errno.ENOSPC, "disk is full"), (errno.EIO, "can't write")]
)
def test_failed_write_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, part: str
) -> None:
    file = tmp_path / "b.json"
    write_atomic(file, b"old")

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(StorageError, match=part):
        write_atomic(file, b"new")
    assert file.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["b.json"]


def test_file_in_place_of_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="can't write"):
        write_atomic(tmp_path / "file" / "x", b"")
