"""`bobot run` and `bobot chat` with a hosted model: a host on loopback, the user's hosts.toml, a
key in the environment.
"""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_hosts import KEY, FakeHost, Hold, Refuse, running_host
from typed_person import Person

from bobot.chat.archive import Archive
from bobot.chat.protocol import ParameterError
from bobot.chat.session import Session
from bobot.chat.store import Store
from bobot.cli.chat_loop import Chat
from bobot.cli.loading import load_model
from bobot.cli.stopping import Stopping
from bobot.gateway import BlockingModel, open_model

Run = Callable[..., tuple[int, str, str]]
COST = (32 * 2 + 8 * 0.5 + 12 * 10) / 1e6
"""Of the tokens that a FakeHost counts, by the prices below."""


@pytest.fixture
def host(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHost]:
    """The host `desk`, with a price for desk:big and none for others."""
    monkeypatch.setenv("DESK_KEY", KEY)
    parts = [("reasoning", "Hm."), ("text", "Halo dari jauh.")]
    with running_host("openai", parts) as fake:
        folder = home / "xdg_config_home" / "bobot"
        folder.mkdir(parents=True)
        (folder / "hosts.toml").write_text(
            f'[hosts.desk]\nwire = "openai"\nbase_url = "{fake.base_url}"\nkey_env = "DESK_KEY"\n'
            '[hosts.desk.models]\n"big" = { input = 2, cached = 0.5, output = 10 }\n'
        )
        yield fake


def test_run_prints_the_answer_and_tells_model_and_cost(run_bobot: Run, host: FakeHost) -> None:
    status, out, err = run_bobot("run", "desk:big", "Hai", "--temperature", "0.5", "--system", "S")
    assert (status, out) == (0, "Halo dari jauh.\n")
    assert err == f"bobot: desk:big-2024-08-06: ${COST:.6f}\n"
    body = host.requests[0].body
    assert body["temperature"] == 0.5
    assert "max_tokens" not in body
    assert [m["role"] for m in body["messages"]] == ["system", "user"]


def test_run_as_json_carries_model_usage_and_cost(run_bobot: Run, host: FakeHost) -> None:
    status, out, err = run_bobot("run", "desk:big", "Hai", "--json")
    report = json.loads(out)
    assert (status, err) == (0, "")
    assert report["model"] == "desk:big-2024-08-06"
    assert report["text"] == "Halo dari jauh."
    assert report["reasoning"] == "Hm."
    assert report["usage"] == {"prompt_tokens": 40, "completion_tokens": 12, "total_tokens": 52}
    assert report["cost_usd"] == pytest.approx(COST)
    unknown = json.loads(run_bobot("run", "-m", "desk:small", "Hai", "--json")[1])
    assert unknown["cost_usd"] is None


def test_name_alone_takes_the_prompt_from_a_pipe(run_bobot: Run, host: FakeHost) -> None:
    status, out, err = run_bobot("run", "desk:small", stdin=b"Hai")
    assert (status, out) == (0, "Halo dari jauh.\n")
    assert "cost unknown" in err
    assert host.requests[0].body["messages"][0]["content"] == "Hai"


def test_run_continues_plain_text(run_bobot: Run, host: FakeHost) -> None:
    host.parts = [("text", "upon a time")]
    status, out, _ = run_bobot("run", "desk:big", "Once", "--raw", "--max-tokens", "5")
    assert (status, out) == (0, "upon a time\n")
    assert host.requests[0].path == "/v1/completions"
    assert host.requests[0].body["max_tokens"] == 5


