"""That tokens a second are counted rightly, on a clock that each step of the engine moves."""

from __future__ import annotations

import pytest
from tiny_engine import tiny_llama

from bobot.engine import Engine, EngineConfig, TokenOutput, pace
from bobot.engine.pace import Pace


class Clocked(Engine):
    """Each step takes 1 s and 1/8 s for every token; records how many it computed."""

    def __init__(self, **config: int) -> None:
        super().__init__(tiny_llama(), EngineConfig(speculation="off", **config), eos_ids={0, 1, 2})
        self.now_s = 0.0
        self.computed: list[int] = []

    def step(self) -> list[TokenOutput]:
        before = self.stats()
        outputs = super().step()
        computed = self.stats().num_computed_tokens - before.num_computed_tokens
        self.computed.append(computed)
        self.now_s += 1 + computed / 8
        return outputs


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Clocked:
    engine = Clocked(max_num_seqs=4, block_size=4, num_blocks=100)
    monkeypatch.setattr(pace.time, "perf_counter", lambda: engine.now_s)
    monkeypatch.setattr(pace, "BUDGET_S", 1000.0)
    return engine


def test_a_prompt_counts_its_tokens_to_the_first_of_the_answer(engine: Clocked) -> None:
    assert Pace(engine).prefill(24, num_runs=3) == [24 / (1 + 24 / 8)] * 3
    assert not engine.has_unfinished()


def test_what_lies_in_the_cache_is_not_counted(engine: Clocked) -> None:
    rates = Pace(engine).prefill(24, num_runs=2, depth=40)
    assert engine.computed == [40, 24, 24]
    assert rates == [24 / (1 + 24 / 8)] * 2


def test_a_depth_is_filled_once_for_prompts_and_answers(engine: Clocked) -> None:
    paced = Pace(engine)
    paced.prefill(8, num_runs=1, depth=40)
    paced.decode(1, 5, num_runs=2, depth=40)
    assert sorted(engine.computed, reverse=True)[:4] == [40, 16, 16, 8]


@pytest.mark.parametrize("num_rows", [1, 3])
def test_all_rows_count_in_each_step_and_their_prompts_do_not(
    engine: Clocked, num_rows: int
) -> None:
    rates = Pace(engine).decode(num_rows, 10, num_runs=2)
    assert rates == [num_rows / (1 + num_rows / 8)] * 2
    assert engine.computed == 2 * [16 * num_rows, *[num_rows] * 10]
    assert not engine.has_unfinished()


def test_rows_that_begin_one_after_the_other_are_timed_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = Clocked(max_num_seqs=4, max_num_batched_tokens=20, block_size=4, num_blocks=100)
    monkeypatch.setattr(pace.time, "perf_counter", lambda: engine.now_s)
    assert Pace(engine).decode(4, 2, num_runs=1) == [4 / (1 + 4 / 8)]


def test_a_slow_machine_is_not_asked_again(engine: Clocked, monkeypatch) -> None:
    monkeypatch.setattr(pace, "BUDGET_S", 5.0)
    assert len(Pace(engine).prefill(24, num_runs=9)) == 2
    engine.computed.clear()
    Pace(engine, seed=1).decode(1, 50, num_runs=1)
    assert engine.computed == [16, 1, 1, 1, 1, 1]
