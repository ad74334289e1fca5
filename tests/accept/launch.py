"""Real tools started by `bobot launch`, answered by the embedded model.

    python tests/accept/launch.py [TOOL ...]

llm comes from PyPI; cn (Continue, 81 MB), codex and claude (400 MB each) from npm. Each has to
print an answer, and the server has to have seen its requests. The
model is exported with a longer context than it was trained for, since the first prompt of an agent
has up to 20,000 tokens: that it is answered counts here, not what.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from scores import Score, show
from serving import BUILD, ROOT, Running, environment_with_bobot, node_with, python_with, serving

NPM = {
    "continue": "@continuedev/cli@1.5.47",
    "codex": "@openai/codex@0.169.0",
    "claude": "@anthropic-ai/claude-code@2.1.330",
}
WORDS = {
    "llm": ["Say hello.", "-o", "max_tokens", "12", "-o", "temperature", "0"],
    "continue": ["-p", "Say hello."],
    "codex": ["exec", "--skip-git-repo-check", "-s", "read-only", "Say hello."],
    "claude": ["-p", "Say hello."],
}
ASKS = {"codex": "/v1/responses", "claude": "/v1/messages"}
CONTEXT = 65536
TIMEOUT_S = 600


def long_model() -> Path:
    """The embedded model with CONTEXT in its configuration."""
    folder = BUILD / "launch-model"
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "bobot", "export", "bobot", str(folder), "--to", "hf"]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    file = folder / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "max_position_embeddings": CONTEXT}))
    return folder


def folder_of(tool: str) -> Path:
    """Where its program lies, installed now if need be."""
    if tool == "llm":
        return python_with("llm", "llm==0.36").parent
    return node_with(f"launch-{tool}", NPM[tool]) / "node_modules" / ".bin"


def launch(server: Running, tool: str, *words: str) -> subprocess.CompletedProcess[str]:
    """With a home folder of its own."""
    environ = environment_with_bobot(BUILD / "launch-home") | {
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "100",
        "PATH": os.pathsep.join([str(folder_of(tool)), os.environ["PATH"]]),
    }
    home = Path(environ["HOME"])
    home.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "bobot", "launch", tool, "--url", server.url, *words]
    return subprocess.run(
        command,
        env=environ,
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


def asked(server: Running, path: str) -> list[dict]:
    lines = [json.loads(line) for line in server.log.read_text().splitlines() if line[:1] == "{"]
    return [line for line in lines if line.get("path") == path]


def check(server: Running, tool: str) -> str:
    """What happened, in a line; AssertionError."""
    path = ASKS.get(tool, "/v1/chat/completions")
    before = len(asked(server, path))
    written = launch(server, tool, "--write", "--yes")
    assert written.returncode == 0, written.stderr
    done = launch(server, tool, "--", *WORDS[tool])
    seen = asked(server, path)[before:]
    assert seen, f"nothing came to {path}: {done.stdout} {done.stderr}"
    assert all(line["status"] == 200 for line in seen), done.stdout + done.stderr
    assert done.returncode == 0 and done.stdout.strip(), done.stderr
    num_tokens = max(line["prompt_tokens"] for line in seen)
    return f"{num_tokens} tokens answered with {' '.join(done.stdout.split())[:60]!r}"


def scores(tools: tuple[str, ...] = tuple(WORDS)) -> Iterator[Score]:
    with serving(str(long_model()), name="launch-server") as server:
        for tool in tools:
            try:
                yield Score("launch", tool, 1, 1, note=check(server, tool))
            except (AssertionError, subprocess.SubprocessError) as error:
                yield Score("launch", tool, 0, 1, note=" ".join(str(error).split())[-300:])


if __name__ == "__main__":
    sys.exit(show(scores(tuple(sys.argv[1:]) or tuple(WORDS))))
