"""kill -9 in the middle of a conversation and of an update: what was acknowledged is there."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from store_victim import RUNGS, piece, question

from bobot.chat.store import Store
from bobot.chat.store_rows import NewMessage

VICTIM = Path(__file__).with_name("store_victim.py")


def start(path: Path, task: str) -> subprocess.Popen[str]:
    """The victim, when its imports are done."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(VICTIM), str(path), task]
    victim = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ)
    assert victim.stdout is not None
    assert victim.stdout.readline() == "ready\n"
    return victim


def killed_output(victim: subprocess.Popen[str]) -> list[str]:
    victim.kill()
    out, _ = victim.communicate()
    return [line for line in out.split("\n")[:-1] if line]


def check(store: Store) -> None:
    assert store._rows("PRAGMA integrity_check")[0][0] == "ok"
    assert store._rows("PRAGMA foreign_key_check") == []
    with store.transaction() as connection:  # raises where the index lacks a word
        connection.execute("INSERT INTO found (found, rank) VALUES ('integrity-check', 1)")


@pytest.mark.parametrize("seed", range(6))
def test_killed_while_talking(tmp_path: Path, seed: int) -> None:
    victim = start(tmp_path / "chats.db", "talk")
    time.sleep(random.Random(seed).uniform(0.05, 1.5))
    lines = killed_output(victim)
    store = Store(tmp_path / "chats.db")
    check(store)
    begun: tuple[int, int] | None = None
    for line in lines:
        task, number, key = line.split()[0], int(line.split()[1]), int(line.split()[2])
        if task == "asked":
            assert store.message(key).content == question(number)
        elif task == "answered":
            said = store.message(key)
            assert said.content == "".join(piece(number, step) for step in range(20))
            assert (said.is_partial, said.usage) == (False, {"completion_tokens": 20})
        else:
            begun = (number, key)
    if begun is not None:
        number, key = begun
        whole = "".join(piece(number, step) for step in range(20))
        open_answer = store.message(key).content
        assert open_answer, "the first piece was acknowledged and is gone"
        assert whole.startswith(open_answer)


@pytest.fixture(scope="module")
def old_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store on the first rung with 2000 messages."""
    path = tmp_path_factory.mktemp("old") / "chats.db"
    store = Store(path)
    with store.transaction():
        key = store.create(title="old")
        for number in range(2000):
            store.add(key, None, NewMessage(role="user", content=question(number)))
    store.close()
    return path


@pytest.mark.parametrize("seed", range(8))
def test_killed_while_climbing(tmp_path: Path, old_file: Path, seed: int) -> None:
    path = tmp_path / "chats.db"
    shutil.copyfile(old_file, path)
    victim = start(path, "climb")
    time.sleep(random.Random(seed).uniform(0.0, 0.5))
    lines = killed_output(victim)
    for copy in path.parent.glob("chats.db.version*"):
        rung = int(copy.name[-1])
        # the copy from before a rung is a whole file of the form before
        saved = Store(copy, RUNGS[:rung])
        check(saved)
        assert len(saved._rows("SELECT id FROM messages")) == 2000
    store = Store(path, RUNGS)
    check(store)
    [conversation] = store.conversations()
    found = [message.content for message in store.messages(conversation.id)]
    assert found == [f"{question(number)} one two three" for number in range(2000)], lines
