"""Prompts with the answers that a good model would give: code to edit, JSON, and prose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple


class Case(NamedTuple):
    prompt: str
    answer: str


CODE = '''\
"""A small store of notes in a SQLite file."""

import sqlite3
from dataclasses import dataclass
from datetime import datetime, timezone


@dataclass
class Note:
    number: int
    title: str
    text: str
    written_at: datetime


class NoteStore:
    def __init__(self, path):
        self.connection = sqlite3.connect(path)
        self.connection.execute(
            "CREATE TABLE IF NOT EXISTS notes"
            " (number INTEGER PRIMARY KEY, title TEXT, text TEXT, written_at TEXT)"
        )

    def add(self, title, text):
        written_at = datetime.now(timezone.utc)
        cursor = self.connection.execute(
            "INSERT INTO notes (title, text, written_at) VALUES (?, ?, ?)",
            (title, text, written_at.isoformat()),
        )
        self.connection.commit()
        return Note(cursor.lastrowid, title, text, written_at)

    def get(self, number):
        row = self.connection.execute(
            "SELECT number, title, text, written_at FROM notes WHERE number = ?", (number,)
        ).fetchone()
        if row is None:
            raise KeyError(f"no note {number}")
        return Note(row[0], row[1], row[2], datetime.fromisoformat(row[3]))

    def search(self, word):
        rows = self.connection.execute(
            "SELECT number, title, text, written_at FROM notes WHERE text LIKE ?", (f"%{word}%",)
        ).fetchall()
        return [Note(row[0], row[1], row[2], datetime.fromisoformat(row[3])) for row in rows]

    def delete(self, number):
        self.connection.execute("DELETE FROM notes WHERE number = ?", (number,))
        self.connection.commit()
'''

NOTE = "        return Note(row[0], row[1], row[2], datetime.fromisoformat(row[3]))"
EDITS = (
    ("def __init__(self, path):", "def __init__(self, path: str) -> None:"),
    ("def add(self, title, text):", "def add(self, title: str, text: str) -> Note:"),
    ("def get(self, number):", "def get(self, number: int) -> Note:"),
    ("def search(self, word):", "def search(self, word: str) -> list[Note]:"),
    ("def delete(self, number):", "def delete(self, number: int) -> None:"),
    (f"{NOTE}\n\n    def search", "        return _note(row)\n\n    def search"),
    (f"[{NOTE.strip().removeprefix('return ')} for row in rows]", "[_note(row) for row in rows]"),
)  # fmt: skip
ADDED = """

def _note(row: tuple[int, str, str, str]) -> Note:
    return Note(row[0], row[1], row[2], datetime.fromisoformat(row[3]))
"""

TOWNS = (
    ("Ambon", "Maluku", 347288), ("Banda Aceh", "Aceh", 252899), ("Denpasar", "Bali", 725314),
    ("Jayapura", "Papua", 398478), ("Kupang", "Nusa Tenggara Timur", 442758),
    ("Manado", "Sulawesi Utara", 451916), ("Mataram", "Nusa Tenggara Barat", 429651),
    ("Padang", "Sumatera Barat", 909040), ("Pontianak", "Kalimantan Barat", 658685),
    ("Ternate", "Maluku Utara", 205001),
)  # fmt: skip


def cases() -> dict[str, Case]:
    """Code edit, JSON edit, JSON from a table, and a prose text of this project as a control."""
    edited = CODE
    for before, after in EDITS:
        if edited.count(before) != 1:
            raise ValueError(f"stands {edited.count(before)} times in the code: {before}")
        edited = edited.replace(before, after)
    towns = [{"name": name, "province": place, "people": count} for name, place, count in TOWNS]
    later = [town | {"country": "Indonesia"} for town in towns]
    lines = "\n".join(f"{name}, {place}: {count}" for name, place, count in TOWNS)
    tour = Path(__file__).resolve().parents[1] / "docs" / "tour.md"
    ask = "Add type hints, and one function that makes a note of a row. Give the whole file.\n\n"
    return {
        "code edit": Case(ask + CODE + "\n", edited + ADDED),
        "JSON edit": Case(
            f"Add the country to each town.\n\n{json.dumps(towns, indent=2)}\n",
            json.dumps(later, indent=2),
        ),
        "JSON from a table": Case(
            f"Write these towns as a JSON list of name, province and people.\n\n{lines}\n",
            json.dumps(towns, indent=2),
        ),
        "prose": Case("Explain this project.\n\n", tour.read_text(encoding="utf-8")),
    }
