"""--adapter of run, chat and serve, on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_adapters import CONFIG, tiny_adapter

import bobot

WORDS = ("run", "--raw", "Once upon a time", "--max-tokens", "8", "--temperature", "0", "--json")


@pytest.fixture(scope="module")
def poet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = bobot.load().model
    return tiny_adapter(tmp_path_factory.mktemp("adapters") / "poet", model, 1, "q_proj", "o_proj")


def test_run_answers_with_the_adapter_and_tells_its_name(run_bobot, poet):
    plain = json.loads(run_bobot(*WORDS).out)
    changed = json.loads(run_bobot(*WORDS, "--adapter", str(poet)).out)
    model = bobot.load(adapters={"x": poet})
    sampling = {"max_tokens": 8, "temperature": 0.0}
    wanted = "".join(model.generate("Once upon a time", adapter="x", **sampling))
    assert changed["text"] == wanted != plain["text"]
    assert changed["model"] == f"{plain['model']} + poet"


def test_chat_answers_with_the_adapter(run_bobot, poet):
    options = ("--max-tokens", "8", "--temperature", "0")
    plain = run_bobot("chat", *options, stdin=b"Who are you?\n")
    changed = run_bobot("chat", *options, "--adapter", str(poet), stdin=b"Who are you?\n")
    model = bobot.load(adapters={"x": poet})
    messages = [{"role": "user", "content": "Who are you?"}]
    wanted = model.chat(messages, adapter="x", max_tokens=8, temperature=0.0)
    assert wanted.strip() in changed.out and changed.out != plain.out


@pytest.mark.parametrize(
    ("words", "status", "part"),
    [
        (("run", "x", "--adapter", "./nowhere"), 1, "nowhere"),
        (("chat", "--adapter", "./nowhere"), 1, "nowhere"),
        (("serve", "--port", "0", "--adapter", "poet"), 2, "NAME=PATH"),
        (("serve", "--port", "0", "--adapter", "poet=./nowhere"), 1, "nowhere"),
        (("serve", "bobot", "--port", "0", "--adapter", "other:poet=./x"), 2, "other"),
    ],
)
def test_what_can_not_be_had_is_told_at_once(run_bobot, words, status, part):
    result = run_bobot(*words)
    assert result.status == status and part in result.err, result.err
    assert "listening" not in result.out


def test_setting_that_is_not_supported_is_told_before_anything_listens(run_bobot, poet, tmp_path):
    settings = json.loads((poet / CONFIG).read_text())
    (tmp_path / "dora").mkdir()
    (tmp_path / "dora" / CONFIG).write_text(json.dumps(settings | {"use_dora": True}))
    result = run_bobot("serve", "--port", "0", "--adapter", f"a={tmp_path / 'dora'}")
    assert result.status == 1 and "use_dora" in result.err and "listening" not in result.out


@pytest.mark.parametrize("command", ["run", "chat", "serve"])
@pytest.mark.parametrize("language", ["en", "id"])
def test_help_names_the_option_in_lines_of_80_columns(run_bobot, command, language):
    shown = run_bobot("--lang", language, command, "--help").out
    assert "--adapter" in shown
    assert max(map(len, shown.splitlines())) <= 80
