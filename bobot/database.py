"""SQLite files that several programs share and that newer versions of bobot can change.

`open_database` applies a ladder of steps: step i takes the file from version i to i + 1
(PRAGMA user_version). A copy is made before an old file is changed, and a file lock keeps two
programs from changing it at once. What the tables hold is the caller's affair.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from filelock import FileLock

from bobot.errors import StorageError

BUSY_MS = 5000
"""How long a write waits for another program's."""


def open_database(path: Path, ladder: Sequence[str]) -> sqlite3.Connection:
    """The database at the version len(ladder), created if need be, readable by its owner only.

    Each step is SQL statements without a transaction of their own; one that fails leaves the file
    as it was. The copy before a migration is PATH.versionN. The connection may be used from
    several threads, one at a time. Raises StorageError.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        with FileLock(path.with_name(f"{path.name}.lock")):
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            try:
                _prepare(connection, path, ladder)
            except BaseException:
                connection.close()
                raise
            return connection
    except (OSError, sqlite3.Error) as error:
        raise StorageError(
            "{path}: can't be opened as a database: {reason}.", path=path, reason=error
        ) from error


def _prepare(connection: sqlite3.Connection, path: Path, ladder: Sequence[str]) -> None:
    connection.row_factory = sqlite3.Row
    connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA journal_mode = WAL")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(ladder):
        raise StorageError(
            "{path} was written by a newer bobot (version {found}, known: {allowed}).",
            hint="Update bobot.",
            path=path,
            found=version,
            allowed=len(ladder),
        )
    if 0 < version < len(ladder):
        old = path.with_name(f"{path.name}.version{version}")
        old.touch(mode=0o600)
        with closing(sqlite3.connect(old)) as copy:
            connection.backup(copy)
    for number in range(version, len(ladder)):
        try:
            connection.executescript(
                f"BEGIN IMMEDIATE; {ladder[number]}; PRAGMA user_version = {number + 1}; COMMIT;"
            )
        except sqlite3.Error:
            if connection.in_transaction:
                connection.rollback()
            raise
