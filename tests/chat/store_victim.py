"""A program that works on a store until it is killed; test_store_killed.py starts it.

store_victim.py PATH talk       asks and answers; each printed line is the id of what is stored
store_victim.py PATH climb      takes an old file up the ladder of RUNGS
"""

from __future__ import annotations

import sys
from pathlib import Path

from bobot.chat.store import Store
from bobot.chat.store_rows import NewMessage
from bobot.chat.store_schema import LADDER

RUNGS = (
    *LADDER,
    "UPDATE messages SET content = content || ' one';",
    "CREATE TABLE folders (id INTEGER PRIMARY KEY, name TEXT); INSERT INTO folders (name)"
    " SELECT content FROM messages; UPDATE messages SET content = content || ' two';",
    "DROP TABLE folders; UPDATE messages SET content = content || ' three';",
)


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def question(number: int) -> str:
    return f"question {number} " + "x" * (number % 7 * 300)


def piece(number: int, step: int) -> str:
    return f"{number}.{step} " + "y" * (step % 5 * 100)


def talk(path: Path) -> None:
    store = Store(path)
    key = store.create(title="talk")
    parent = None
    for number in range(100_000):
        asked = NewMessage(role="user", content=question(number))
        parent = store.add(key, parent, asked)
        tell(f"asked {number} {parent}")
        writer = store.begin(key, parent, "victim")
        for step in range(20):
            writer.push(piece(number, step))
            tell(f"piece {number} {writer.id}")
        writer.finish(usage={"completion_tokens": 20})
        tell(f"answered {number} {writer.id}")
        parent = writer.id


if __name__ == "__main__":
    file, task = Path(sys.argv[1]), sys.argv[2]
    tell("ready")
    if task == "talk":
        talk(file)
    else:
        Store(file, RUNGS)
        tell("done")
