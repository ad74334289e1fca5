"""The conversation store: a tree that loses nothing, searched and written by several at once."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path

import pytest

from bobot.chat import store_schema
from bobot.chat.answer_writer import AnswerWriter
from bobot.chat.elo import ratings
from bobot.chat.store import Store
from bobot.chat.store_rows import MARKS, NewMessage, Vote
from bobot.chat.store_schema import LADDER
from bobot.errors import NotFoundError, StorageError


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data" / "chats.db")


def user(text: str) -> NewMessage:
    return NewMessage(role="user", content=text)


def answer(text: str, **fields: object) -> NewMessage:
    return NewMessage(role="assistant", content=text, **fields)  # type: ignore[arg-type]


def contents(store: Store, message: int | None) -> list[str]:
    return [line.content for line in store.branch(message)]


# ------------------------------------------------------------------ conversations and the tree


def test_what_goes_in_comes_out(store: Store) -> None:
    settings = {"temperature": 0.3}
    key = store.create(title="T", settings=settings, extra={"a": [1]}, is_private=True, model="m")
    usage = {"prompt_tokens": 3, "cost_usd": 0.25}
    first = store.add(key, None, user("halo \U0001f600"))
    second = store.add(
        key,
        first,
        answer(
            "ya",
            reasoning="hm",
            model="openai:gpt-4o",
            usage=usage,
            finish_reason="stop",
            extra={"tool_calls": [{"id": "1"}]},
        ),
    )
    found = store.get(key)
    assert (found.title, found.settings, found.extra) == ("T", settings, {"a": [1]})
    assert (found.is_private, found.model, found.head) == (True, "m", second)
    said = store.message(second)
    assert (said.content, said.reasoning, said.model) == ("ya", "hm", "openai:gpt-4o")
    assert (said.usage, said.finish_reason) == (usage, "stop")
    assert said.extra == {"tool_calls": [{"id": "1"}]}
    assert contents(store, second) == ["halo \U0001f600", "ya"]


def test_file_and_folder_are_private(store: Store) -> None:
    assert store.path.stat().st_mode & 0o777 == 0o600
    assert store.path.parent.stat().st_mode & 0o777 == 0o700


def test_branches_share_their_beginning(store: Store) -> None:
    key = store.create()
    root = store.add(key, None, user("q"))
    one, two = store.add(key, root, answer("a1")), store.add(key, root, answer("a2"))
    edited = store.add(key, None, user("q, edited"))
    assert contents(store, one) == ["q", "a1"]
    assert contents(store, two) == ["q", "a2"]
    assert contents(store, edited) == ["q, edited"]
    assert [m.parent for m in store.messages(key)] == [None, root, root, None]
    assert store.child(key, root, answer("a1")) == one
    assert store.child(key, None, answer("a1")) is None


def test_removing_a_message_removes_what_follows_and_moves_the_head(store: Store) -> None:
    key = store.create()
    root = store.add(key, None, user("q"))
    middle = store.add(key, root, answer("a"))
    store.add(key, middle, user("more"))
    store.remove(middle)
    assert [m.content for m in store.messages(key)] == ["q"]
    assert store.get(key).head == root
    store.delete(key)
    assert store.messages(key) == []
    assert store.conversations() == []


def test_wrong_names_are_told(store: Store) -> None:
    key, other = store.create(), store.create()
    message = store.add(other, None, user("x"))
    for wrong in (
        lambda: store.get("none"),
        lambda: store.change("none", title="x"),
        lambda: store.delete("none"),
        lambda: store.add("none", None, user("x")),
        lambda: store.add(key, message, user("x")),
        lambda: store.add(key, 99, user("x")),
        lambda: store.message(99),
        lambda: store.remove(99),
    ):
        with pytest.raises(NotFoundError):
            wrong()
    assert store.messages(key) == []


def test_the_latest_conversation_stands_first(store: Store) -> None:
    keys = [store.create(title=str(number), updated=float(number)) for number in range(5)]
    assert [c.id for c in store.conversations(3)] == keys[:1:-1]
    assert [c.id for c in store.conversations(9, offset=3)] == keys[1::-1]


def test_failed_transaction_leaves_nothing(store: Store) -> None:
    with pytest.raises(NotFoundError), store.transaction():
        key = store.create()
        store.add(key, None, user("x"))
        store.add(key, 12345, user("y"))
    assert store.conversations() == []


def test_text_that_is_no_unicode_is_kept_as_far_as_it_can_be(store: Store) -> None:
    key = store.create()
    message = store.add(key, None, user("a\ud83dz\0b"))
    assert store.message(message).content == "a?z\0b"
    assert store.child(key, None, user("a\ud83dz\0b")) == message


# ------------------------------------------------------------------ search


def test_search_finds_what_a_plain_scan_finds(store: Store) -> None:
    words = ["Bandung", "kopi", "caf\u00e9", "hujan", "don't", 'say "hi"', "x-ray", "100%", "NOT"]
    key = store.create(title="Perjalanan")
    texts = [f"{a} {b}" for a in words for b in words]
    ids = {store.add(key, None, user(text)): text for text in texts}
    for word in words:
        plain = {i for i, text in ids.items() if word.lower() in text.lower()}
        assert {hit.message for hit in store.search(word, 1000)} >= plain, word
    assert {h.message for h in store.search("CAFE", 1000)} == {
        i for i, text in ids.items() if "caf\u00e9" in text
    }
    assert store.search("band")[0].snippet.count(f"{MARKS[0]}Bandung{MARKS[1]}") >= 1
    assert store.search("tidak ada") == []
    assert store.search("!!! ()*") == []


def test_search_knows_titles_and_follows_changes(store: Store) -> None:
    key = store.create(title="Resep_100% nasi")
    message = store.add(key, None, user("goreng"))
    assert [hit.message for hit in store.search("resep_100%")] == [None]
    store.update(message, content="bakar")
    assert store.search("goreng") == []
    assert [hit.message for hit in store.search("bakar")] == [message]
    store.remove(message)
    assert store.search("bakar") == []


# ------------------------------------------------------------------ answers on their way


def test_partial_answer_is_there_before_it_ends(store: Store) -> None:
    other = Store(store.path)
    key = store.create()
    writer = store.begin(key, store.add(key, None, user("q")), "m")
    writer.push("Ha")
    writer.push("lo")
    until = time.monotonic() + 20
    while other.message(writer.id).content != "Halo" and time.monotonic() < until:
        time.sleep(0.02)
    seen = other.message(writer.id)
    assert (seen.content, seen.is_partial, seen.model) == ("Halo", True, "m")
    writer.push("!", "hm")
    writer.finish(usage={"prompt_tokens": 1}, finish_reason="stop")
    seen = other.message(writer.id)
    assert (seen.content, seen.reasoning, seen.is_partial) == ("Halo!", "hm", False)
    assert seen.usage == {"prompt_tokens": 1}


def test_answer_is_written_once_a_second_and_not_with_each_piece(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    key = store.create()
    writer = store.begin(key, None, "m")
    original = store.update

    def update(message: int, **fields: object) -> None:
        written.append(str(fields["content"]))
        original(message, **fields)

    monkeypatch.setattr(store, "update", update)
    monkeypatch.setattr(AnswerWriter, "INTERVAL_S", 3600.0)
    for letter in "abcdefgh":
        writer.push(letter)
    assert written == ["a"]
    writer.finish()
    assert written == ["a", "abcdefgh"]


def test_answer_that_did_not_come_leaves_no_trace(store: Store) -> None:
    key = store.create()
    question = store.add(key, None, user("q"))
    store.begin(key, question, "m").drop()
    assert store.get(key).head == question
    assert len(store.messages(key)) == 1


def test_failure_of_the_timer_is_raised_by_the_next_piece(store: Store) -> None:
    writer = store.begin(store.create(), None, "m")
    writer.push("a")
    store.close()
    writer.push("b")
    assert writer._timer is not None
    writer._timer.join(20)
    with pytest.raises(StorageError):
        writer.push("c")


def test_several_programs_write_at_once(store: Store) -> None:
    """Eight threads with a connection each: every message is there, each line in its own order."""
    key = store.create()

    def write(number: int) -> None:
        mine = Store(store.path)
        parent = None
        for step in range(20):
            parent = mine.add(key, parent, user(f"{number}.{step}"))
        mine.close()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = store.messages(key)
    assert len(found) == 160
    ends = [m.id for m in found if m.content.endswith(".19")]
    for end in ends:
        number = store.message(end).content.split(".")[0]
        assert contents(store, end) == [f"{number}.{step}" for step in range(20)]


# ------------------------------------------------------------------ votes


def test_votes_are_kept_in_order(store: Store) -> None:
    store.vote("a", "b", "a", is_blind=True, conversation=store.create())
    store.vote("b", "c", "both_bad", is_blind=False)
    assert store.votes() == [Vote("a", "b", "a"), Vote("b", "c", "both_bad")]
    assert store.votes(blind_only=True) == [Vote("a", "b", "a")]
    store.vote("c", "a", "b", is_blind=True)
    outcomes = [vote.outcome for vote in store.votes()]
    assert outcomes == [("a", "b", 1.0), ("b", "c", 0.5), ("c", "a", 0.0)]
    assert [rating.model for rating in ratings(outcomes)] == ["a", "b", "c"]


# ------------------------------------------------------------------ the ladder

SECOND = "ALTER TABLE conversations ADD COLUMN folder TEXT;"


def test_older_file_climbs_after_a_copy_and_keeps_everything(store: Store) -> None:
    key = store.create(title="old")
    message = store.add(key, None, user("halo"))
    store.close()
    newer = sqlite3.connect(Store(store.path, (*LADDER, SECOND)).path)
    assert newer.execute("PRAGMA user_version").fetchone() == (2,)
    assert newer.execute("SELECT title, folder FROM conversations").fetchall() == [("old", None)]
    copy = Store(store.path.with_name("chats.db.version1"))
    assert copy.message(message).content == "halo"
    assert copy.path.stat().st_mode & 0o777 == 0o600


def test_rung_that_fails_leaves_the_file_as_it_was(store: Store) -> None:
    store.create(title="old")
    store.close()
    with pytest.raises(StorageError):
        Store(store.path, (*LADDER, SECOND + "CREATE TABLE votes (id);"))
    again = Store(store.path)
    assert [c.title for c in again.conversations()] == ["old"]
    columns = again._rows("SELECT name FROM pragma_table_info('conversations')")
    assert "folder" not in [row["name"] for row in columns]


def test_file_of_a_newer_bobot_is_left_alone(store: Store) -> None:
    store.close()
    Store(store.path, (*LADDER, SECOND)).close()
    before = store.path.read_bytes()
    with pytest.raises(StorageError, match="written by a newer bobot"):
        Store(store.path)
    assert store.path.read_bytes() == before


@pytest.mark.parametrize("content", [b"no database" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_damaged_file_is_one_clear_error_and_stays(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "chats.db"
    path.write_bytes(content)
    with pytest.raises(StorageError, match="can't be opened as a database"):
        Store(path)
    assert path.read_bytes() == content


def test_full_disk_is_told_and_nothing_half_is_written(store: Store) -> None:
    key = store.create(title="before")
    pages = store._rows("PRAGMA page_count")[0][0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageError, match="disk is full"):
        store.add(key, None, user("x" * 1_000_000))
    assert store.messages(key) == []
    assert store._rows("PRAGMA integrity_check")[0][0] == "ok"


def test_folder_that_can_not_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="can't be opened"):
        Store(tmp_path / "file" / "chats.db")


def test_two_programs_may_open_a_new_file_at_the_same_time(tmp_path: Path) -> None:
    opened: list[Store] = []
    threads = [
        threading.Thread(target=lambda: opened.append(Store(tmp_path / "new.db"))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 8
    assert store_schema.LADDER is LADDER
    assert opened[0]._rows("PRAGMA user_version")[0][0] == len(LADDER)
