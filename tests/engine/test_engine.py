"""The engine: however tokens are batched, chunked, cached or recomputed, the same ones come out."""

from __future__ import annotations

import random

import pytest
import torch
from tiny_engine import Answers, greedy_without_cache, run, tiny_llama

from bobot.engine import Engine, EngineConfig, SamplingParams
from bobot.engine.runner import Runner
from bobot.layers.context import PackedAttention
from bobot.models.llama import Llama

GREEDY = SamplingParams(temperature=0.0, max_tokens=12)


def prompts(num: int, low: int = 1, high: int = 40, seed: int = 5) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(61) for _ in range(rng.randint(low, high))] for _ in range(num)]


def alone(model: Llama, prompt: list[int], params: SamplingParams) -> list[int]:
    engine = Engine(model, EngineConfig(num_blocks=32))
    request_id = engine.add(prompt, params)
    return run(engine).tokens[request_id, 0]


@pytest.mark.parametrize("sliding_window", [None, 6], ids=["full", "window 6"])
@pytest.mark.parametrize("num_key_value_heads", [1, 2, 4])
@pytest.mark.parametrize("chunk", [1, 3, 16, 64])
def test_chunked_paged_logits_equal_whole_packed_ones(
    sliding_window: int | None, num_key_value_heads: int, chunk: int
) -> None:
    model = tiny_llama(sliding_window, num_key_value_heads)
    (prompt,) = prompts(1, low=37, high=37)
    config = EngineConfig(max_num_batched_tokens=chunk, max_num_seqs=1, block_size=4, num_blocks=32)
    engine = Engine(model, config)
    seen: list[torch.Tensor] = []
    plain_run = engine.runner.run
    engine.runner.run = lambda chunks: seen.append(plain_run(chunks)[0]) or plain_run(chunks)
    engine.add(prompt, SamplingParams(temperature=0.0, max_tokens=1))
    run(engine)
    hidden_TD = model(torch.tensor(prompt), torch.arange(37), PackedAttention([0]))
    expected = model.logits(hidden_TD[-1:])
    worst = (seen[-1] - expected).abs().max().item()
    assert worst <= 1e-5, f"chunks of {chunk}: max |paged - packed| = {worst:.2e}"


@pytest.mark.parametrize("sliding_window", [None, 6], ids=["full", "window 6"])
def test_greedy_tokens_equal_those_without_any_cache(sliding_window: int | None) -> None:
    model = tiny_llama(sliding_window)
    for prompt in prompts(4):
        assert alone(model, prompt, GREEDY) == greedy_without_cache(model, prompt, 12)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_batched_requests_get_the_tokens_they_get_alone(model: Llama, temperature: float) -> None:
    params = SamplingParams(temperature=temperature, max_tokens=12, seed=4, top_p=0.9)
    many = prompts(9)
    config = EngineConfig(max_num_seqs=4, max_num_batched_tokens=24, block_size=4, num_blocks=128)
    engine = Engine(model, config)
    ids = [engine.add(prompt, params) for prompt in many]
    answers = run(engine)
    for prompt, request_id in zip(many, ids, strict=True):
        assert answers.tokens[request_id, 0] == alone(model, prompt, params)


