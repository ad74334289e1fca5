"""Models of this machine behind the server: pulled, opened, asked, removed."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import FakeHub, running_hub

from bobot import kernels
from bobot.chat.local import load
from bobot.engine.kv_cache import bytes_per_token
from bobot.engine.runner import first_weight
from bobot.errors import GatewayError, NotFoundError
from bobot.hub import resolve
from bobot.hub.names import ggufs
from bobot.server import library as library_module
from bobot.server.failures import failure_of
from bobot.server.library import Library, _stamp, memory_bytes

NAME = "org/tiny"
CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8, "temperature": 0}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub on loopback that has the embedded model as org/tiny, and a user with empty folders."""
    with running_hub() as running:
        for name in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "HF_HOME"):
            monkeypatch.setenv(name, str(tmp_path / name))
        monkeypatch.delenv("HF_HUB_CACHE", raising=False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        (file,) = ggufs(resolve(None).parent)
        running.add(NAME, {"tiny-Q8_0.gguf": file.read_bytes()})
        yield running


@pytest.fixture
def client(talk, hub):
    library = Library()
    return talk(sources=library.sources(["bobot"]), library=library, budget_bytes=1 << 30)


def test_model_is_pulled_asked_and_deleted_over_http(client, hub):
    assert client.ask("/api/chat", {"model": NAME, **CHAT}).status_code == 404
    answer = client.ask("/api/pull", {"model": NAME})
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert lines[0] == {"status": "pulling manifest"} and lines[-1] == {"status": "success"}
    last = [line for line in lines if "total" in line][-1]
    assert last["completed"] == last["total"] == ggufs(resolve(None).parent)[0].stat().st_size
    embedded, pulled = (
        client.ask("/v1/chat/completions", {"model": name, **CHAT}).json()
        for name in ("bobot", NAME)
    )
    assert pulled["model"] == NAME
    assert pulled["choices"][0]["message"] == embedded["choices"][0]["message"]
    shown = client.ask("/api/show", {"model": NAME}).json()
    assert shown["details"]["format"] == "gguf" and "im_start" in shown["template"]
    assert client.ask("/api/pull", {"model": NAME, "stream": False}).json() == {"status": "success"}
    assert client.ask("/api/delete", {"model": NAME}, method="DELETE").status_code == 200
    assert client.ask("/v1/chat/completions", {"model": NAME, **CHAT}).status_code == 404
    with pytest.raises(NotFoundError):
        resolve(NAME)


def test_embedded_model_can_not_be_deleted(client):
    answer = client.ask("/api/delete", {"model": "bobot"}, method="DELETE")
    assert answer.status_code == 400 and resolve(None).exists()
    assert client.ask("/v1/chat/completions", CHAT).status_code == 200


@pytest.mark.parametrize("name", ["no/such", "not a name", ""])
def test_what_can_not_be_pulled_says_so(client, name):
    answer = client.ask("/api/pull", {"model": name})
    assert answer.status_code in (400, 404, 500) and list(answer.json()) == ["error"]


def test_memory_is_known_before_loading(client):
    """The weights are about the file; the cache is what the engine makes for one context."""
    path = resolve(None)
    opened = client.loop.run_until_complete(Library().source("bobot").open())
    model = opened.model.model
    token_bytes = bytes_per_token(model.model.kv_specs(), first_weight(model.model).dtype)
    client.loop.run_until_complete(opened.model.close())
    weight_bytes = memory_bytes(path) - token_bytes * model.max_model_len
    assert weight_bytes == pytest.approx(path.stat().st_size, rel=0.1)


def test_hosted_model_is_served_by_name_and_takes_no_memory(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    source = Library().source("openai:gpt-4o")
    assert (source.name, source.facts.owner, source.num_bytes()) == ("openai:gpt-4o", "openai", 0)
    opened = asyncio.run(source.open())
    assert opened.model.name == "openai:gpt-4o" and opened.tokenizer is None
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(GatewayError, match="OPENAI_API_KEY") as caught:
        Library().source("openai:gpt-4o")
    assert failure_of(caught.value).status == 502


def test_model_answers_where_its_prefixes_can_not_be_kept(talk, hub, tmp_path, caplog):
    folder = tmp_path / "XDG_CACHE_HOME" / "bobot" / "prefixes"
    folder.parent.mkdir(parents=True)
    folder.write_text("in the way", encoding="utf-8")
    library = Library(max_prefix_bytes=1 << 30)
    client = talk(sources=library.sources(["bobot"]), library=library, budget_bytes=1 << 30)
    with caplog.at_level(logging.WARNING):
        assert client.ask("/v1/chat/completions", CHAT).status_code == 200
    assert "no prefix cache on the disk" in caplog.text and str(folder) in caplog.text


def test_files_that_were_changed_are_another_model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    weights = folder / "model.safetensors"
    weights.write_bytes(bytes(10))
    first = _stamp(folder)
    assert _stamp(folder) == first
    weights.write_bytes(bytes(9) + b"x")
    os.utime(weights, ns=(1, 1))
    second = _stamp(folder)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    assert len({first, second, _stamp(folder)}) == 3


@pytest.mark.skipif(
    not kernels.available or kernels.isa() == "portable", reason="no products of 8 bits here"
)
def test_models_are_loaded_with_the_activations_asked_for(monkeypatch):
    given = []

    def noted(path, **options):
        given.append(options["activations"])
        return load(path, **options)

    monkeypatch.setattr(library_module, "load", noted)

    async def name_of(library: Library) -> str:
        opened = await library.source("bobot").open()
        await opened.model.close()
        return opened.model.name

    for activations in (None, "int8"):
        assert asyncio.run(name_of(Library(activations=activations))) == "bobot"
    assert given == [None, "int8"]
