"""Run by test_page_offline.py: bobot's commands, server and page without a network; what they said
goes to stdout as JSON. Not a test.

    python offline_talk.py namespace|barred FOLDER
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from no_network import enter_namespace

BAR = Path(__file__).parents[1] / "no_network.py"
CANNOT = 77
"""The exit code where no namespace can be made."""
QUESTION = "Name three colours."
SAMPLING = {"temperature": 0.0, "max_tokens": 24}


def main() -> None:
    kind, folder = sys.argv[1], Path(sys.argv[2])
    if kind == "namespace" and not enter_namespace():
        sys.exit(CANNOT)
    log = folder / "tried"
    python = [sys.executable] if kind == "namespace" else [sys.executable, str(BAR), str(log)]
    found: dict[str, Any] = {"far": far() if kind == "namespace" else None}
    found["probe"] = subprocess.run(
        [*python, str(Path(__file__).with_name("offline_probe.py"))],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    found["tried_by_probe"] = log.read_text() if log.exists() else ""
    log.unlink(missing_ok=True)
    bobot = [*python, "-m", "bobot"]
    for name, words, said in (
        ("version", ["--version"], ""),
        ("chat", ["chat"], f"/set temperature 0\n/set max_tokens 24\n{QUESTION}\n"),
    ):
        done = subprocess.run(
            [*bobot, *words], input=said, capture_output=True, text=True, check=False
        )
        found[name] = [done.returncode, done.stdout, done.stderr]
    found |= serve(bobot)
    found["tried"] = log.read_text() if log.exists() else ""
    sys.stdout.write(json.dumps(found))


def far() -> list[str]:
    """How reaching out fails."""
    problems = []
    for reach in (
        lambda: socket.getaddrinfo("example.org", 80),
        lambda: socket.create_connection(("192.0.2.1", 80), timeout=5),
    ):
        try:
            reach()
        except OSError as error:
            problems.append(type(error).__name__)
    return problems


def serve(bobot: list[str]) -> dict[str, Any]:
    server = subprocess.Popen([*bobot, "serve", "--port", "0"], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        lines = ""
        for line in server.stdout:
            lines += line
            if "ready" in line:
                break
        port = re.search(r":(\d+)", lines)
        assert port is not None, lines
        return talk(f"http://127.0.0.1:{port[1]}")
    finally:
        server.terminate()
        server.wait(60)
        server.stdout.close()


def talk(root: str) -> dict[str, Any]:
    def ask(path: str, body: Any = None) -> str:
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(root + path, data, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read().decode()

    page = ask("/app/")
    files = [path for path in re.findall(r'(?:src|href)="([^"]+)"', page) if "/app/web/" in path]
    sizes = [len(ask(path)) for path in files]
    fit = json.loads(ask("/app/api/models/bobot/fit"))
    fields = {"model": "bobot", "settings": SAMPLING}
    identity = json.loads(ask("/app/api/conversations", fields))["id"]
    stream = ask(f"/app/api/conversations/{identity}/answers", {"content": QUESTION})
    events = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]
    messages = [{"role": "user", "content": QUESTION}]
    body = {"model": "bobot", "messages": messages, **SAMPLING}
    other = json.loads(ask("/v1/chat/completions", body))
    return {
        "num_files": len([size for size in sizes if size > 100]),
        "fit": fit["verdict"],
        "page_answer": "".join(one["text"] for one in events if one["type"] == "text"),
        "openai_answer": other["choices"][0]["message"]["content"],
    }


if __name__ == "__main__":
    for name in ("CONFIG", "DATA", "STATE", "CACHE"):
        os.environ[f"XDG_{name}_HOME"] = str(Path(sys.argv[2]) / name)
    main()
