"""The service when answers end early: readers leave, steps fail, queues fill, it closes; nothing
is lost or left behind.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest
from service_models import Read, read, requests, run, until

from bobot.chat.engine_loop import ServiceLimits
from bobot.chat.local import LocalModel
from bobot.chat.protocol import (
    AnswerError,
    Delta,
    OverloadedError,
    TextRequest,
)
from bobot.chat.service import LocalService

HELLO = ({"role": "user", "content": "halo, apa kabar?"},)


def test_closing_a_stream_frees_its_blocks_within_one_step(load: Callable[..., LocalModel]) -> None:
    async def ask() -> None:
        service = LocalService(load())
        sampling = {"max_tokens": 400, "ignore_eos": True, "seed": 1}
        stream = service.complete(TextRequest(prompt="abc" * 20, sampling=sampling))
        async for event in stream:
            if isinstance(event, Delta):
                break
        num_steps = service.stats().num_steps
        await stream.aclose()
        await until(lambda: service.loop.num_jobs == 0)
        stats = service.stats()
        assert stats.num_steps <= num_steps + 1 and stats.num_free_blocks == 256
        task = asyncio.create_task(
            read(service.complete(TextRequest(prompt="q", sampling=sampling)))
        )
        await until(lambda: service.stats().num_running == 1)
        num_steps = service.stats().num_steps
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: service.loop.num_jobs == 0)
        stats = service.stats()
        assert stats.num_steps <= num_steps + 1 and stats.num_free_blocks == 256
        await service.close()

    run(ask())


def test_random_disconnects_leave_nothing_and_change_no_other_answer(
    load: Callable[..., LocalModel],
) -> None:
    async def ask() -> None:
        alone = LocalService(load())
        expected = [await read(alone.complete(request)) for request in requests(24)]
        service, draw = LocalService(load(num_blocks=48)), random.Random(1)

        async def some(number: int, request: TextRequest) -> None:
            if number % 2:
                assert (await read(service.complete(request))).ids() == expected[number].ids()
                return
            stream, most = service.complete(request), draw.randint(0, 6)
            seen = 0
            async for _ in stream:
                if seen == most:
                    break
                seen += 1
            await stream.aclose()

        await asyncio.gather(*(some(n, request) for n, request in enumerate(requests(24))))
        await until(lambda: service.loop.num_jobs == 0)
        stats = service.stats()
        assert (stats.num_free_blocks, stats.num_waiting) == (48, 0)
        await alone.close()
        await service.close()

    run(ask())


def test_a_failing_step_fails_those_it_hit_and_no_other(
    load: Callable[..., LocalModel], monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    model = load(max_num_seqs=2)
    real, calls, failed_at = model.engine.runner.run, [], []

    def failing(chunks: Any) -> Any:
        """Once, from the fifth step on, as soon as two requests run."""
        calls.append(len(chunks))
        if len(calls) >= 5 and len(chunks) == 2 and not failed_at:
            failed_at.append(len(calls))
            raise MemoryError("no room for a moment")
        return real(chunks)

    monkeypatch.setattr(model.engine.runner, "run", failing)

    async def ask() -> None:
        service = LocalService(model)
        sampling = {"max_tokens": 20, "temperature": 0.0, "ignore_eos": True}
        asked = [TextRequest(prompt=letter, sampling=sampling) for letter in "abcd"]
        found = await asyncio.gather(
            *(read(service.complete(request)) for request in asked), return_exceptions=True
        )
        failed = [one for one in found if isinstance(one, BaseException)]
        assert len(failed) == 2 and all(type(one) is AnswerError for one in failed)
        assert "MemoryError: no room for a moment" in str(failed[0])
        whole = [one for one in found if isinstance(one, Read)]
        assert [one.usage.completion_tokens for one in whole] == [20, 20]
        assert (await read(service.complete(asked[0]))).finished().reason == "length"
        assert service.stats().num_free_blocks == 256
        await service.close()

    run(ask())
    assert "A step of the engine failed" in caplog.text


def test_a_full_queue_and_a_long_wait_are_told_with_a_time(
    load: Callable[..., LocalModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(max_num_seqs=1)
    real, may_run = model.engine.runner.run, threading.Event()

    def waiting(chunks: Any) -> Any:
        assert may_run.wait(60)
        return real(chunks)

    monkeypatch.setattr(model.engine.runner, "run", waiting)

    async def ask() -> None:
        service = LocalService(model, ServiceLimits(max_queue=2, max_wait_s=30.0))
        request = TextRequest(prompt="x", sampling={"max_tokens": 2, "seed": 1})
        tasks = [asyncio.create_task(read(service.complete(request)))]
        await until(lambda: service.loop.num_jobs == 1)
        tasks.append(asyncio.create_task(read(service.complete(request))))
        await until(lambda: service.loop.num_jobs == 2)
        with pytest.raises(OverloadedError, match="2 requests are waiting already") as refusal:
            await read(service.complete(request))
        assert 1 <= refusal.value.retry_after_s <= 60
        may_run.set()
        found = await asyncio.gather(*tasks)
        assert found[0].ids() == found[1].ids()
        service.loop.limits = ServiceLimits(max_wait_s=0.0)
        with pytest.raises(OverloadedError, match="has waited"):
            await read(service.complete(request))
        await service.close()

    run(ask())


def test_close_lets_answers_end_and_takes_no_more(load: Callable[..., LocalModel]) -> None:
    async def ask() -> None:
        service = LocalService(load())
        sampling = {"max_tokens": 60, "seed": 2, "ignore_eos": True}
        request = TextRequest(prompt="x", sampling=sampling)
        tasks = [asyncio.create_task(read(service.complete(request))) for _ in range(6)]
        await until(lambda: service.loop.num_jobs == 6)
        await service.close()
        assert [len((await task).ids()) for task in tasks] == [60] * 6
        with pytest.raises(OverloadedError, match="shutting down"):
            await read(service.complete(request))
        await service.close()

    run(ask())


def test_close_with_a_limit_ends_what_is_left_with_an_error(
    load: Callable[..., LocalModel],
) -> None:
    async def ask() -> None:
        service = LocalService(load())
        sampling = {"max_tokens": None, "seed": 2, "ignore_eos": True}
        task = asyncio.create_task(
            read(service.complete(TextRequest(prompt="x", sampling=sampling)))
        )
        await until(lambda: service.stats().num_running == 1)
        await service.close(0.0)
        with pytest.raises(AnswerError, match="cancelled"):
            await task
        assert service.stats().num_free_blocks == 256

    run(ask())


def test_a_thread_that_breaks_leaves_nobody_waiting(
    load: Callable[..., LocalModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda details: None)

    async def ask() -> None:
        service = LocalService(load())
        monkeypatch.setattr(service.loop, "_sorted", lambda outputs: 1 / 0)
        request = TextRequest(prompt="x", sampling={"max_tokens": 5})
        found = await asyncio.gather(
            *(read(service.complete(request)) for _ in range(3)), return_exceptions=True
        )
        assert {type(one) for one in found} <= {AnswerError, OverloadedError}
        assert any("stopped answering" in str(one) for one in found)
        with pytest.raises(OverloadedError):
            await read(service.complete(request))

    run(ask())
