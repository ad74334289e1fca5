"""A hub on loopback with a small repository, and a user of it with an empty cache."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub_server import FakeHub, running_hub
from tiny_repository import FILES, NAME, UNWANTED, Pull

from bobot.hub.cache import CacheEntry, huggingface_cache
from bobot.hub.pull import Plan, carry_out, plan_pull
from bobot.hub.remote import Hub
from bobot.hub.transfer import Meter


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running_hub() as running:
        yield running


@pytest.fixture
def environ(tmp_path: Path, hub: FakeHub) -> dict[str, str]:
    return {
        "HOME": str(tmp_path),
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "HF_HOME": str(tmp_path / "hf"),
        "HF_ENDPOINT": hub.endpoint,
    }


@pytest.fixture
def waits() -> list[float]:
    """The seconds that would have been waited between attempts."""
    return []


@pytest.fixture
def connect(environ: dict[str, str], waits: list[float]) -> Iterator[Callable[..., Hub]]:
    """connect(HF_TOKEN="...") -> a client of that user, closed after the test."""
    clients: list[Hub] = []

    def make(**settings: str) -> Hub:
        clients.append(Hub({**environ, **settings}, sleep=waits.append))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def client(connect: Callable[..., Hub]) -> Hub:
    return connect()


@pytest.fixture
def entry(environ: dict[str, str]) -> CacheEntry:
    return CacheEntry(huggingface_cache(environ), NAME)


@pytest.fixture
def plan(hub: FakeHub, client: Hub, entry: CacheEntry) -> Callable[..., Plan]:
    def make(quantization: str | None = None) -> Plan:
        return plan_pull(client, entry, "main", quantization)

    hub.add(NAME, {**FILES, **UNWANTED}, licence="mit")
    return make


@pytest.fixture
def pull(client: Hub, plan: Callable[..., Plan]) -> Pull:
    def run(quantization: str | None = None, watch: Callable[[], None] = lambda: None) -> Path:
        planned = plan(quantization)
        meter = Meter(planned.total_bytes, threading.Event())
        path = carry_out(client, planned, meter, watch)
        assert meter.done_bytes == planned.total_bytes, "the bar would not end at 100 %"
        return path

    return run
