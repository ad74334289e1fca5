"""`bobot serve` and `bobot keys` on the command line; the server itself is in tests/server."""

from __future__ import annotations

import contextlib
import json
import socket

import pytest

from bobot.cli import serve, serve_setup
from bobot.cli.arguments import Parser
from bobot.server.library import Library

KEY = "sk-bobot-"


def test_keys_are_made_listed_and_revoked(run_bobot):
    made = run_bobot("keys", "make", "laptop", "--scope", "use", "--requests-per-minute", "60")
    assert made.status == 0 and made.out.startswith(KEY)
    (listed,) = json.loads(run_bobot("keys", "--json").out)
    assert listed["name"] == "laptop" and listed["scopes"] == ["use"]
    assert listed["requests_per_minute"] == 60 and listed["requests"] == 0
    shown = run_bobot("keys").out
    assert "laptop" in shown and made.out.strip() not in shown
    assert run_bobot("keys", "revoke", "laptop").status == 0
    assert "revoked" in run_bobot("keys").out
    again = run_bobot("keys", "revoke", "laptop")
    assert again.status == 1 and "laptop" in again.err


def test_no_keys_say_how_to_make_one(run_bobot):
    assert "bobot keys make NAME" in run_bobot("keys").out


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("keys", "make"), "name of the key"),
        (("keys", "make", "a", "--tokens-per-minute", "0"), "--tokens-per-minute"),
        (("keys", "burn", "a"), "ACTION"),
        (("keys", "make", "a", "--scope", "all"), "--scope"),
        (("serve", "--port", "70000"), "--port"),
        (("serve", "--max-queue", "0"), "--max-queue"),
        (("serve", "--memory", "-1"), "--memory"),
        (("serve", "--drain-seconds", "-1"), "--drain-seconds"),
        (("serve", "--prefix-cache", "-0.5"), "--prefix-cache"),
        (("serve", "--prefix-cache", "nan"), "--prefix-cache"),
        (("serve", "--api-key", " "), "--api-key"),
        (("serve", "--parallel", "0"), "--parallel"),
        (("serve", "--batch-size", "15"), "--batch-size"),
        (("serve", "--unload-after", "0"), "--unload-after"),
        (("serve", "--default", "temperature"), "NAME=VALUE"),
        (("serve", "--default", "temperature=hot"), "temperature"),
        (("serve", "--default", "typical_p=0.5"), "typical_p"),
        (("serve", "--chat-template", "no-such-file"), "no-such-file"),
        (("serve", "--host", "no.such.host.invalid"), "no.such.host.invalid"),
    ],
)
def test_wrong_use_ends_with_status_2_and_names_the_option(run_bobot, words, part):
    result = run_bobot(*words)
    assert result.status == 2 and part in result.err, result.err


def test_model_that_is_not_here_ends_before_anything_listens(run_bobot):
    result = run_bobot("serve", "./no-such-model", "--port", "0")
    assert result.status == 1 and "no-such-model" in result.err and "listening" not in result.out


def test_port_that_is_taken_is_named(run_bobot):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = run_bobot("serve", "--port", str(port))
    assert result.status == 2 and str(port) in result.err and "--port" in result.err


def test_ollamas_port_that_is_taken_is_told_as_such(run_bobot, monkeypatch):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setattr(serve, "OLLAMA_PORT", port)
        result = run_bobot("serve", "--port", "0", "--ollama")
    assert result.status == 2 and f"Ollama's port {port}" in result.err, result.err
    assert "leave --ollama out" in result.err


@pytest.mark.parametrize("command", ["serve", "keys"])
def test_help_has_an_example_in_both_languages(run_bobot, command):
    english, indonesian = (run_bobot(command, "--help", "--lang", lang) for lang in ("en", "id"))
    assert english.status == indonesian.status == 0
    assert f"bobot {command}" in english.out and "examples:" in english.out
    assert "contoh:" in indonesian.out and "examples:" not in indonesian.out


POLICY = 'local = "bobot"\naliases = ["smart"]\n[[rules]]\nmodel = "desk:m"\nlocal_fails = true\n'


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], ["bobot", "auto", "smart"]),
        (["bobot"], ["bobot"]),
        (["auto"], ["auto", "smart", "bobot"]),
        (["bobot", "smart"], ["bobot", "smart", "auto"]),
        (["bobot", "--policy", "{file}"], ["bobot", "auto", "smart"]),
    ],
)
def test_policy_is_served_where_nothing_or_it_is_named(home, words, names):
    folder = home / "xdg_config_home" / "bobot"
    folder.mkdir(parents=True)
    file = folder / "policy.toml"
    file.write_text(POLICY.replace("desk:m", "bobot"))
    parser = Parser()
    serve.add_arguments(parser)
    args = parser.parse_args([word.format(file=file) for word in words])
    with contextlib.ExitStack() as ending:
        served = serve_setup.models_of(args, Library(), ending)
        assert [one.name for one in served.listed()] == names
        assert served.default_name == names[0]
