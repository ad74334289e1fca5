"""Start, chat, serve and page without a network and a resolver: in a namespace of their own, and
behind a bar in Python that also tells what was tried.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from offline_talk import CANNOT

TALK = Path(__file__).with_name("offline_talk.py")


def talk(kind: str, folder: Path) -> dict[str, Any]:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environ |= {"LANG": "C.UTF-8", "HOME": str(folder), "HF_HOME": str(folder / "hf")}
    done = subprocess.run(
        [sys.executable, str(TALK), kind, str(folder)],
        capture_output=True,
        text=True,
        env=environ,
        check=False,
    )
    if done.returncode == CANNOT:
        pytest.skip("this system lets nobody make a network namespace")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def check(found: dict[str, Any]) -> None:
    """Every part answered, and the page and OpenAI's face the same, greedily."""
    assert found["probe"] == ["near", "unresolved"]
    for name in ("version", "chat"):
        code, out, err = found[name]
        assert code == 0 and out.strip(), (name, err)
    assert found["num_files"] == 7 and found["fit"] == "fits"
    assert len(found["page_answer"]) > 10
    assert found["page_answer"] == found["openai_answer"]
    assert found["page_answer"].strip() in found["chat"][1]


def test_everything_works_in_a_namespace_with_loopback_only(tmp_path: Path) -> None:
    found = talk("namespace", tmp_path)
    assert found["far"] == ["gaierror", "OSError"], "the namespace has a way out"
    check(found)


def test_nothing_even_tries_to_reach_the_network(tmp_path: Path) -> None:
    found = talk("barred", tmp_path)
    assert found["tried_by_probe"] == "socket.getaddrinfo example.org\n", "the bar sees nothing"
    check(found)
    assert found["tried"] == ""