@pytest.mark.parametrize("caching", [True, False], ids=["prefix cache", "no cache"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_preempted_request_resumes_with_the_same_tokens(
    model: Llama, temperature: float, caching: bool
) -> None:
    params = SamplingParams(temperature=temperature, max_tokens=30, seed=8)
    many = prompts(5, low=6, high=12)
    config = EngineConfig(block_size=4, num_blocks=16, enable_prefix_caching=caching)
    engine = Engine(model, config)
    ids = [engine.add(prompt, params) for prompt in many]
    answers = run(engine)
    stats = engine.stats()
    assert stats.num_preemptions >= 3, f"this pool should force preemption: {stats}"
    assert stats.num_free_blocks == 16, f"blocks leaked: {stats}"
    for prompt, request_id in zip(many, ids, strict=True):
        assert answers.tokens[request_id, 0] == alone(model, prompt, params)


def test_a_prefix_hit_gives_the_same_tokens_and_counts_whole_blocks(model: Llama) -> None:
    (prompt,) = prompts(1, low=22, high=22)
    engine = Engine(model, EngineConfig(block_size=4, num_blocks=64))
    first = engine.add(prompt, GREEDY)
    answers = run(engine)
    second = engine.add(prompt, GREEDY)
    third = engine.add(prompt[:20], GREEDY)
    other = engine.add([*prompt[:9], 0, *prompt[10:]], GREEDY)
    answers_later = run(engine)
    assert answers_later.tokens[second, 0] == answers.tokens[first, 0]
    assert answers_later.tokens[third, 0] == greedy_without_cache(model, prompt[:20], 12)
    cached = {key[0]: out.num_cached_tokens for key, out in answers_later.last.items()}
    # 20 tokens are five full blocks; the last token is always computed, so four are taken.
    assert cached == {second: 20, third: 16, other: 8}, cached
    assert engine.stats().num_cached_tokens == 44


def test_a_conversation_reuses_the_answer_it_generated(model: Llama) -> None:
    (prompt,) = prompts(1, low=10, high=10)
    engine = Engine(model, EngineConfig(block_size=4, num_blocks=64))
    first = engine.add(prompt, GREEDY)
    answer = run(engine).tokens[first, 0]
    second = engine.add([*prompt, *answer, 1, 2, 3], GREEDY)
    output = run(engine).last[second, 0]
    # 10 + 12 tokens, of which the last was never computed: five full blocks of four.
    assert output.num_cached_tokens == 20


def test_n_sequences_with_a_seed_differ_from_each_other_and_repeat(model: Llama) -> None:
    (prompt,) = prompts(1, low=11, high=11)
    params = SamplingParams(n=3, seed=42, max_tokens=10)
    runs: list[Answers] = []
    for num_seqs in (1, 4):
        engine = Engine(model, EngineConfig(max_num_seqs=num_seqs, block_size=4, num_blocks=64))
        engine.add(prompt, params)
        runs.append(run(engine))
    assert runs[0].tokens == runs[1].tokens
    texts = {tuple(tokens) for tokens in runs[0].tokens.values()}
    assert len(texts) == 3, texts
    assert runs[0].last[0, 0].num_cached_tokens == 0
    assert runs[0].last[0, 2].num_cached_tokens == 8, "the prompt is computed once"
    assert runs[0].tokens[0, 0] == alone(model, prompt, SamplingParams(seed=42, max_tokens=10))


def test_without_a_seed_two_requests_differ(model: Llama) -> None:
    params = SamplingParams(max_tokens=20)
    assert alone(model, [1, 2], params) != alone(model, [1, 2], params)


@pytest.mark.parametrize("num_steps", range(6))
def test_abort_at_any_step_frees_all_blocks(model: Llama, num_steps: int) -> None:
    config = EngineConfig(max_num_seqs=2, max_num_batched_tokens=8, block_size=4, num_blocks=32)
    engine = Engine(model, config)
    doomed = engine.add(list(range(20)), SamplingParams(n=3, max_tokens=9))
    kept = engine.add([5, 6, 7], GREEDY)
    answers = Answers()
    for _ in range(num_steps):
        answers.add(engine.step())
    engine.abort(doomed)
    engine.abort(doomed)
    answers.add(engine.step())
    assert not engine.scheduler.waiting
    answers_rest = run(engine)
    stats = engine.stats()
    assert (stats.num_free_blocks, stats.num_running, stats.num_waiting) == (32, 0, 0), stats
    tokens = answers.tokens.get((kept, 0), []) + answers_rest.tokens.get((kept, 0), [])
    assert tokens == greedy_without_cache(model, [5, 6, 7], 12)


@pytest.mark.parametrize("seed", range(6))
def test_random_traffic_ends_in_full_and_loses_nothing(model: Llama, seed: int) -> None:
    rng = random.Random(seed)
    config = EngineConfig(
        max_num_seqs=rng.randint(1, 6),
        max_num_batched_tokens=rng.randint(6, 20),
        block_size=rng.choice([1, 3, 8]),
        num_blocks=60,
        enable_prefix_caching=rng.random() < 0.7,
    )
    engine = Engine(model, config)
    base = prompts(1, low=30, high=30)[0]
    answers, wanted, aborted = Answers(), {}, set()
    for _ in range(40):
        if rng.random() < 0.6:
            prompt = base[: rng.randint(1, 25)] + [
                rng.randrange(61) for _ in range(rng.randint(0, 3))
            ]
            params = SamplingParams(
                temperature=0.0, max_tokens=rng.randint(1, 20), n=rng.randint(1, 2)
            )
            wanted[engine.add(prompt, params)] = (prompt, params)
        if wanted and rng.random() < 0.1:
            unlucky = rng.choice(list(wanted))
            engine.abort(unlucky)
            aborted.add(unlucky)
        answers.add(engine.step())
        tables = [s.block_table for s in engine.scheduler.running]
        owned = {block for table in tables for block in table}
        assert engine.stats().num_free_blocks == engine.num_blocks - len(owned)
    more = run(engine)
    for key, tokens in more.tokens.items():
        answers.tokens.setdefault(key, []).extend(tokens)
    assert engine.stats().num_free_blocks == 60
    for request_id in wanted.keys() - aborted:
        prompt, params = wanted[request_id]
        expected = greedy_without_cache(model, prompt, params.max_tokens or 0)
        for index in range(params.n):
            assert answers.tokens[request_id, index] == expected, (seed, request_id, index)


def test_a_step_that_raises_can_run_again(model: Llama) -> None:
    class Interrupted(Runner):
        interrupts = 3

        def run(self, chunks):
            result = super().run(chunks)
            if self.interrupts:
                self.interrupts -= 1
                raise KeyboardInterrupt
            return result

    engine = Engine(model, EngineConfig(block_size=4, num_blocks=32))
    engine.runner = Interrupted(model, 32, 4)
    request_id = engine.add([1, 2, 3, 4, 5], GREEDY)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            engine.step()
    assert run(engine).tokens[request_id, 0] == greedy_without_cache(model, [1, 2, 3, 4, 5], 12)
    assert engine.stats().num_free_blocks == 32


def test_a_step_without_requests_does_nothing(model: Llama) -> None:
    engine = Engine(model, EngineConfig(num_blocks=4))
    assert engine.step() == []
    assert not engine.has_unfinished()
    assert engine.stats().num_steps == 0
