"""Databases that grow with the program: steps, copies, locks, a crash in between."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from bobot.database import open_database
from bobot.errors import StorageError

FIRST = "CREATE TABLE words (text TEXT)"
SECOND = "ALTER TABLE words ADD COLUMN length INTEGER; UPDATE words SET length = length(text)"


def version(path: Path) -> int:
    with sqlite3.connect(path) as connection:
        found = connection.execute("PRAGMA user_version").fetchone()[0]
    connection.close()
    return found


def test_each_step_is_taken_once_and_a_copy_is_kept(tmp_path):
    path = tmp_path / "a" / "x.db"
    database = open_database(path, [FIRST])
    database.execute("INSERT INTO words VALUES ('halo')")
    database.close()
    assert version(path) == 1 and path.stat().st_mode & 0o077 == 0
    for _ in range(2):
        database = open_database(path, [FIRST, SECOND])
        assert [tuple(row) for row in database.execute("SELECT * FROM words")] == [("halo", 4)]
        database.close()
    copy = path.with_name("x.db.version1")
    assert version(path) == 2 and version(copy) == 1
    assert copy.stat().st_mode & 0o077 == 0
    old = sqlite3.connect(copy)
    assert old.execute("SELECT * FROM words").fetchall() == [("halo",)]
    old.close()


def test_step_that_fails_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "x.db"
    open_database(path, [FIRST]).close()
    with pytest.raises(StorageError):
        open_database(path, [FIRST, "CREATE TABLE more (a); SELECT nonsense"])
    assert version(path) == 1
    database = open_database(path, [FIRST, SECOND])
    names = [row["name"] for row in database.execute("SELECT name FROM sqlite_master")]
    assert names == ["words"]
    database.close()


def test_file_of_a_newer_program_is_refused(tmp_path):
    path = tmp_path / "x.db"
    open_database(path, [FIRST, SECOND]).close()
    with pytest.raises(StorageError, match="newer"):
        open_database(path, [FIRST])


def test_file_that_is_no_database_is_refused_and_kept(tmp_path):
    path = tmp_path / "x.db"
    path.write_bytes(b"not a database, but somebody's notes" * 99)
    before = path.read_bytes()
    with pytest.raises(StorageError):
        open_database(path, [FIRST])
    assert path.read_bytes() == before


def test_program_killed_in_a_step_loses_nothing(tmp_path):
    path = tmp_path / "x.db"
    database = open_database(path, [FIRST])
    database.execute("INSERT INTO words VALUES ('halo')")
    database.close()
    script = (
        "import os, sqlite3, sys\n"
        "from pathlib import Path\n"
        "from bobot import database\n"
        "connect = sqlite3.connect\n"
        "def killing(*args, **options):\n"
        "    found = connect(*args, **options)\n"
        "    found.create_function('die', 0, lambda: os.kill(os.getpid(), 9))\n"
        "    return found\n"
        "database.sqlite3.connect = killing\n"
        f"steps = [{FIRST!r}, 'UPDATE words SET text = 1; SELECT die()']\n"
        "database.open_database(Path(sys.argv[1]), steps)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True)
    assert done.returncode == -9, done.stderr
    database = open_database(path, [FIRST, SECOND])
    assert [tuple(row) for row in database.execute("SELECT * FROM words")] == [("halo", 4)]
    database.close()


def test_programs_that_open_at_once_take_each_step_once(tmp_path):
    path = tmp_path / "x.db"
    steps = [FIRST, *(f"INSERT INTO words VALUES ('{number}')" for number in range(5))]
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from bobot.database import open_database\n"
        f"open_database(Path(sys.argv[1]), {steps!r}).close()\n"
    )
    command = [sys.executable, "-c", script, str(path)]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(4)]
    errors = [program.communicate()[1] for program in running]
    assert [program.returncode for program in running] == [0] * 4, errors
    database = open_database(path, steps)
    assert [row["text"] for row in database.execute("SELECT * FROM words")] == list("01234")
    database.close()
