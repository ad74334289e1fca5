"""The prefix cache of `bobot serve` over a restart: counted, bounded, and never of private talk."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_server import Server, until

TALE = "Once upon a time there was a small boat that wanted to see the sea. " * 24
BODY = {"max_tokens": 8, "temperature": 0}


def ask(server: Server, text: str, **more: object) -> tuple[str, int, int]:
    """The answer, the tokens of the prompt, and how many of them were found."""
    body = {**BODY, "messages": [{"role": "user", "content": text}], **more}
    answer = server.ask("/v1/chat/completions", body).json()
    usage = answer["usage"]
    found = usage["prompt_tokens_details"]["cached_tokens"]
    return answer["choices"][0]["message"]["content"], usage["prompt_tokens"], found


def prefixes(tmp_path: Path) -> Path:
    return tmp_path / "XDG_CACHE_HOME" / "bobot" / "prefixes"


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_prompt_is_found_after_a_restart(serve, tmp_path: Path, sig: int) -> None:
    first = serve()
    assert any(str(prefixes(tmp_path)) in line for line in first.lines), first.lines
    text, num_tokens, num_found = ask(first, TALE)
    assert num_tokens >= 256 and num_found == 0
    num_blocks = num_tokens // 16
    until(lambda: len(list(prefixes(tmp_path).glob("*.block"))) >= num_blocks)
    until(lambda: first.metric("bobot_engine_num_disk_bytes") > 0)
    assert first.end(sig) in (0, -sig)
    second = serve()
    again = ask(second, TALE)
    assert again == (text, num_tokens, (num_tokens - 1) // 16 * 16)
    assert second.metric("bobot_engine_num_restored_tokens") == again[2]
    assert second.metric("bobot_cached_tokens_total") == again[2]
    other, other_tokens, other_found = ask(second, TALE + "Tell me more.")
    assert other_tokens > other_found >= again[2] - 32 and other
    assert second.end() == 0


def test_private_talk_and_other_peoples_talk_stay_off_the_disk(serve, tmp_path: Path) -> None:
    server = serve()
    for _ in range(2):
        ask(server, TALE, private=True)
    assert server.end() == 0
    folder = prefixes(tmp_path)
    assert list(folder.glob("*.block")) == []
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    ask_all = serve("--host", "0.0.0.0", "--api-key", "sk-mine")
    assert not any("beginnings of prompts" in line for line in ask_all.lines)
    body = {**BODY, "messages": [{"role": "user", "content": TALE}]}
    headers = {"authorization": "Bearer sk-mine"}
    assert ask_all.ask("/v1/chat/completions", body, headers=headers).status_code == 200
    assert ask_all.end() == 0
    assert list(folder.glob("*.block")) == []


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v1/completions", {"prompt": TALE, **BODY}),
        ("/api/generate", {"prompt": TALE, "raw": True, "stream": False}),
        ("/v1/messages", {"messages": [{"role": "user", "content": TALE}], **BODY}),
        ("/completion", {"prompt": TALE, "n_predict": 8}),
    ],
)
def test_private_requests_of_every_kind_stay_off_the_disk(serve, tmp_path: Path, path, words):
    """Told by the header, which every path knows. Asked openly, the same request is kept."""
    server = serve("--prefix-cache", "1")
    body = {"model": "bobot", **words}
    assert server.ask(path, body, headers={"x-bobot-private": "true"}).status_code == 200
    assert server.end() == 0
    assert list(prefixes(tmp_path).glob("*.block")) == []
    server = serve("--prefix-cache", "1")
    assert server.ask(path, body).status_code == 200
    assert server.end() == 0
    assert list(prefixes(tmp_path).glob("*.block")) != []


@pytest.mark.parametrize("is_kept", [False, True])
def test_a_conversation_that_is_not_stored_is_not_in_the_cache_either(
    serve, tmp_path: Path, is_kept: bool
) -> None:
    server = serve()
    settings = {"max_tokens": 8, "temperature": 0}
    fields = {"is_kept": is_kept, "settings": settings}
    made = server.ask("/app/api/conversations", fields).json()
    answer = server.ask(f"/app/api/conversations/{made['id']}/answers", {"content": TALE})
    assert answer.status_code == 200 and '"done"' in answer.text, answer.text
    assert server.end() == 0
    assert bool(list(prefixes(tmp_path).glob("*.block"))) == is_kept


def test_every_line_of_the_log_is_json_and_tells_nothing_of_a_prompt(serve, tmp_path: Path) -> None:
    """Also those of the engine, which finds a damaged block, and of uvicorn, which gets no HTTP."""
    first = serve()
    ask(first, TALE)
    assert first.end() == 0
    for block in prefixes(tmp_path).glob("*.block"):
        block.write_bytes(block.read_bytes()[:-1])
    second = serve()
    assert ask(second, TALE)[2] == 0
    with socket.create_connection(("127.0.0.1", second.port)) as sock:
        sock.sendall(b"\x16\x03\x01 this is TLS\r\n\r\n")
        assert b"400" in sock.recv(1000)
    assert second.end() == 0
    log = second.errors.read_text()
    lines = [json.loads(line) for line in log.splitlines()]
    told = {line["logger"]: line["message"] for line in lines if "message" in line}
    assert "is no block of the prefix cache" in told["bobot.engine"]
    assert "Invalid HTTP request" in told["uvicorn.error"]
    assert told["bobot.server"].startswith("bobot: loaded in")
    assert all({"time", "level"} <= line.keys() for line in lines)
    assert "small boat" not in log


def sizes(folder: Path) -> Iterator[int]:
    """Of the blocks; the server may take some away meanwhile."""
    for path in folder.glob("*.block"):
        with contextlib.suppress(FileNotFoundError):
            yield path.stat().st_size


def test_bound_is_what_was_asked_for(serve, tmp_path: Path) -> None:
    max_bytes = 4 << 20
    server = serve("--prefix-cache", str(max_bytes / (1 << 30)))
    for number in range(6):
        ask(server, f"{number}: {TALE}")
        assert sum(sizes(prefixes(tmp_path))) <= max_bytes
    assert server.end() == 0
    total = sum(sizes(prefixes(tmp_path)))
    assert max_bytes / 2 < total <= max_bytes, total / max_bytes
