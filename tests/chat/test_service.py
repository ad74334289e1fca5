"""The service: the answers of the model itself, many at once, none mixed."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scripted_engine import HARMONY, scripted_model
from service_models import Read, read, requests, run

import bobot
from bobot.chat.local import LocalModel
from bobot.chat.protocol import (
    ChatRequest,
    TextRequest,
)
from bobot.chat.service import LocalService
from bobot.layers.context import PackedAttention

HELLO = ({"role": "user", "content": "halo, apa kabar?"},)


def test_a_stream_gives_what_the_model_gives_alone(load: Callable[..., LocalModel]) -> None:
    model = load()
    expected = []
    for request in requests(8):
        pieces = list(
            model.generate(str(request.prompt), stop=request.stop, **dict(request.sampling))
        )
        ids = [token_id for piece in pieces for token_id in piece.ids]
        expected.append(("".join(pieces), ids, pieces[-1].finish_reason))
    options = {"seed": 3, "max_tokens": 30, "ignore_eos": True}
    chat = model.chat(HELLO, **options)

    async def ask() -> None:
        service = LocalService(load())
        for request, (text, ids, reason) in zip(requests(8), expected, strict=True):
            found = await read(service.complete(request))
            assert (found.text(), found.ids()) == (text, ids)
            finished = found.finished()
            assert finished.reason == reason
            assert (finished.stop in request.stop) == (reason == "stop" and ids[-1] != 257)
            assert found.usage.completion_tokens == len(ids)
            assert found.started.prompt_ids == tuple(model.encode(str(request.prompt)))
        found = await read(service.chat(ChatRequest(messages=HELLO, sampling=options)))
        assert found.text() == chat
        await service.close()

    run(ask())


def test_32_at_once_get_the_answers_they_get_alone(load: Callable[..., LocalModel]) -> None:
    async def ask() -> None:
        alone = LocalService(load())
        expected = [await read(alone.complete(request)) for request in requests(32)]
        busy = LocalService(load(num_blocks=14))  # some are preempted
        found: list[Read] = await asyncio.gather(
            *(read(busy.complete(request)) for request in requests(32))
        )
        for one, other in zip(found, expected, strict=True):
            assert one.ids() == other.ids()
            assert one.text() == other.text()
            assert one.finished() == other.finished()
        stats = busy.stats()
        assert (stats.num_free_blocks, stats.num_running, stats.num_waiting) == (14, 0, 0)
        assert stats.num_preemptions > 0
        await alone.close()
        await busy.close()

    run(ask())


def test_the_shipped_model_answers_as_it_does_alone() -> None:
    asked = [
        ChatRequest(
            messages=({"role": "user", "content": f"Tell me a short story about {n} ducks."},),
            sampling={"max_tokens": 24, "seed": n, "temperature": 0.5 * (n % 2)},
        )
        for n in range(4)
    ]
    model = bobot.load()
    expected = [model.answer(r.messages, **dict(r.sampling)).text for r in asked]

    async def ask() -> None:
        service = LocalService(bobot.load())
        found = [await read(service.chat(request)) for request in asked]
        assert [one.text() for one in found] == expected
        await service.close()

    run(ask())


def test_several_answers_have_their_own_index_and_end(load: Callable[..., LocalModel]) -> None:
    async def ask() -> None:
        service = LocalService(load())
        sampling = {"n": 3, "seed": 5, "max_tokens": 12, "ignore_eos": True, "logprobs": 2}
        found = await read(service.complete(TextRequest(prompt="x", sampling=sampling)))
        ids = [found.ids(index) for index in range(3)]
        assert len({tuple(one) for one in ids}) == 3 and {len(one) for one in ids} == {12}
        assert [found.finished(index).reason for index in range(3)] == ["length"] * 3
        assert found.usage.completion_tokens == 36
        for index in range(3):
            logprobs = [token for d in found.deltas(index) for token in d.logprobs]
            assert [token.token_id for token in logprobs] == ids[index]
            assert all(len(token.top) == 2 for token in logprobs)
            pieces = b"".join(token.piece for token in logprobs)
            assert pieces == service.model.need_tokenizer().decode_bytes(ids[index])
        await service.close()

    run(ask())


def test_an_event_loop_is_woken_once_a_step(load: Callable[..., LocalModel]) -> None:
    async def ask() -> None:
        service = LocalService(load(max_num_seqs=16, num_blocks=1024))
        loop, wakes = asyncio.get_running_loop(), []
        real = loop.call_soon_threadsafe

        def counted(callback: Any, *args: Any, **kwargs: Any) -> Any:
            if threading.current_thread().name == "engine":
                wakes.append(callback)
            return real(callback, *args, **kwargs)

        loop.call_soon_threadsafe = counted  # type: ignore[method-assign]
        sampling = {"max_tokens": 20, "ignore_eos": True}
        asked = [TextRequest(prompt=f"x{n}", sampling=sampling | {"seed": n}) for n in range(16)]
        found = await asyncio.gather(*(read(service.complete(request)) for request in asked))
        assert sum(len(one.ids()) for one in found) == 320
        assert 0 < len(wakes) <= service.stats().num_steps
        await service.close()

    run(ask())


def test_one_service_serves_several_event_loops(load: Callable[..., LocalModel]) -> None:
    service = LocalService(load())
    request = TextRequest(prompt="x", sampling={"max_tokens": 5, "seed": 1})
    first, second = (run(read(service.complete(request))) for _ in range(2))
    assert first.ids() == second.ids()
    run(service.close())


def test_scores_of_a_prompt_are_those_of_the_models_logits(
    load: Callable[..., LocalModel],
) -> None:
    model = load(max_num_batched_tokens=24)
    prompts: list[Any] = [
        "a",
        "abc \u4f60 def" * 4,
        tuple(range(60)),
        (0, 5, 0),
        "abc \u4f60 def" * 4,
    ]
    ids = [model.encode(p) if isinstance(p, str) else list(p) for p in prompts]
    expected = [model.logits(one).log_softmax(-1) for one in ids]

    async def ask() -> None:
        service = LocalService(model)
        for max_tokens in (0, 1):
            asked = [
                TextRequest(prompt=p, sampling={"max_tokens": max_tokens}, prompt_logprobs=2)
                for p in prompts
            ]
            found = await asyncio.gather(*(read(service.complete(request)) for request in asked))
            for one, prompt, logprobs_TV in zip(found, ids, expected, strict=True):
                assert one.scored[0] is None and len(one.scored) == len(prompt)
                for row, entry in enumerate(one.scored[1:]):
                    assert entry is not None and entry.token_id == prompt[row + 1]
                    value = float(logprobs_TV[row, entry.token_id])
                    assert entry.logprob == pytest.approx(value, abs=1e-4)
                    assert entry.top[0][2] == pytest.approx(float(logprobs_TV[row].max()), abs=1e-4)
                    assert entry.piece == model.need_tokenizer().decode_bytes([entry.token_id])
                assert one.usage.completion_tokens == len(one.ids()) == max_tokens
                assert one.finished().reason in ("length", "stop")
        await service.close()

    run(ask())


def test_vectors_are_the_mean_of_the_hidden_states(load: Callable[..., LocalModel]) -> None:
    model = load()
    texts: list[Any] = ["a cat", [5, 6, 7], "x" * 300, "a cat", *"abcdef"]
    ids = [model.encode(text) if isinstance(text, str) else text for text in texts]

    def mean(prompt: list[int]) -> list[float]:
        with torch.no_grad():
            positions_T = torch.arange(len(prompt))
            hidden_TD = model.model(torch.tensor(prompt), positions_T, PackedAttention())
        return torch.nn.functional.normalize(hidden_TD.double().mean(0), dim=0).tolist()

    async def ask() -> None:
        service = LocalService(model)
        vectors, num_tokens = await service.embed(texts)
        assert num_tokens == sum(map(len, ids))
        for vector, prompt in zip(vectors, ids, strict=True):
            assert vector == pytest.approx(mean(prompt), abs=1e-5)
        assert vectors[0] == pytest.approx(vectors[3], abs=1e-6)
        assert service.stats().num_free_blocks == 256
        await service.close()

    run(ask())


def test_reasoning_counts_in_the_usage(tmp_path: Path) -> None:
    """The words of a gpt-oss, written in advance."""
    answer = (
        "<|channel|>analysis<|message|>Sebentar.<|end|><|start|>assistant<|channel|>final"
        "<|message|>Baik.<|return|>"
    )
    model = scripted_model(tmp_path, HARMONY, None, answer)
    whole = model.answer(HELLO)

    async def ask() -> None:
        service = LocalService(scripted_model(tmp_path, HARMONY, None, answer))
        found = await read(service.chat(ChatRequest(messages=HELLO)))
        assert [(p.kind, p.text) for p in found.parts()] == [
            ("reasoning", "Sebentar."),
            ("text", "Baik."),
        ]
        assert [p.num_tokens for p in found.parts()] == [p.num_tokens for p in whole.parts]
        assert found.usage.reasoning_tokens == whole.parts[0].num_tokens > 0
        assert found.usage.completion_tokens == len(found.ids()) == len(service.model.engine.answer)
        await service.close()

    run(ask())


def test_a_final_message_of_harmony_is_continued_as_text(tmp_path: Path) -> None:
    said = {"role": "assistant", "content": "Sore itu"}

    async def ask() -> None:
        service = LocalService(scripted_model(tmp_path, HARMONY, None, " hujan.<|return|>"))
        request = ChatRequest(messages=(*HELLO, said), continues_last=True)
        found = await read(service.chat(request))
        assert [(part.kind, part.text) for part in found.parts()] == [("text", " hujan.")]
        assert len(found.deltas()) > 2  # as it comes, and not held back for a header
        ids = found.started.prompt_ids
        text = service.model.need_tokenizer().decode(ids or ())
        assert text.endswith("<|start|>assistant<|channel|>final<|message|>Sore itu")
        await service.close()

    run(ask())


def test_the_last_message_is_continued(load: Callable[..., LocalModel]) -> None:
    model = load()
    said = {"role": "assistant", "content": " Sore itu <|e|> hujan "}

    async def ask() -> None:
        service = LocalService(model)
        request = ChatRequest(
            messages=(*HELLO, said), sampling={"max_tokens": 4}, continues_last=True
        )
        ids = await service.prompt_ids(request)
        text = f"<|s|>user: {HELLO[0]['content']}<|e|><|s|>assistant: {said['content']}"
        assert model.need_tokenizer().decode(ids) == text
        assert ids.count(257) == 1  # what the message spells is text
        assert (await read(service.chat(request))).started.prompt_ids == tuple(ids)
        await service.close()

    run(ask())


@pytest.mark.parametrize(
    ("continues", "expected"), [(False, "hujan lebat"), (True, " hujan lebat")]
)
def test_tokens_add_up_to_the_text_that_begins_or_goes_on(
    tmp_path: Path, continues: bool, expected: str
) -> None:
    """SentencePiece: the first space of a text is no part of it, that of a continued one is."""
    model = scripted_model(tmp_path, [], "{{ messages[-1].content }}", " hujan lebat")
    tokenizer = model.need_tokenizer()
    tokenizer.vocabulary = replace(tokenizer.vocabulary, strips_leading_space=True)
    said = {"role": "assistant", "content": "Sore itu"}

    async def ask() -> None:
        service = LocalService(model)
        messages = (*HELLO, said) if continues else HELLO
        request = ChatRequest(messages=messages, sampling={"logprobs": 1}, continues_last=continues)
        found = await read(service.chat(request))
        entries = [token for delta in found.deltas() for token in delta.logprobs]
        assert found.text() == expected
        assert b"".join(token.piece for token in entries).decode() == expected
        assert b"".join(token.top[0][1] for token in entries).decode() == expected
        await service.close()

    run(ask())


def test_events_can_be_shown_as_json(load: Callable[..., LocalModel]) -> None:
    """Every number is finite and every field plain: the faces of the server write them out."""

    async def ask() -> None:
        service = LocalService(load())
        found = await read(
            service.complete(TextRequest(prompt="abc", sampling={"max_tokens": 3, "logprobs": 1}))
        )
        json.dumps(found.events, default=lambda o: list(o) if type(o) is bytes else vars(o))
        usage = found.usage
        assert usage.prompt_s is not None and usage.prompt_s > 0
        assert usage.completion_s is not None and usage.completion_s >= 0
        assert usage.cached_tokens == 0 and usage.prompt_tokens == 3
        await service.close()

    run(ask())