@pytest.mark.parametrize(
    ("words", "status", "part"),
    [
        (["desk:big", "x", "--top-k", "5"], 1, "desk can't do top_k; nothing was sent."),
        (["desk:big", "x", "--temperature", "nan"], 1, "must be a finite number"),
        (["desk:big", "x", "--draft", "y"], 2, "is hosted: --draft, --speculation"),
        (["desk:no-such-model", "x"], 1, "no model 'no-such-model'"),
        (["openai:gpt-4o", "x"], 1, "OPENAI_API_KEY is not set"),
    ],
)
def test_what_can_not_be_done_is_one_line(
    run_bobot: Run,
    host: FakeHost,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    status: int,
    part: str,
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    found, out, err = run_bobot("run", *words)
    assert (found, out) == (status, "")
    assert part in err
    assert len(err.splitlines()) == 1


def test_other_commands_say_that_they_need_a_model_on_the_disk(run_bobot: Run) -> None:
    status, _, err = run_bobot("show", "openai:gpt-4o")
    assert status == 1
    assert "needs a model on your disk" in err


def test_hosted_run_loads_no_torch(host: FakeHost, home: Path) -> None:
    script = (
        "import sys; from bobot.cli import main\n"
        "status = main(['run', 'desk:big', 'Hai'])\n"
        "print(status, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.stdout == "Halo dari jauh.\n0 False\n", done.stderr


# ---------------------------------------------------------------------- chat


def talk(folder: Path, *entries: str, **session: object) -> tuple[Chat, str]:
    archive = Archive(Store(folder / "chats.db"))
    chat = Chat(load_model("desk:big"), Session(), archive, load_model)
    for name, value in session.items():
        setattr(chat.session, name, value)
    person = Person(*entries)
    chat.run(person)
    return chat, "\n".join(person.seen)


def test_chat_says_where_words_go_and_what_they_cost(tmp_path: Path, host: FakeHost) -> None:
    chat, seen = talk(tmp_path, "Hai", "/reasoning", "Lagi", "/stats", "/reasoning high", "x")
    assert "what you write here is sent to desk" in seen
    assert f"[desk:big  52 tokens  ${COST:.6f}" in seen
    assert f"${2 * COST:.6f}" in seen
    assert "Hm." in seen
    assert [m.content for m in chat.session.messages][:2] == ["Hai", "Halo dari jauh."]
    assert len(host.requests[1].body["messages"]) == 3
    assert host.requests[2].body["reasoning_effort"] == "high"
    row = sqlite3.connect(tmp_path / "chats.db").execute(
        "SELECT model, usage FROM messages WHERE role = 'assistant' ORDER BY id"
    )
    model, usage = row.fetchone()
    assert model == "desk:big-2024-08-06"
    assert json.loads(usage)["cost_usd"] == pytest.approx(COST)


def test_failure_leaves_the_question_and_retry_asks_again(tmp_path: Path, host: FakeHost) -> None:
    host.faults = [Refuse(403, {"error": {"message": "Not today"}})]
    chat, seen = talk(tmp_path, "Hai", "/retry")
    assert "desk could not answer: Not today." in seen
    assert [m.content for m in chat.session.messages] == ["Hai", "Halo dari jauh."]
    assert chat.archive is not None
    [found] = chat.archive.store.conversations()
    assert [m.content for m in chat.archive.store.messages(found.id)] == ["Hai", "Halo dari jauh."]


def test_private_conversation_is_not_sent(tmp_path: Path, run_bobot: Run, host: FakeHost) -> None:
    _, seen = talk(tmp_path, "Hai", is_private=True)
    assert "this conversation is private: it is not sent to desk." in seen
    status, out, err = run_bobot("chat", "desk:big", "--private", stdin=b"Hai\n")
    assert (status, out.strip()) == (1, "")
    assert "private" in err
    assert host.requests == []
    archive = Archive(Store(tmp_path / "chats.db"))
    archive.store.create(name="secret", is_private=True)
    assert archive.load("secret").is_private
    talk(tmp_path, "/load secret", "Hai")
    assert host.requests == []


def test_model_can_be_changed_to_a_hosted_one(tmp_path: Path, host: FakeHost) -> None:
    chat, seen = talk(tmp_path, "/model desk:other", "Hai", "/trim")
    assert chat.model.name == "desk:other"
    assert host.requests[0].body["model"] == "other"
    assert "does not say how long its context is" in seen


def test_silent_host_can_be_stopped_with_one_ctrl_c(host: FakeHost) -> None:
    hold = Hold(after=4)
    host.faults = [hold]
    model = BlockingModel(open_model("desk:big"))
    seen = ""
    with Stopping() as stopping:
        threading.Timer(0.3, signal.raise_signal, [signal.SIGINT]).start()
        for delta in stopping.until_stopped(model.answer([{"role": "user", "content": "x"}])):
            seen += delta.text
    assert stopping.is_stopped
    assert seen == "Hm.Halo dari "[: len(seen)]
    assert host.gone.wait(20), "the host was left waiting"
    assert model.last_stats is not None
    assert model.last_stats.finish_reason is None


def test_private_request_is_refused_by_the_gateway_itself(host: FakeHost) -> None:
    model = BlockingModel(open_model("desk:big"))
    with pytest.raises(ParameterError, match="is private"):
        list(model.answer([{"role": "user", "content": "x"}], is_private=True))
    assert host.requests == []
