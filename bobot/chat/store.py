"""Conversations in one SQLite file, shared by the terminal chat and the web chat.

Messages form a tree: an edited question or a second answer is one more child of the same parent,
and the *head* of a conversation says which branch is shown. What a method has returned from is on
the disk; an answer that is still coming is written once a second.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bobot.chat.answer_writer import AnswerWriter
from bobot.chat.store_rows import (
    MARKS,
    Conversation,
    Hit,
    NewMessage,
    StoredMessage,
    Vote,
    Winner,
    conversation_of,
    known_columns,
    message_values,
    packed,
    storable,
    stored_message,
)
from bobot.chat.store_schema import LADDER
from bobot.database import open_database, open_memory, translated
from bobot.errors import NotFoundError


class Store:
    """One open file. Any thread may call; each call is one transaction. Raises StorageError.

    Without a path it is in memory only: for conversations that shall leave no trace.
    """

    def __init__(self, path: Path | None, ladder: Sequence[str] = LADDER) -> None:
        self.path = path or Path(":memory:")
        self._connection = open_memory(ladder) if path is None else open_database(path, ladder)
        self._lock = threading.RLock()
        self._depth = 0

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All that is written in the block, or nothing of it. Blocks may be nested."""
        with self._lock, translated(self.path):
            if self._depth == 0:
                self._connection.execute("BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield self._connection
                if self._depth == 1:
                    self._connection.execute("COMMIT")
            except BaseException:
                if self._depth == 1 and self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            finally:
                self._depth -= 1

    def _rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock, translated(self.path):
            return self._connection.execute(query, values).fetchall()

    # ------------------------------------------------------------------ conversations

    def create(self, **fields: Any) -> str:
        """A new conversation with these fields of Conversation; returns its id."""
        now = time.time()
        identity = fields.pop("id", None) or secrets.token_hex(8)
        values = {"title": "", "settings": {}, "extra": {}, "is_private": False}
        values |= {"created": now, "updated": now, **fields}
        names = ", ".join(known_columns(values))
        marks = ", ".join("?" for _ in values)
        with self.transaction() as connection:
            connection.execute(
                f"INSERT INTO conversations (id, {names}) VALUES (?, {marks})",  # noqa: S608
                (identity, *packed(values)),
            )
        return identity

    def change(self, conversation: str, **fields: Any) -> None:
        """Sets fields of a conversation. Raises NotFoundError."""
        names = ", ".join(f"{name} = ?" for name in known_columns(fields))
        with self.transaction() as connection:
            done = connection.execute(
                f"UPDATE conversations SET {names} WHERE id = ?",  # noqa: S608
                (*packed(fields), conversation),
            )
            if not done.rowcount:
                raise _no_conversation(conversation)

    def delete(self, conversation: str) -> None:
        """Removes a conversation with all its branches. Raises NotFoundError."""
        with self.transaction() as connection:
            done = connection.execute("DELETE FROM conversations WHERE id = ?", (conversation,))
            if not done.rowcount:
                raise _no_conversation(conversation)

    def get(self, conversation: str) -> Conversation:
        """The conversation with this id. Raises NotFoundError."""
        rows = self._rows("SELECT * FROM conversations WHERE id = ?", conversation)
        if not rows:
            raise _no_conversation(conversation)
        return conversation_of(rows[0])

    def named(self, name: str) -> Conversation | None:
        """The conversation that was saved under this name."""
        rows = self._rows("SELECT * FROM conversations WHERE name = ?", name)
        return conversation_of(rows[0]) if rows else None

    def has_source(self, source: str) -> bool:
        """Whether a conversation from this place was imported already."""
        return bool(self._rows("SELECT 1 FROM conversations WHERE source = ?", source))

    def conversations(self, limit: int = 1000, offset: int = 0) -> list[Conversation]:
        """The latest first."""
        query = "SELECT * FROM conversations ORDER BY updated DESC, rowid DESC LIMIT ? OFFSET ?"
        return [conversation_of(row) for row in self._rows(query, limit, offset)]

    # ------------------------------------------------------------------ messages

    def add(self, conversation: str, parent: int | None, message: NewMessage) -> int:
        """Stores a message below `parent` (None: a first one), makes it the head; its id.

        Raises NotFoundError where the conversation or the parent in it does not exist.
        """
        now = time.time()
        with self.transaction() as connection:
            self.get(conversation)
            if parent is not None and self.message(parent).conversation != conversation:
                raise _no_message(parent)
            added = connection.execute(
                "INSERT INTO messages (conversation, parent, role, content, reasoning, model,"
                " usage, finish_reason, is_partial, extra, created)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (conversation, parent, *message_values(message, now)),
            )
            assert added.lastrowid is not None
            self.change(conversation, head=added.lastrowid, updated=now)
            return added.lastrowid

    def begin(self, conversation: str, parent: int | None, model: str | None) -> AnswerWriter:
        """Where an answer is written while it comes."""
        empty = NewMessage(role="assistant", content="", model=model, is_partial=True)
        return AnswerWriter(self, self.add(conversation, parent, empty))

    def message(self, message: int) -> StoredMessage:
        rows = self._rows("SELECT * FROM messages WHERE id = ?", message)
        if not rows:
            raise _no_message(message)
        return stored_message(rows[0])

    def messages(self, conversation: str) -> list[StoredMessage]:
        """The whole tree, in the order in which it grew: a parent stands before its children."""
        query = "SELECT * FROM messages WHERE conversation = ? ORDER BY id"
        return [stored_message(row) for row in self._rows(query, conversation)]

    def branch(self, message: int | None) -> list[StoredMessage]:
        """The messages from the first to this one."""
        query = (
            "WITH RECURSIVE line (id, parent, depth) AS ("
            " SELECT id, parent, 0 FROM messages WHERE id = ?"
            " UNION ALL SELECT m.id, m.parent, depth + 1 FROM messages m, line"
            " WHERE m.id = line.parent)"
            " SELECT messages.* FROM line JOIN messages USING (id) ORDER BY depth DESC"
        )
        return [stored_message(row) for row in self._rows(query, message)]

    def branch_off(self, message: int, **fields: Any) -> str:
        """A new conversation that begins as the branch which ends with this message: with copies of
        its messages, and the settings of its conversation where `fields` says nothing else; its id.
        """
        with self.transaction():
            line = self.branch(self.message(message).id)
            found = self.get(line[-1].conversation)
            names = ("title", "persona", "system", "settings", "extra", "model", "is_private")
            made = self.create(**{**{name: getattr(found, name) for name in names}, **fields})
            head = None
            for one in line:
                values = {name: getattr(one, name) for name in NewMessage.__dataclass_fields__}
                head = self.add(made, head, NewMessage(**values))
        return made

    def child(self, conversation: str, parent: int | None, message: NewMessage) -> int | None:
        """The latest child of `parent` that says the same, if there is one."""
        query = (
            "SELECT id FROM messages WHERE conversation = ? AND parent IS ? AND role = ?"
            " AND content = ? AND reasoning = ? ORDER BY id DESC LIMIT 1"
        )
        said = (message.role, storable(message.content), storable(message.reasoning))
        rows = self._rows(query, conversation, parent, *said)
        return rows[0]["id"] if rows else None

    def remove(self, message: int) -> None:
        """Removes a message with all that follows it; a head in there moves to its parent."""
        with self.transaction() as connection:
            gone = self.message(message)
            head = self.get(gone.conversation).head
            if any(line.id == message for line in self.branch(head)):
                self.change(gone.conversation, head=gone.parent)
            connection.execute("DELETE FROM messages WHERE id = ?", (message,))

    def update(self, message: int, **fields: Any) -> None:
        """Sets content, reasoning, model, usage, finish_reason, is_partial or extra."""
        current = self.message(message)
        values = {name: getattr(current, name) for name in NewMessage.__dataclass_fields__}
        row = message_values(NewMessage(**{**values, **fields}), current.created or 0.0)
        with self.transaction() as connection:
            connection.execute(
                "UPDATE messages SET role = ?, content = ?, reasoning = ?, model = ?, usage = ?,"
                " finish_reason = ?, is_partial = ?, extra = ?, created = ? WHERE id = ?",
                (*row, message),
            )

    def search(self, text: str, limit: int = 50) -> list[Hit]:
        """Messages with all the words of `text`, the last one also as a beginning, best first;
        then titles that hold it. Words of languages that are written without blanks are found by
        the beginning of a sentence only.
        """
        words = re.findall(r"\w+", text)
        if not words:
            return []
        wanted = " ".join(f'"{word}"' for word in words) + "*"
        hits = self._rows(
            "SELECT m.conversation, c.title, m.id, snippet(found, 0, ?, ?, '...', 12) AS snippet"
            " FROM found JOIN messages m ON m.id = found.rowid"
            " JOIN conversations c ON c.id = m.conversation"
            " WHERE found MATCH ? ORDER BY rank LIMIT ?",
            *(*MARKS, wanted, limit),
        )
        titles = self._rows(
            "SELECT id, title FROM conversations WHERE title LIKE ? ESCAPE '!'"
            " ORDER BY updated DESC LIMIT ?",
            "%" + re.sub(r"([!%_])", r"!\1", text.strip()) + "%",
            limit,
        )
        found = [Hit(row["conversation"], row["title"], row["id"], row["snippet"]) for row in hits]
        found += [Hit(row["id"], row["title"], None, row["title"]) for row in titles]
        return found[:limit]

    # ------------------------------------------------------------------ arena

    def vote(
        self, a: str, b: str, winner: Winner, *, is_blind: bool, conversation: str | None = None
    ) -> None:
        """Keeps the judgement on two answers."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO votes (created, model_a, model_b, winner, is_blind, conversation)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (time.time(), a, b, winner, is_blind, conversation),
            )

    def votes(self, *, blind_only: bool = False) -> list[Vote]:
        query = "SELECT model_a, model_b, winner FROM votes WHERE is_blind >= ? ORDER BY id"
        return [Vote(*row) for row in self._rows(query, blind_only)]


def _no_conversation(conversation: str) -> NotFoundError:
    return NotFoundError("no conversation {id!r}.", id=conversation)


def _no_message(message: int) -> NotFoundError:
    return NotFoundError("no message {id} in this conversation.", id=message)
