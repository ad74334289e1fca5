"""A person at the screen of a chat, for tests."""

from __future__ import annotations

from collections.abc import Iterator


class Person:
    """A screen: types the entries given, sees everything in `seen`."""

    is_interactive = True

    def __init__(self, *entries: str) -> None:
        self.entries = list(entries)
        self.seen: list[str] = []

    def read(self, status: str) -> str:
        self.seen.append(f"[{status}]")
        if not self.entries:
            raise EOFError
        return self.entries.pop(0)

    def answer(self, deltas: Iterator) -> None:
        self.seen.append("".join(delta.text for delta in deltas if delta.kind == "text"))

    def say(self, text: str) -> None:
        self.seen.append(text)

    complain = say
