"""`bobot launch`: what it writes is read back with the parsers of the formats, what it starts is a
program that tells how it was started.
"""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from bobot.cli.launch_files import JsonFile, YamlItem
from bobot.cli.launch_tools import Place, tools
from bobot.errors import ConfigError

Run = Callable[..., tuple[int, str, str]]
MODEL = 'odd "name"'
"""Needs quoting in every format."""


class _Models(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        key = self.headers.get("authorization")
        allowed = server.key is None or key == f"Bearer {server.key}"  # type: ignore[attr-defined]
        data = [{"id": MODEL, "context_length": 32768}, {"id": "small", "context_length": 1024}]
        body = json.dumps({"object": "list", "data": data} if allowed else {}).encode()
        self.send_response((200 if self.path == "/v1/models" else 404) if allowed else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    found = ThreadingHTTPServer(("127.0.0.1", 0), _Models)
    found.key = None  # type: ignore[attr-defined]
    threading.Thread(target=found.serve_forever, args=(0.02,), daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


@pytest.fixture
def url(server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("BOBOT_API_KEY", "CODEX_HOME", "LLM_USER_PATH", "CLAUDE_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    return f"http://127.0.0.1:{server.server_port}"


def parsed(path: Path) -> Any:
    text = path.read_text()
    reader = {".json": json.loads, ".toml": tomllib.loads, ".yaml": yaml.safe_load}
    return reader[path.suffix](text)


@pytest.mark.parametrize("key", [None, "sk-secret"])
def test_every_file_holds_address_and_model_and_no_key(
    run_bobot: Run, server: Any, url: str, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    server.key = key
    if key:
        monkeypatch.setenv("BOBOT_API_KEY", key)
    num_files = 0
    for name in tools():
        report = json.loads(run_bobot("launch", name, "--url", url, "--json")[1])
        told = json.dumps(report)
        assert "sk-secret" not in told, name
        if report["file"] is None:
            assert run_bobot("launch", name, "--url", url, "--write", "--yes")[0] == 2
            continue
        status, _, err = run_bobot("launch", name, "--url", url, "--write", "--yes")
        path = Path(report["file"])
        assert status == 0 and str(path) in err
        content = parsed(path)
        assert path.read_text() == report["content"]
        assert url in json.dumps(content) and json.dumps(MODEL)[1:-1] in json.dumps(content)
        assert "sk-secret" not in path.read_text()
        assert ("BOBOT_API_KEY" in path.read_text()) is (key is not None and name not in NO_NAMES)
        num_files += 1
    assert num_files == 6


NO_NAMES = ("llm", "zed")
"""They find keys by themselves."""


def test_two_ways_to_tell_a_tool_say_the_same(url: str, tmp_path: Path) -> None:
    """The options of Codex are its file, OpenCode's variable too, Claude's variables too."""
    environ = {"HOME": str(tmp_path), "THE_KEY": "sk-x"}
    for key_env in (None, "THE_KEY"):
        place = Place(url, MODEL, 32768, key_env, environ)
        codex = tools()["codex"].setup(place)
        overrides = [word for word in codex.options if word != "-c"]
        assert codex.file is not None
        read = tomllib.loads(codex.file.shown())
        assert tomllib.loads("\n".join(overrides)) == read
        assert (read["web_search"], read["features"]) == ("disabled", {"multi_agent": False})
        opencode = tools()["opencode"].setup(place)
        assert opencode.file is not None
        inline = json.loads(opencode.environ["OPENCODE_CONFIG_CONTENT"])
        assert inline == json.loads(opencode.file.shown())
        claude = tools()["claude"].setup(place)
        assert claude.file is not None
        written = json.loads(claude.file.shown())["env"]
        secret = set(claude.secret) if key_env else set()
        assert written == {k: v for k, v in claude.environ.items() if k not in secret}


def test_files_keep_what_they_held(run_bobot: Run, url: str, home: Path) -> None:
    before = {"env": {"MINE": "1", "ANTHROPIC_MODEL": "other"}, "hooks": {"x": [1, 2]}}
    path = home / ".claude" / "settings.json"
    path.parent.mkdir()
    path.write_text(json.dumps(before))
    words = ("launch", "claude", "--url", url, "--write", "--yes")
    _, _, err = run_bobot(*words)
    after = parsed(path)
    assert after["hooks"] == before["hooks"] and after["env"]["MINE"] == "1"
    assert after["env"]["ANTHROPIC_MODEL"] == MODEL
    (copy,) = path.parent.glob("*.bak")
    assert json.loads(copy.read_text()) == before and str(copy) in err
    written = path.read_text()
    run_bobot(*words)
    assert path.read_text() == written and len(list(path.parent.glob("*.bak"))) == 1


MINE = "- model_id: mine  # keep\n  model_name: x\n"


@pytest.mark.parametrize(
    ("below", "before"),
    [
        (None, ""),
        (None, MINE),
        (None, MINE.rstrip()),
        ("models", "name: Mine\nversion: 2\nmodels:\n  - name: a\n    provider: b\nrules: [x]\n"),
        ("models", "name: Mine\nmodels:   # mine\n- name: a\n- name: b\n"),
        ("models", "name: Mine\nmodels:\n\n    # first\n    - name: a\nend: 1\n"),
        ("models", "name: Mine\nrules:\n  - x"),
        ("models", "models:\n"),
    ],
)
def test_item_joins_a_list_and_is_replaced_the_next_time(
    tmp_path: Path, below: str | None, before: str
) -> None:
    def items(text: str) -> list[Any]:
        found = yaml.safe_load(text)
        return (found if below is None else (found or {}).get(below)) or []

    first = YamlItem(tmp_path / "f", {"name": "one", "list": [1, "a: b"]}, below)
    once = first.merged(before)
    assert first.merged(once) == once
    second = YamlItem(tmp_path / "f", {"name": "two"}, below).merged(once)
    for text, added in ((once, first.item), (second, {"name": "two"})):
        found, old = items(text), items(before)
        assert added in found and len(found) == len(old) + 1
        assert [item for item in found if item != added] == old
        if below is not None:
            rest = {**yaml.safe_load(text), below: None}
            assert rest == {**(yaml.safe_load(before) or {}), below: None}
    assert all(line in once for line in before.splitlines())


@pytest.mark.parametrize(
    ("below", "before"),
    [
        (None, "[1, 2]\n"),
        (None, "key: 1\n"),
        ("models", "models: []\n"),
        ("models", "models:\n  a: 1\n"),
        ("models", '{"models": []}\n'),
        ("models", '"models":\n  - a\n'),
        ("models", "---\na: 1\n---\nb: 2\n"),
    ],
)
def test_form_that_can_not_be_changed_safely_is_left_alone(
    tmp_path: Path, below: str | None, before: str
) -> None:
    with pytest.raises(ConfigError, match="is left as it is"):
        YamlItem(tmp_path / "f", {"name": "x"}, below).merged(before)
    for text in ("[1]", "{ // mine\n}", "nothing"):
        with pytest.raises(ConfigError, match="is left as it is"):
            JsonFile(tmp_path / "f", {"a": 1}).merged(text)


def test_nothing_is_written_without_a_yes(run_bobot: Run, url: str, home: Path) -> None:
    status, _, err = run_bobot("launch", "codex", "--url", url, "--write")
    assert status == 2 and "--yes says that it may" in err
    assert not (home / ".codex").exists()


def test_list_tells_programs_and_the_server(
    run_bobot: Run, server: Any, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = json.loads(run_bobot("launch", "--url", url, "--json")[1])
    assert [tool["name"] for tool in listed["tools"]] == list(tools())
    assert listed["server"] == {"url": url, "is_up": True, "models": [MODEL, "small"]}
    assert f"{url} answers; its models: {MODEL}, small" in run_bobot("launch", "--url", url)[1]
    server.key = "sk-x"
    assert "wants a key" in run_bobot("launch", "--url", url)[1]
    server.server_close()
    down = run_bobot("launch", "--url", "http://127.0.0.1:9")
    assert down[0] == 0 and "no server answers" in down[1] and "bobot serve [MODEL]" in down[1]


@pytest.mark.parametrize(
    ("words", "status", "part"),
    [
        (["hammer"], 2, "'hammer' is no tool"),
        (["claude", "--model", "none"], 1, "has no model 'none'; there are odd"),
        (["claude", "--url", "ftp://x"], 2, "--url is 'ftp://x'"),
        (["claude", "--url", "http://127.0.0.1:9"], 1, "Start one: bobot serve"),
        (["claude", "--url", "http://127.0.0.1:9", "--model", "m", "--run"], 1, "no server"),
        (["claude", "--run"], 1, "claude is not installed"),
        (["claude", "--", "-p", "hi"], 1, "claude is not installed"),
    ],
)
def test_what_can_not_be_done_is_said(
    run_bobot: Run, url: str, monkeypatch: pytest.MonkeyPatch, words: list[str], status: int, part
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    more = [] if "--url" in words else ["--url", url]
    found, _, err = run_bobot("launch", words[0], *more, *words[1:])
    assert found == status and part in err, err


def test_small_context_is_told_to_agents_only(run_bobot: Run, url: str) -> None:
    words = ("--url", url, "--model", "small")
    assert "context of 1024 tokens" in run_bobot("launch", "claude", *words)[2]
    assert "context" not in run_bobot("launch", "llm", *words)[2]
    assert "context" not in run_bobot("launch", "claude", "--url", url)[2]


def test_tool_is_started_with_its_settings_and_the_users_words(
    home: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "claude"
    program.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        "print(json.dumps([sys.argv[1:], dict(os.environ)]))\nsys.exit(7)\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-mine")
    words = ["launch", "claude", "--url", url, "--", "-p", "say hi", "--model=x"]
    done = subprocess.run(
        [sys.executable, "-m", "bobot", *words], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 7, done.stderr
    arguments, environ = json.loads(done.stdout)
    assert arguments == ["-p", "say hi", "--model=x"]
    assert environ["ANTHROPIC_BASE_URL"] == url and environ["ANTHROPIC_MODEL"] == MODEL
    assert environ["ANTHROPIC_AUTH_TOKEN"] and "ANTHROPIC_API_KEY" not in environ


def test_help_has_an_example_in_both_languages(run_bobot: Run) -> None:
    english, indonesian = (
        run_bobot("launch", "--help", "--lang", lang)[1] for lang in ("en", "id")
    )
    assert "bobot launch claude --run" in english and "contoh:" in indonesian
