"""LoRA adapters served as models of their own name, on top of the one that they change."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from scripted import ScriptedModel, source_of
from tiny_adapters import random_matrices, tiny_adapter, write_adapter

import bobot
from bobot import kernels
from bobot.chat.local import LocalModel
from bobot.errors import BobotError, CheckpointError, UsageError
from bobot.server.adapters import adapter_sources
from bobot.server.library import Library
from bobot.server.models import Models, Opened, Source

MESSAGES = [{"role": "user", "content": "Who are you, and what is the capital of Indonesia?"}]
SAMPLING = {"max_tokens": 10, "temperature": 0.8, "seed": 7}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    model = bobot.load().model
    return {
        name: tiny_adapter(folder / name, model, seed, "q_proj", "v_proj", "up_proj")
        for name, seed in (("poet", 1), ("clerk", 2))
    }


@pytest.fixture(scope="module")
def local(folders: dict[str, Path]) -> LocalModel:
    """The model and its adapters without a server."""
    return bobot.load(adapters=folders)


@pytest.fixture
def client(talk, folders):
    sources = Library().sources(["bobot"])
    sources += adapter_sources([f"{name}={path}" for name, path in folders.items()], sources)
    return talk(sources=sources, library=Library(), budget_bytes=1 << 31)


def body(model: str, **more: object) -> dict[str, object]:
    return {"model": model, "messages": MESSAGES, **SAMPLING, **more}


def test_adapters_and_their_model_answer_together_each_in_its_own_way(client, local):
    """At once where a product of many rows is that of each alone, to the bit: where it is one of
    integers. Elsewhere the last bit decides between words that these adapters make about as likely.
    """
    names = ("bobot", "poet", "clerk")
    asked = [("/v1/chat/completions", body(name)) for name in names * 2]
    if kernels.available and kernels.isa() == "avx512vnni":
        answers = client.together(*asked)
    else:
        answers = [client.ask(*one) for one in asked]
    found = [answer.json() for answer in answers]
    assert [answer["model"] for answer in found] == list(names * 2)
    texts = [answer["choices"][0]["message"]["content"] for answer in found]
    adapters = (None, "poet", "clerk")
    assert texts == [local.chat(MESSAGES, adapter=name, **SAMPLING) for name in adapters] * 2
    assert len(set(texts)) == 3, texts


def test_every_api_takes_the_name_of_an_adapter(client, local):
    wanted = local.chat(MESSAGES, adapter="poet", **SAMPLING)
    greedy = {"model": "poet", "messages": MESSAGES, "max_tokens": 10, "temperature": 0}
    anthropic = client.ask("/v1/messages", greedy).json()
    assert anthropic["model"] == "poet"
    assert anthropic["content"][0]["text"] == local.chat(
        MESSAGES, adapter="poet", max_tokens=10, temperature=0.0
    )
    options = {"num_predict": 10, "temperature": 0.8, "seed": 7}
    ollama = {"model": "poet:latest", "messages": MESSAGES, "stream": False, "options": options}
    answer = client.ask("/api/chat", ollama).json()
    assert answer["message"]["content"] == wanted
    prompt = "Once upon a time"
    text = {"prompt": prompt, "max_tokens": 8, "temperature": 0}
    found = [
        client.ask("/v1/completions", {"model": name, **text}).json()["choices"][0]["text"]
        for name in ("bobot", "poet")
    ]
    plain = {"max_tokens": 8, "temperature": 0.0}
    assert found == [
        "".join(local.generate(prompt, adapter=name, **plain)) for name in (None, "poet")
    ]
    vectors = [
        client.ask("/v1/embeddings", {"model": name, "input": prompt}).json()["data"][0]
        for name in ("bobot", "poet")
    ]
    assert vectors[0]["embedding"] != vectors[1]["embedding"]


def test_an_adapter_is_listed_under_its_model_and_loaded_when_asked_for(client, folders):
    listed = {model["id"]: model for model in client.ask("/v1/models").json()["data"]}
    assert list(listed) == ["bobot", "poet", "clerk"]
    assert (listed["bobot"]["parent"], listed["bobot"]["root"]) == (None, "bobot")
    assert (listed["poet"]["parent"], listed["poet"]["root"]) == ("bobot", "bobot")
    assert listed["poet"]["state"] == listed["bobot"]["state"] == "absent"
    assert client.ask("/v1/chat/completions", body("poet")).status_code == 200
    states = {one.name: one for one in client.models.listed()}
    assert states["poet"].state == states["bobot"].state == "ready"
    assert states["clerk"].state == "absent"
    matrices = sum(256 * 4 + 4 * out for out in (256, 256, 1024))
    assert states["poet"].num_bytes == 8 * matrices * 4
    tags = client.ask("/api/tags").json()["models"]
    assert tags[1]["details"]["parent_model"] == "bobot"
    assert tags[1]["digest"] not in ("", tags[0]["digest"], tags[2]["digest"])
    assert tags[1]["size"] == sum(f.stat().st_size for f in folders["poet"].iterdir())


def test_a_prompt_is_taken_from_the_cache_of_the_same_adapter_only(client):
    def cached(name: str) -> int:
        usage = client.ask("/v1/chat/completions", body(name)).json()["usage"]
        return usage["prompt_tokens_details"]["cached_tokens"]

    first = [cached(name) for name in ("bobot", "poet", "clerk")]
    again = [cached(name) for name in ("clerk", "bobot", "poet")]
    assert first == [0, 0, 0] and min(again) >= 16


def test_tokens_are_counted_by_name_and_the_shared_engine_once(client):
    for name in ("bobot", "poet", "poet"):
        assert client.ask("/v1/chat/completions", body(name)).status_code == 200
    lines = client.ask("/metrics").text.splitlines()
    written = [line for line in lines if line.startswith("bobot_completion_tokens_total{")]
    assert sorted(written) == [
        'bobot_completion_tokens_total{model="bobot"} 10.0',
        'bobot_completion_tokens_total{model="poet"} 20.0',
    ]
    engines = [line for line in lines if line.startswith("bobot_engine_num_free_blocks{")]
    assert len(engines) == 1 and 'model="bobot"' in engines[0], engines


def with_adapters(
    *models: ScriptedModel, adapters: dict[str, str], num_bytes: int = 10
) -> list[Source]:
    """Scripted models, and scripted adapters of them: name -> parent."""
    sources = [source_of(model) for model in models]

    def adapter(name: str, parent: str) -> Source:
        async def open_it(base: Opened) -> Opened:
            assert base.model.name == parent
            return Opened(ScriptedModel(name=name))

        facts = replace(sources[0].facts, parent=parent)
        return Source(name, facts, lambda: num_bytes, open_it)

    return [*sources, *(adapter(name, parent) for name, parent in adapters.items())]


def states(models: Models) -> dict[str, str]:
    return {listed.name: listed.state for listed in models.listed()}


def test_a_model_that_makes_room_takes_its_adapters_along():
    async def play() -> None:
        a, b = ScriptedModel(name="a"), ScriptedModel(name="b")
        models = Models(with_adapters(a, b, adapters={"x": "a", "y": "a"}), budget_bytes=150)
        for name in ("x", "y"):
            async with models.borrow(name) as opened:
                assert opened.model.name == name and not a.is_closed
        assert states(models) == {"a": "ready", "b": "absent", "x": "ready", "y": "ready"}
        async with models.borrow("b"):
            assert states(models) == {"a": "absent", "b": "ready", "x": "absent", "y": "absent"}
        async with models.borrow("x"):
            assert states(models) == {"a": "ready", "b": "absent", "x": "ready", "y": "absent"}
        await models.close()

    asyncio.run(play())


def test_adapters_make_room_for_each_other_and_their_model_stays():
    async def play() -> None:
        a = ScriptedModel(name="a")
        adapters = {"x": "a", "y": "a", "z": "a"}
        models = Models(with_adapters(a, adapters=adapters, num_bytes=40), budget_bytes=180)
        for name in ("x", "y", "x", "z"):
            async with models.borrow(name):
                pass
        assert states(models) == {"a": "ready", "x": "ready", "y": "absent", "z": "ready"}
        assert not a.is_closed
        await models.close()

    asyncio.run(play())


def test_an_adapter_larger_than_what_its_model_leaves_is_tried_beside_it():
    async def play() -> None:
        models = Models(
            with_adapters(ScriptedModel(name="a"), adapters={"x": "a"}, num_bytes=40), 120
        )
        async with asyncio.timeout(10), models.borrow("x"):
            assert states(models) == {"a": "ready", "x": "ready"}
        await models.close()

    asyncio.run(play())


def test_removing_a_model_removes_its_adapters():
    async def play() -> None:
        models = Models(with_adapters(ScriptedModel(name="a"), adapters={"x": "a"}), 1000)
        async with models.borrow("x"):
            with pytest.raises(BobotError):
                await models.remove("a")
        await models.unload("x")
        assert states(models) == {"a": "ready", "x": "absent"}
        await models.remove("a")
        assert models.listed() == []

    asyncio.run(play())


def test_words_of_the_option_and_what_they_are_refused_for(folders, tmp_path):
    sources = Library().sources(["bobot"])
    poet = folders["poet"]
    (found,) = adapter_sources([f"bobot:p-1.x={poet}"], sources)
    assert (found.name, found.facts.parent) == ("p-1.x", "bobot")
    hosted = replace(sources[0], facts=replace(sources[0].facts, is_hosted=True))
    for words, models in (
        ("poet", sources),
        ("=x", sources),
        ("a b=x", sources),
        (f"other:poet={poet}", sources),
        (f"bobot={poet}", sources),
        (f"poet={poet}", [hosted]),
    ):
        with pytest.raises(UsageError):
            adapter_sources([words], models)
    with pytest.raises(UsageError, match="two models"):
        adapter_sources([f"p={poet}", f"p={poet}"], sources)
    with pytest.raises(BobotError):
        adapter_sources([f"poet={tmp_path}"], sources)


def test_an_adapter_that_does_not_fit_is_refused_before_a_model_is_loaded(tmp_path, monkeypatch):
    def load_model(*_: object, **__: object) -> None:
        raise AssertionError("weights are read")

    monkeypatch.setattr("bobot.chat.local.load_model", load_model)
    sources = Library().sources(["bobot"])
    q_proj = "model.layers.0.self_attn.q_proj"
    for name, shape in ((q_proj, (64, 64)), (q_proj.replace("0", "99"), (256, 256))):
        folder = write_adapter(tmp_path / name, random_matrices({name: shape}, 1))
        with pytest.raises(CheckpointError, match=name):
            adapter_sources([f"odd={folder}"], sources)
        with pytest.raises(CheckpointError, match=name):
            bobot.load(adapters={"odd": folder})


def test_an_adapter_that_changes_on_the_disk_fails_its_own_requests_only(talk, tmp_path):
    name = "model.layers.0.self_attn.q_proj"
    folder = write_adapter(tmp_path / "adapter", random_matrices({name: (256, 256)}, 1))
    sources = Library().sources(["bobot"])
    sources += adapter_sources([f"odd={folder}"], sources)
    client = talk(sources=sources, budget_bytes=1 << 31)
    write_adapter(folder, random_matrices({name: (64, 64)}, 1))
    refused = client.ask("/v1/chat/completions", body("odd"))
    assert refused.status_code == 500 and "q_proj" in refused.json()["error"]["message"]
    assert client.ask("/v1/chat/completions", body("bobot")).status_code == 200
