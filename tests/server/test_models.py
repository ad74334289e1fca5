"""Several models in one server: loaded when asked for, within a budget."""

from __future__ import annotations

import asyncio

import pytest
from scripted import ScriptedModel, source_of

from bobot.chat.protocol import OverloadedError, ParameterError
from bobot.errors import CheckpointError, RequestError
from bobot.server import models as models_module
from bobot.server.models import Facts, Models, Opened, Source

CHAT = "/v1/chat/completions"


def ask(client, model):
    return client.ask(CHAT, {"model": model, "messages": [{"role": "user", "content": "Hi"}]})


def states(models: Models) -> dict[str, str]:
    return {listed.name: listed.state for listed in models.listed()}


def test_longest_unused_model_makes_room(talk):
    made = {name: ScriptedModel(name=name) for name in "abc"}
    client = talk(*made.values(), budget_bytes=250)
    for name in ("a", "b", "a"):
        assert ask(client, name).json()["model"] == name
    assert states(client.models) == {"a": "ready", "b": "ready", "c": "absent"}
    assert ask(client, "c").status_code == 200
    assert states(client.models) == {"a": "ready", "b": "absent", "c": "ready"}
    assert made["b"].is_closed and not made["a"].is_closed
    assert ask(client, "b").status_code == 200  # and it comes back


def test_model_in_use_is_never_unloaded(monkeypatch):
    monkeypatch.setattr(models_module, "MAX_WAIT_S", 0.05)

    async def play() -> None:
        a, b = ScriptedModel(name="a"), ScriptedModel(name="b")
        models = Models([source_of(a), source_of(b)], budget_bytes=150)
        async with models.borrow("a"):
            with pytest.raises(OverloadedError):
                async with models.borrow("b"):
                    pass
            assert not a.is_closed and states(models) == {"a": "ready", "b": "absent"}
        async with models.borrow("b"):
            assert a.is_closed
        await models.close()

    asyncio.run(play())


def test_one_that_waits_is_served_when_the_other_becomes_idle():
    async def play() -> list[str]:
        order: list[str] = []
        sources = [source_of(ScriptedModel(name=name)) for name in "ab"]
        models = Models(sources, budget_bytes=150)

        async def use(name: str, pause_s: float) -> None:
            async with models.borrow(name) as opened:
                order.append(opened.model.name)
                await asyncio.sleep(pause_s)

        await asyncio.gather(use("a", 0.05), use("b", 0), use("a", 0.05))
        await models.close()
        return order

    assert asyncio.run(play()) == ["a", "a", "b"]


def test_model_is_opened_once_for_all_who_ask_and_leaving_stops_nobody():
    opened_count = 0

    async def play() -> None:
        async def open_it() -> Opened:
            nonlocal opened_count
            opened_count += 1
            await asyncio.sleep(0.05)
            return Opened(ScriptedModel(name="a"))

        models = Models([Source("a", Facts(), lambda: 1, open_it)], 10)

        async def use() -> str:
            async with models.borrow("a") as opened:
                return opened.model.name

        tasks = [asyncio.ensure_future(use()) for _ in range(5)]
        await asyncio.sleep(0.01)
        tasks[0].cancel()
        names = await asyncio.gather(*tasks, return_exceptions=True)
        assert names[1:] == ["a"] * 4 and isinstance(names[0], asyncio.CancelledError)
        await models.close()

    asyncio.run(play())
    assert opened_count == 1


def test_model_that_fails_to_load_takes_no_room_and_may_be_tried_again(talk):
    tries = [CheckpointError("damaged"), None]

    async def open_it() -> Opened:
        if (error := tries.pop(0)) is not None:
            raise error
        return Opened(ScriptedModel(name="a"))

    client = talk(sources=[Source("a", Facts(), lambda: 10, open_it)])
    first = ask(client, "a")
    assert first.status_code == 500 and "damaged" in first.json()["error"]["message"]
    assert client.models.describe("a").num_bytes == 0
    assert ask(client, "a").status_code == 200


def test_names_are_matched_exactly_but_for_ollamas_latest():
    sources = [source_of(ScriptedModel(name=name)) for name in ("org/a:8b", "b")]
    models = Models(sources, 1000)
    assert models.name_of("org/a:8b") == "org/a:8b"
    assert models.name_of("b:latest") == "b" and models.name_of(None) == "org/a:8b"
    for unknown in ("a", "", "B", "b:8b"):
        with pytest.raises(ParameterError) as caught:
            models.name_of(unknown)
        assert caught.value.code == "model_not_found"
    assert Models(sources, 1000, any_model=True).name_of("gpt") == "org/a:8b"


def test_model_with_a_slash_and_a_colon_has_its_address(talk):
    client = talk(ScriptedModel(name="org/a:8b"))
    found = client.ask("/v1/models/org/a:8b").json()
    assert found == client.ask("/v1/models").json()["data"][0]
    assert found["id"] == "org/a:8b" and found["context_length"] == 64
    assert client.ask("/v1/models/org").status_code == 404


def test_removed_model_is_closed_and_one_in_use_stays():
    async def play() -> None:
        model = ScriptedModel(name="a")
        models = Models([source_of(model)], 1000)
        async with models.borrow("a"):
            with pytest.raises(RequestError):
                await models.remove("a")
        await models.remove("a")
        assert model.is_closed and models.listed() == []

    asyncio.run(play())


def test_model_that_nobody_uses_leaves_memory_and_comes_back():
    async def play() -> None:
        a, b = ScriptedModel(name="a"), ScriptedModel(name="b")
        models = Models([source_of(a), source_of(b)], budget_bytes=1000)
        unloading = asyncio.ensure_future(models.unload_unused(0.01))
        async with asyncio.timeout(60):
            async with models.borrow("a"):
                async with models.borrow("b"):
                    pass
                while states(models)["b"] == "ready":
                    await asyncio.sleep(0.001)
                assert b.is_closed and not a.is_closed and states(models)["a"] == "ready"
            while states(models)["a"] == "ready":
                await asyncio.sleep(0.001)
        assert a.is_closed
        assert models.seen("a") and models.seen("b")
        async with models.borrow("a"):
            assert states(models) == {"a": "ready", "b": "absent"}
        unloading.cancel()
        await models.close()

    asyncio.run(play())
