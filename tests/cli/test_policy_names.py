"""A policy's names in `bobot run` and `bobot chat`: the embedded model, and a host on loopback."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_hosts import FakeHost
from policy_host import desk_with
from typed_person import Person

from bobot.chat.archive import Archive
from bobot.chat.session import Session
from bobot.chat.store import Store
from bobot.cli.chat_loop import Chat
from bobot.cli.loading import load_model

Run = Callable[..., tuple[int, str, str]]
POLICY = """
local = "bobot"
aliases = ["smart"]
[[rules]]
model = "desk:smart"
asked = ["smart"]
[[rules]]
model = "desk:rescue"
local_fails = true
"""
SHORT = ("--max-tokens", "6", "--temperature", "0")
LONG = "word " * 3000
"""More than the embedded model's context."""


@pytest.fixture
def host(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHost]:
    folder = home / "xdg_config_home" / "bobot"
    with desk_with(POLICY, folder, "Halo dari jauh.", monkeypatch) as fake:
        yield fake


def test_run_says_who_answered(run_bobot: Run, host: FakeHost) -> None:
    alone = run_bobot("run", "bobot", "Hi", *SHORT)
    status, out, err = run_bobot("run", "auto", "Hi", *SHORT)
    assert (status, out) == (0, alone[1]) and out.strip()
    assert err == "bobot: bobot-mini: on this machine\n"
    assert host.requests == []
    status, out, err = run_bobot("run", "smart", "Hi", *SHORT)
    assert (status, out) == (0, "Halo dari jauh.\n")
    assert err == "bobot: desk:smart-2024-08-06: cost unknown\n"
    report = json.loads(run_bobot("run", "auto", "Hi", "--json", *SHORT)[1])
    assert report["model"] == "bobot-mini" and "cost_usd" not in report
    assert report["text"].strip() == alone[1].strip()


def test_private_run_stays_here_and_says_who_was_not_asked(run_bobot: Run, host: FakeHost) -> None:
    status, out, err = run_bobot("run", "smart", "Hi", "--private", *SHORT)
    assert status == 0 and out.strip() and err == "bobot: bobot-mini: on this machine\n"
    status, _, err = run_bobot("run", "-m", "auto", "--private", LONG)
    assert status == 1
    assert "desk:rescue was not asked instead" in err and "1024" in err
    _, _, indonesian = run_bobot("run", "-m", "auto", "--private", "--lang", "id", LONG)
    assert "desk:rescue tidak ditanyai" in indonesian and "Prompt punya 3012 token" in indonesian
    for words in (["desk:m", "Hi"], ["desk:m", "Hi", "--raw"]):
        status, _, err = run_bobot("run", *words, "--private")
        assert status == 1 and "is private: it is not sent to desk" in err
    assert host.requests == []
    status, out, _ = run_bobot("run", "-m", "auto", LONG)
    assert (status, out) == (0, "Halo dari jauh.\n")
    assert [request.body["model"] for request in host.requests] == ["rescue"]


def test_mistakes_in_the_policy_are_told(run_bobot: Run, host: FakeHost, home: Path) -> None:
    status, _, err = run_bobot("run", "auto", "Hi", "--policy", str(home / "none.toml"))
    assert status == 2 and "none.toml: there is no such file." in err
    bad = home / "bad.toml"
    bad.write_text('local = "bobot"\nfoo = 1\n')
    status, _, err = run_bobot("chat", "--policy", str(bad), stdin=b"Hi\n")
    assert status == 1 and "unknown key 'foo'" in err
    status, _, err = run_bobot("run", "desk:m", "Hi", "--policy", str(bad))
    assert status == 1 and "unknown key 'foo'" in err
    assert host.requests == []


def test_chat_tells_after_each_answer_who_gave_it_and_keeps_it(
    tmp_path: Path, host: FakeHost
) -> None:
    archive = Archive(Store(tmp_path / "chats.db"))
    chat = Chat(load_model("smart"), Session(), archive, load_model)
    person = Person(
        *("/set max_tokens 6", "/set temperature 0", "One", "/private", "/private on", "Two"),
        *("/save mine", "/private maybe", "/load mine", "Three", "/private off", "Four"),
    )
    chat.run(person)
    seen = "\n".join(person.seen)
    assert "smart: chooses among bobot, desk:smart, desk:rescue; what a hosted one" in seen
    assert seen.count("desk:smart-2024-08-06: cost unknown") == 2
    assert seen.count("bobot-mini: on this machine") == 2
    assert "a hosted model may be asked" in seen and "no hosted model is asked" in seen
    assert "/private takes on or off, not 'maybe'." in seen
    assert "  private  " in seen
    asked = [request.body["messages"][-1]["content"] for request in host.requests]
    assert asked == ["One", "Four"]
    database = sqlite3.connect(tmp_path / "chats.db")
    rows = database.execute("SELECT model FROM messages WHERE role = 'assistant' ORDER BY id")
    by = [row[0] for row in rows]
    one, two, four = "desk:smart-2024-08-06", "bobot-mini", "desk:smart-2024-08-06"
    # "mine" is a copy of the first two turns, in which two more follow.
    assert by == [one, two, one, two, two, four]
    database.close()


def test_private_conversation_of_a_pipe_stays_here(run_bobot: Run, host: FakeHost) -> None:
    words = ("chat", "smart", "--private", *SHORT)
    status, out, _ = run_bobot(*words, stdin=b"Hi\n")
    assert status == 0 and out.strip() and host.requests == []
