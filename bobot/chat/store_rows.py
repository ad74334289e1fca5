"""What the conversation store holds, and how it stands in the rows of its tables."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]
Winner = Literal["a", "b", "tie", "both_bad"]
MARKS = ("\x02", "\x03")
"""Around each word found, in the snippet of a Hit."""
_COLUMNS = ("name", "title", "persona", "system", "settings", "extra", "model", "is_private")
_COLUMNS += ("head", "created", "updated", "source")
_JSON = ("settings", "extra")


@dataclass(frozen=True, kw_only=True)
class Conversation:
    id: str
    name: str | None
    title: str
    created: float
    updated: float
    persona: str | None
    system: str | None
    settings: dict[str, Any]
    extra: dict[str, Any]
    model: str | None
    is_private: bool
    head: int | None
    source: str | None


@dataclass(frozen=True, kw_only=True)
class NewMessage:
    """A message that is to be stored."""

    role: Role
    content: str
    reasoning: str = ""
    model: str | None = None
    usage: Mapping[str, Any] | None = None
    """Tokens, seconds and cost, in the words of protocol.Usage."""
    finish_reason: str | None = None
    is_partial: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Tool calls and the like, as JSON values."""
    created: float | None = None


@dataclass(frozen=True, kw_only=True)
class StoredMessage(NewMessage):
    id: int
    conversation: str
    parent: int | None


@dataclass(frozen=True)
class Hit:
    """Where a search found something."""

    conversation: str
    title: str
    message: int | None
    """None: in the title."""
    snippet: str


@dataclass(frozen=True)
class Vote:
    model_a: str
    model_b: str
    winner: Winner

    @property
    def outcome(self) -> tuple[str, str, float]:
        """For elo.ratings; two bad answers are a tie."""
        return self.model_a, self.model_b, {"a": 1.0, "b": 0.0}.get(self.winner, 0.5)


def known_columns(fields: Mapping[str, Any]) -> list[str]:
    """The names, which go into the text of a query."""
    assert set(fields) <= set(_COLUMNS), sorted(fields)
    return list(fields)


def packed(fields: Mapping[str, Any]) -> list[Any]:
    return [
        json.dumps(value, ensure_ascii=False) if name in _JSON else value
        for name, value in fields.items()
    ]


def conversation_of(row: sqlite3.Row) -> Conversation:
    values = {name: row[name] for name in row.keys()}  # noqa: SIM118
    values |= {name: json.loads(values[name]) for name in _JSON}
    return Conversation(**{**values, "is_private": bool(values["is_private"])})


def message_values(message: NewMessage, now: float) -> tuple[Any, ...]:
    usage = None if message.usage is None else json.dumps(dict(message.usage))
    extra = json.dumps(dict(message.extra), ensure_ascii=False)
    said = (storable(message.content), storable(message.reasoning), message.model, usage)
    created = now if message.created is None else message.created
    return (message.role, *said, message.finish_reason, message.is_partial, extra, created)


def storable(text: str) -> str:
    """A lone half of a surrogate pair is no text that SQLite can hold."""
    return text.encode("utf-8", "replace").decode()


def stored_message(row: sqlite3.Row) -> StoredMessage:
    values = {name: row[name] for name in row.keys()}  # noqa: SIM118
    values["usage"] = None if values["usage"] is None else json.loads(values["usage"])
    values["extra"] = json.loads(values["extra"])
    return StoredMessage(**{**values, "is_partial": bool(values["is_partial"])})
