"""Simon Willison's command `llm`; see checking.py and clients.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from checking import MODEL, URL, check, run_checks

HOME = tempfile.TemporaryDirectory()
MODELS = f"""
- model_id: here
  model_name: {MODEL}
  api_base: {URL}/v1
  can_stream: true
  supports_schema: true
  supports_tools: true
"""
(Path(HOME.name) / "extra-openai-models.yaml").write_text(MODELS)
WEATHER = "def weather(city: str) -> str:\n    'The weather of a city'\n    return 'sunny'\n"


def llm(*words: str, given: str | None = None) -> str:
    command = [Path(sys.executable).with_name("llm"), *words]
    environment = {**os.environ, "LLM_USER_PATH": HOME.name, "OPENAI_API_KEY": "none"}
    done = subprocess.run(
        command, env=environment, input=given, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def ask(*words: str, given: str | None = None) -> str:
    options = ("-m", "here", "-o", "temperature", "0", "-o", "max_tokens", "60")
    return llm(*words, *options, given=given)


@check
def answers_the_same_streamed_and_whole() -> None:
    assert ask("Say hello.") == ask("Say hello.", "--no-stream") != ""


@check
def goes_on_with_a_conversation() -> None:
    ask("Say hello.")
    assert ask("And again?", "-c")
    assert len(json.loads(llm("logs", "--json", "-n", "0"))) > 1


@check
def keeps_a_schema() -> None:
    schema = json.dumps({"type": "object", "properties": {"is_tall": {"type": "boolean"}},
                         "required": ["is_tall"], "additionalProperties": False})  # fmt: skip
    assert isinstance(json.loads(ask("A person", "--schema", schema))["is_tall"], bool)


@check
def offers_a_tool() -> None:
    assert ask("Say hello.", "--functions", WEATHER, "--td")


@check
def chats() -> None:
    words = ("chat", "-m", "here", "-o", "max_tokens", "30")
    assert "Chatting with here" in llm(*words, given="Say hello.\nexit\n")


if __name__ == "__main__":
    sys.exit(run_checks())
