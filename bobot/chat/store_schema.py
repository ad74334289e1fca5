"""The tables of the conversation store, and the ladder that brings an older file up to them.

Each rung is one transaction that ends with PRAGMA user_version; before it a copy of the file is
put beside it. One process climbs at a time, under a file lock. A kill -9 leaves the file on the
rung before or the one after, never between.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock

from bobot.errors import StorageError
from bobot.paths import make_private_folder, storage_error, sync

LADDER: tuple[str, ...] = (
    """
CREATE TABLE conversations (
    id TEXT PRIMARY KEY,
    name TEXT UNIQUE,               -- given by /save; NULL for none
    title TEXT NOT NULL,
    created REAL NOT NULL,          -- seconds since 1970
    updated REAL NOT NULL,
    persona TEXT,
    system TEXT,                    -- the user's own system prompt; NULL: that of the persona
    settings TEXT NOT NULL,         -- JSON: sampling
    extra TEXT NOT NULL,            -- JSON: what only one of the chats needs
    model TEXT,
    is_private INTEGER NOT NULL,    -- never sent to a hosted model
    head INTEGER,                   -- the last message of the branch that is shown
    source TEXT UNIQUE              -- where an imported one comes from
);
CREATE INDEX conversations_updated ON conversations (updated);
CREATE TABLE messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    conversation TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    parent INTEGER REFERENCES messages (id) ON DELETE CASCADE,
    role TEXT NOT NULL CHECK (role IN ('system', 'user', 'assistant', 'tool')),
    content TEXT NOT NULL,
    reasoning TEXT NOT NULL,
    model TEXT,
    usage TEXT,                     -- JSON: tokens, seconds, cost
    finish_reason TEXT,
    is_partial INTEGER NOT NULL,    -- an answer that is being written, or was when the program died
    extra TEXT NOT NULL,            -- JSON: tool calls, attachments
    created REAL NOT NULL
);
CREATE INDEX messages_conversation ON messages (conversation, id);
CREATE INDEX messages_parent ON messages (parent);
CREATE VIRTUAL TABLE found USING fts5 (
    content, content = 'messages', content_rowid = 'id',
    tokenize = 'unicode61 remove_diacritics 2'
);
CREATE TRIGGER messages_added AFTER INSERT ON messages BEGIN
    INSERT INTO found (rowid, content) VALUES (new.id, new.content);
END;
CREATE TRIGGER messages_removed AFTER DELETE ON messages BEGIN
    INSERT INTO found (found, rowid, content) VALUES ('delete', old.id, old.content);
END;
CREATE TRIGGER messages_changed AFTER UPDATE OF content ON messages BEGIN
    INSERT INTO found (found, rowid, content) VALUES ('delete', old.id, old.content);
    INSERT INTO found (rowid, content) VALUES (new.id, new.content);
END;
CREATE TABLE votes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    created REAL NOT NULL,
    model_a TEXT NOT NULL,
    model_b TEXT NOT NULL,
    winner TEXT NOT NULL CHECK (winner IN ('a', 'b', 'tie', 'both_bad')),
    is_blind INTEGER NOT NULL,
    conversation TEXT REFERENCES conversations (id) ON DELETE SET NULL
);
""",
)
BUSY_TIMEOUT_MS = 10_000


def open_database(path: Path, ladder: Sequence[str] = LADDER) -> sqlite3.Connection:
    """A connection to the file, made if there is none, on the last rung. Raises StorageError."""
    make_private_folder(path.parent)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        with FileLock(f"{path}.lock"):
            return _climbed(path, ladder)
    except OSError as error:
        raise storage_error(path, error) from error


def _climbed(path: Path, ladder: Sequence[str]) -> sqlite3.Connection:
    with translated(path):
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            [rung] = connection.execute("PRAGMA user_version").fetchone()
            if rung > len(ladder):
                raise StorageError(
                    "{file} was made by a newer bobot (form {found}; this one knows {known}).",
                    hint="Update bobot; nothing was changed.",
                    file=path,
                    found=rung,
                    known=len(ladder),
                )
            for number in range(rung, len(ladder)):
                if number:
                    _copy(connection, path.with_name(f"{path.name}.form-{number}"))
                script = f"BEGIN EXCLUSIVE; {ladder[number]}; PRAGMA user_version = {number + 1};"
                connection.executescript(f"{script} COMMIT;")
        except BaseException:
            connection.close()
            raise
        return connection


def _copy(connection: sqlite3.Connection, path: Path) -> None:
    """A whole copy of the file, or none."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    os.close(os.open(partial, os.O_CREAT | os.O_EXCL, 0o600))
    with contextlib.closing(sqlite3.connect(partial)) as copy:
        copy.execute("PRAGMA journal_mode = OFF")  # what is not whole is made again
        connection.backup(copy)
    sync(partial)
    os.replace(partial, path)
    sync(path.parent)


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """SQLite's errors as StorageError."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if "is full" in str(error):
            raise StorageError(
                "{path}: the disk is full, nothing was written.",
                hint="Free some space and try again.",
                path=path,
            ) from error
        if isinstance(error, sqlite3.OperationalError):
            raise StorageError("{path}: can't write: {reason}.", path=path, reason=error) from error
        raise StorageError(
            "{file} is damaged: {reason}.",
            hint="Nothing was changed; copies from before an update lie beside it.",
            file=path,
            reason=error,
        ) from error
