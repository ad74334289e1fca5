"""SQLite files that several programs share and that newer versions of bobot can change.

`open_database` takes a file up a ladder: step i makes version i + 1 (PRAGMA user_version) of
version i in one transaction, after a copy of the file was put beside it, and under a file lock, so
that one program climbs at a time. A kill -9 leaves the version before a step or the one after,
never something between. What the tables hold is the caller's affair.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock

from bobot.errors import StorageError

BUSY_MS = 5000
"""How long a write waits for another program's."""


def open_database(path: Path, ladder: Sequence[str]) -> sqlite3.Connection:
    """The database at the version len(ladder), created if need be, readable by its owner only.

    Each step is SQL statements without a transaction of their own; one that fails leaves the file
    as it was. The copy of version N is PATH.versionN. What is committed is on the disk. The
    connection may be used from several threads, one at a time. Raises StorageError.
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


def open_memory(ladder: Sequence[str]) -> sqlite3.Connection:
    """A database that is never on the disk, and gone when it is closed."""
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA foreign_keys = ON")
    for step in ladder:
        connection.executescript(step)
    return connection


def _prepare(connection: sqlite3.Connection, path: Path, ladder: Sequence[str]) -> None:
    connection.row_factory = sqlite3.Row
    connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(ladder):
        raise StorageError(
            "{path} was written by a newer bobot (version {found}, known: {allowed}).",
            hint="Update bobot.",
            path=path,
            found=version,
            allowed=len(ladder),
        )
    for number in range(version, len(ladder)):
        if number:
            _copy(connection, path.with_name(f"{path.name}.version{number}"))
        try:
            connection.executescript(
                f"BEGIN EXCLUSIVE; {ladder[number]}; PRAGMA user_version = {number + 1}; COMMIT;"
            )
        except sqlite3.Error:
            if connection.in_transaction:
                connection.rollback()
            raise


def _copy(connection: sqlite3.Connection, path: Path) -> None:
    """A whole copy of the file, or none."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    partial.touch(mode=0o600)
    with contextlib.closing(sqlite3.connect(partial)) as copy:
        copy.execute("PRAGMA journal_mode = OFF")  # what is not whole is made again
        connection.backup(copy)
    _sync(partial)
    os.replace(partial, path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """SQLite's errors in this block as StorageError."""
    try:
        yield
    except sqlite3.Error as error:
        if "is full" in str(error):
            raise StorageError(
                "{path}: the disk is full, nothing was written.",
                hint="Free some space and try again.",
                path=path,
            ) from error
        raise StorageError("{path}: can't write: {reason}.", path=path, reason=error) from error
