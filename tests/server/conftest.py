"""Applications around scripted models, and servers in processes; closed after the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from real_server import Server
from scripted import Talk, talk_to


@pytest.fixture
def talk(tmp_path: Path) -> Iterator[Callable[..., Talk]]:
    """talk(model, ..., is_lenient=True) -> a client; see talk_to."""
    made: list[Talk] = []

    def make(*models, **options) -> Talk:
        folder = tmp_path / str(len(made))
        made.append(talk_to(folder, *models, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """serve("--host", "0.0.0.0") -> a server; all of a test have the same user."""
    made: list[Server] = []

    def start(*words: str) -> Server:
        made.append(Server(tmp_path, *words))
        return made[-1]

    yield start
    for server in made:
        server.close()
