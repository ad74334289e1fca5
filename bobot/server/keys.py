"""The keys of the server and what was used with each: one SQLite file, hashes only.

A key is 256 random bits, so its SHA-256 needs no salt and no stretching. Keys given on the command
line live in memory.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import sqlite3
import time
from dataclasses import dataclass, field
from pathlib import Path

from bobot.database import open_database
from bobot.errors import NotFoundError, UsageError

LADDER = (
    """
    CREATE TABLE keys (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, hash BLOB NOT NULL UNIQUE,
        shown TEXT NOT NULL, scopes TEXT NOT NULL, requests_per_minute INTEGER,
        tokens_per_minute INTEGER, created_s INTEGER NOT NULL, revoked_s INTEGER
    );
    CREATE TABLE usage (
        key_id INTEGER NOT NULL REFERENCES keys(id), day TEXT NOT NULL, model TEXT NOT NULL,
        requests INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL,
        completion_tokens INTEGER NOT NULL, PRIMARY KEY (key_id, day, model)
    )
    """,
    """
    CREATE TABLE responses (
        id TEXT PRIMARY KEY, key_id INTEGER NOT NULL, created_s INTEGER NOT NULL,
        input BLOB NOT NULL, history BLOB NOT NULL, response BLOB NOT NULL
    );
    CREATE INDEX responses_by_age ON responses (created_s)
    """,
)
"""Versions of server.db; response_store.py reads its second table."""

SCOPES = ("use", "manage", "observe")
"""Ask models; download and remove models; read metrics."""

NO_KEY = 0
"""Owner of what was made without a stored key."""


@dataclass(frozen=True)
class Key:
    """Who calls. Limits are per minute; None: none."""

    id: int
    name: str
    shown: str = ""
    """Its first and last letters."""
    scopes: tuple[str, ...] = SCOPES
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    created_s: int = 0
    revoked_s: int | None = None


@dataclass(frozen=True)
class Usage:
    """What was used with a key since it was made."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass
class KeyStore:
    """The keys in the database, and those of the command line."""

    database: sqlite3.Connection
    given: list[bytes] = field(default_factory=list)
    """Hashes of the keys that hold for this run only."""

    @classmethod
    def open(cls, path: Path, given: list[str] | None = None) -> KeyStore:
        """Raises StorageError, UsageError for an empty key."""
        if any(not key.strip() for key in given or ()):
            raise UsageError("--api-key needs a text of at least one character.")
        return cls(open_database(path, LADDER), [_hash(key) for key in given or ()])

    def make(
        self,
        name: str,
        scopes: tuple[str, ...] = SCOPES,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
    ) -> str:
        """A new key, which nobody can read again. Raises UsageError for a name that is taken."""
        text = f"sk-bobot-{secrets.token_urlsafe(32)}"
        row = (
            name,
            _hash(text),
            f"{text[:12]}...{text[-4:]}",
            " ".join(scopes),
            requests_per_minute,
            tokens_per_minute,
            int(time.time()),
        )
        try:
            self.database.execute(
                "INSERT INTO keys (name, hash, shown, scopes, requests_per_minute,"
                " tokens_per_minute, created_s) VALUES (?, ?, ?, ?, ?, ?, ?)",
                row,
            )
        except sqlite3.IntegrityError as error:
            raise UsageError("there is a key named {name!r} already.", name=name) from error
        return text

    def find(self, text: str) -> Key | None:
        """The key that `text` is, unless it is revoked. All are compared, in constant time."""
        asked, found = _hash(text), None
        for stored in self.given:
            if hmac.compare_digest(asked, stored):
                found = Key(NO_KEY, "given")
        for row in self.database.execute("SELECT * FROM keys WHERE revoked_s IS NULL"):
            if hmac.compare_digest(asked, row["hash"]):
                found = _key(row)
        return found

    def all(self) -> list[tuple[Key, Usage]]:
        """Every key ever made, the oldest first, and its use."""
        rows = self.database.execute(
            "SELECT keys.*, sum(requests) AS requests, sum(prompt_tokens) AS prompt_tokens,"
            " sum(completion_tokens) AS completion_tokens FROM keys"
            " LEFT JOIN usage ON key_id = id GROUP BY id ORDER BY id"
        )
        return [
            (
                _key(row),
                Usage(
                    row["requests"] or 0,
                    row["prompt_tokens"] or 0,
                    row["completion_tokens"] or 0,
                ),
            )
            for row in rows
        ]

    @property
    def has_keys(self) -> bool:
        """Whether there is a key that opens the door."""
        rows = self.database.execute("SELECT 1 FROM keys WHERE revoked_s IS NULL LIMIT 1")
        return bool(self.given) or rows.fetchone() is not None

    def revoke(self, name: str) -> None:
        """From now on the key is refused, in running servers too. Raises NotFoundError."""
        done = self.database.execute(
            "UPDATE keys SET revoked_s = ? WHERE name = ? AND revoked_s IS NULL",
            (int(time.time()), name),
        )
        if not done.rowcount:
            raise NotFoundError(
                "no valid key is named {name!r}.", hint="bobot keys lists them.", name=name
            )

    def add_usage(self, key: Key, model: str, prompt_tokens: int, completion_tokens: int) -> None:
        """Counts one request of a stored key."""
        if key.id == NO_KEY:
            return
        self.database.execute(
            "INSERT INTO usage VALUES (?, date('now'), ?, 1, ?, ?)"
            " ON CONFLICT (key_id, day, model) DO UPDATE SET requests = requests + 1,"
            " prompt_tokens = prompt_tokens + excluded.prompt_tokens,"
            " completion_tokens = completion_tokens + excluded.completion_tokens",
            (key.id, model, prompt_tokens, completion_tokens),
        )

    def close(self) -> None:
        self.database.close()


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _key(row: sqlite3.Row) -> Key:
    return Key(
        id=row["id"],
        name=row["name"],
        shown=row["shown"],
        scopes=tuple(row["scopes"].split()),
        requests_per_minute=row["requests_per_minute"],
        tokens_per_minute=row["tokens_per_minute"],
        created_s=row["created_s"],
        revoked_s=row["revoked_s"],
    )
