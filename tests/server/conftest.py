"""Applications around scripted models, and servers in processes; closed after the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from real_server import Server
from scripted import ScriptedModel, Talk, source_of, talk_to

from bobot.chat.store import Store
from bobot.server.app import create_app
from bobot.server.keys import KeyStore
from bobot.server.models import Models
from bobot.server.page_chats import Chats
from bobot.server.page_files import FILES
from bobot.server.page_routes import page_routes
from bobot.server.settings import Settings


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


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Callable[..., Talk]]:
    """page(model, ..., needs_key=True) -> a client; its conversations are in talk.chats."""
    made: list[Talk] = []

    def make(*models: ScriptedModel, api_keys: tuple[str, ...] = (), **settings) -> Talk:
        keys = KeyStore.open(tmp_path / "server.db", list(api_keys))
        chats = Chats(Store(tmp_path / "chats.db"))
        limits = Settings(**settings)
        served = Models([source_of(model) for model in models], 1000)
        app = create_app(
            served,
            limits,
            keys,
            None,  # type: ignore[arg-type]
            pages=lambda runner, inflight: page_routes(runner, inflight, limits, chats),
            open_prefixes=(FILES,),
        )
        talk = Talk(app, served, keys)
        talk.chats = chats  # type: ignore[attr-defined]
        made.append(talk)
        return talk

    yield make
    for talk in made:
        talk.close()
        talk.chats.close()  # type: ignore[attr-defined]
