"""Speculation changes the speed only: whoever drafts, and however badly, the same tokens come."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_engine import Answers, greedy_without_cache, near_llama, run

from bobot.engine import Engine, EngineConfig, SamplingParams, TokenOutput
from bobot.engine.request import Sequence
from bobot.engine.speculation import Trust
from bobot.errors import ConfigError
from bobot.layers.context import PackedAttention
from bobot.models.llama import Llama

Texts = dict[tuple[int, int], list[TokenOutput]]

ROOMY: dict[str, Any] = {
    "max_num_seqs": 4,
    "block_size": 4,
    "num_blocks": 128,
    "max_num_batched_tokens": 32,
}
TIGHT = ROOMY | {"num_blocks": 20}
NO_CACHE = TIGHT | {"enable_prefix_caching": False}

KINDS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "sampled": {"seed": 4, "top_p": 0.9, "top_k": 30, "min_p": 0.01},
    "penalized": {
        "seed": 5,
        "repetition_penalty": 1.3,
        "presence_penalty": 0.7,
        "frequency_penalty": 0.4,
    },
    "penalized greedy": {"temperature": 0.0, "repetition_penalty": 1.1, "frequency_penalty": 0.3},
    "biased": {"seed": 6, "temperature": 0.7, "logit_bias": {7: 3.0, 8: -100.0, 9: 2.0}},
    "with logprobs": {"seed": 7, "temperature": 0.5, "logprobs": 3},
    "stopped": {"seed": 8, "temperature": 0.8, "stop_token_ids": (3, 11, 19, 42)},
    "n = 3": {"seed": 9, "temperature": 0.6, "n": 3},
}


class Oracle:
    """Drafts what a plain run gave, each token falsified with probability `wrong`."""

    def __init__(self, texts: Texts, wrong: float) -> None:
        self.texts = texts
        self.wrong = wrong
        self.rng = random.Random(1)

    def draft(self, limits: Mapping[Sequence, int]) -> dict[Sequence, tuple[int, ...]]:
        return {sequence: self.of(sequence, limit) for sequence, limit in limits.items()}

    def of(self, sequence: Sequence, limit: int) -> tuple[int, ...]:
        outputs = self.texts[sequence.request.request_id, sequence.index]
        first = sequence.num_tokens - len(sequence.request.prompt_ids)
        true = [o.token_id or 0 for o in outputs[first : first + limit]] + [60] * limit
        return tuple((i + (self.rng.random() < self.wrong)) % 61 for i in true[:limit])

    def forget(self, sequence: Sequence) -> None:
        pass


def texts_of(engine: Engine, params: SamplingParams, num_requests: int = 4) -> Texts:
    """All outputs of some requests that run together; some prompts share a beginning."""
    rng = random.Random(5)
    base = [rng.randrange(61) for _ in range(20)]
    for i in range(num_requests):
        engine.add(base[: 4 * i] + [rng.randrange(61) for _ in range(rng.randint(1, 9))], params)
    texts: Texts = {}
    for _ in range(2000):
        for output in engine.step():
            texts.setdefault((output.request_id, output.index), []).append(output)
        if not engine.has_unfinished():
            return texts
    raise AssertionError(f"unfinished: {engine.stats()}")


def assert_same(texts: Texts, plain: Texts) -> None:
    assert texts.keys() == plain.keys()
    for key, outputs in texts.items():
        expected = plain[key]
        assert [o.token_id for o in outputs] == [o.token_id for o in expected], key
        assert [o.finish_reason for o in outputs] == [o.finish_reason for o in expected], key
        for output, plain_output in zip(outputs, expected, strict=True):
            assert output.logprob == pytest.approx(plain_output.logprob, abs=1e-5)
            if output.top_logprobs is not None and plain_output.top_logprobs is not None:
                assert [i for i, _ in output.top_logprobs] == [
                    i for i, _ in plain_output.top_logprobs
                ]


def ngram(model: Llama, limits: dict[str, Any], plain: Texts) -> Engine:
    return Engine(model, EngineConfig(**limits))


def same_model(model: Llama, limits: dict[str, Any], plain: Texts) -> Engine:
    return Engine(model, EngineConfig(**limits), draft_model=model)


def near_model(model: Llama, limits: dict[str, Any], plain: Texts) -> Engine:
    return Engine(model, EngineConfig(**limits), draft_model=near_llama())


def oracle(wrong: float) -> Callable[[Llama, dict[str, Any], Texts], Engine]:
    def make(model: Llama, limits: dict[str, Any], plain: Texts) -> Engine:
        engine = Engine(model, EngineConfig(**limits))
        engine.speculation.drafter = Oracle(plain, wrong)
        return engine

    return make


DRAFTERS = {
    "ngram": ngram,
    "same model": same_model,
    "near model": near_model,
    "always right": oracle(0.0),
    "often right": oracle(0.3),
    "always wrong": oracle(1.0),
}


@pytest.mark.parametrize("limits", [ROOMY, TIGHT, NO_CACHE], ids=["roomy", "tight", "no cache"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("drafter", DRAFTERS)
def test_tokens_are_those_of_plain_decoding(
    model: Llama, drafter: str, kind: str, limits: dict[str, Any]
) -> None:
    params = SamplingParams(max_tokens=30, **KINDS[kind])
    off = Engine(model, EngineConfig(speculation="off", **limits))
    plain = texts_of(off, params)
    engine = DRAFTERS[drafter](model, limits, plain)
    assert_same(texts_of(engine, params), plain)
    stats = engine.stats()
    assert stats.num_free_blocks == limits["num_blocks"], f"blocks leaked: {stats}"
    assert stats.num_generated_tokens == sum(map(len, plain.values()))
    if limits is not ROOMY and kind != "stopped":
        assert stats.num_preemptions, f"this pool should force preemption: {stats}"
    if drafter == "always wrong":
        assert stats.num_drafted_tokens and not stats.num_accepted_tokens, stats
    elif drafter in ("always right", "same model"):
        assert stats.num_accepted_tokens > 0, stats
        assert stats.num_accepted_tokens == stats.num_drafted_tokens or kind == "stopped", stats
        assert stats.num_steps < off.stats().num_steps
    elif drafter != "ngram":
        assert 0 < stats.num_accepted_tokens < stats.num_drafted_tokens, stats


def test_a_text_that_repeats_takes_fewer_steps(model: Llama) -> None:
    """Greedy decoding of random weights soon goes round in circles: n-grams see that."""
    params = SamplingParams(temperature=0.0, max_tokens=100)
    steps = []
    for speculation in ("off", "ngram"):
        engine = Engine(model, EngineConfig(speculation=speculation, num_blocks=32))
        engine.add([1, 2, 3], params)
        assert run(engine).tokens[0, 0] == greedy_without_cache(model, [1, 2, 3], 100)
        steps.append(engine.stats().num_steps)
    stats = engine.stats()
    assert steps[0] == 100
    assert steps[1] <= 60, stats
    assert stats.num_steps + stats.num_accepted_tokens == 100, stats


@pytest.mark.parametrize("max_tokens", range(1, 12))
def test_a_length_limit_inside_an_accepted_run_is_kept(model: Llama, max_tokens: int) -> None:
    plain = texts_of(
        Engine(model, EngineConfig(speculation="off", num_blocks=32)),
        SamplingParams(temperature=0.0, max_tokens=20),
        num_requests=1,
    )
    engine = oracle(0.0)(model, {"num_blocks": 32}, plain)
    params = SamplingParams(temperature=0.0, max_tokens=max_tokens)
    (outputs,) = texts_of(engine, params, num_requests=1).values()
    assert [o.token_id for o in outputs] == [o.token_id for o in plain[0, 0]][:max_tokens]
    assert outputs[-1].finish_reason == "length"


def test_a_full_context_or_pool_leaves_no_room_for_drafts(model: Llama) -> None:
    for config, expected in (
        (EngineConfig(max_model_len=30, num_blocks=8), 30),
        (EngineConfig(block_size=4, num_blocks=5), 21),
    ):
        engine = Engine(model, config, draft_model=model)
        engine.add([1] * 10, SamplingParams(max_tokens=None, temperature=0.0))
        answers = run(engine)
        assert len(answers.tokens[0, 0]) + 10 == expected
        assert answers.tokens[0, 0] == greedy_without_cache(model, [1] * 10, expected - 10)
        assert engine.stats().num_accepted_tokens > 0


def test_drafts_hold_no_block_longer_than_their_step(model: Llama) -> None:
    engine = Engine(model, EngineConfig(block_size=1, num_blocks=64))
    engine.speculation.drafter = Same((1, 2, 3, 4, 5))
    engine.add([1, 2, 3], SamplingParams(temperature=0.0, max_tokens=20))
    while engine.has_unfinished():
        engine.step()
        for sequence in engine.scheduler.running:
            assert len(sequence.block_table) <= sequence.num_tokens
    assert engine.stats().num_drafted_tokens > 0
    assert engine.stats().num_free_blocks == 64


@pytest.mark.parametrize("drafter", ["often right", "always wrong", "near model"])
def test_the_prefix_cache_remembers_accepted_tokens_only(model: Llama, drafter: str) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=30)
    plain_engine = Engine(model, EngineConfig(speculation="off", **ROOMY))
    plain = texts_of(plain_engine, params)
    engine = DRAFTERS[drafter](model, ROOMY, plain)
    texts = texts_of(engine, params)
    for asked in (plain_engine, engine):
        asked.speculation.drafter = None
        for request_id in range(4):
            answer = [o.token_id or 0 for o in texts[request_id, 0]]
            asked.add([*PROMPTS[request_id], *answer, 1, 2, 3], params)
    later, later_plain = run(engine), run(plain_engine)
    assert later.tokens == later_plain.tokens
    for key, output in later.last.items():
        assert output.num_cached_tokens == later_plain.last[key].num_cached_tokens >= 28
        prompt = [*PROMPTS[key[0] - 4], *(o.token_id or 0 for o in texts[key[0] - 4, 0]), 1, 2, 3]
        assert later.tokens[key] == greedy_without_cache(model, prompt, 30)


def _prompts() -> list[list[int]]:
    seen: list[list[int]] = []

    class Notes:
        def add(self, prompt: list[int], params: SamplingParams) -> None:
            seen.append(prompt)

        def step(self) -> list[TokenOutput]:
            return []

        def has_unfinished(self) -> bool:
            return False

    texts_of(Notes(), SamplingParams())  # type: ignore[arg-type]
    return seen


PROMPTS = _prompts()


def test_the_distribution_over_seeds_is_that_of_the_model(model: Llama) -> None:
    """Chi-square of the second and third token of 1500 seeds against their exact probabilities.

    Always the likeliest token of each place is drafted: some draws accept it, most reject it.
    """
    prompt, num_seeds = [1, 2, 3], 1500
    params = {"temperature": 0.7, "max_tokens": 4}
    second_V, third_V = exact_probabilities(model, prompt, temperature=0.7)
    likeliest = int(second_V.argmax()), int(third_V.argmax())
    engine = Engine(model, EngineConfig(max_num_seqs=4, block_size=4, num_blocks=64))
    engine.speculation.drafter = Same(likeliest)
    answers = Answers()
    for seed in range(num_seeds):
        engine.add(prompt, SamplingParams(seed=seed, **params))
    while engine.has_unfinished():
        for trust in engine.speculation._trust.values():
            trust.pause = trust.num_failures = 0
        answers.add(engine.step())
    stats = engine.stats()
    assert 100 < stats.num_accepted_tokens < stats.num_drafted_tokens / 2, stats
    for place, probs_V in ((1, second_V), (2, third_V)):
        counts_V = torch.zeros(61)
        for tokens in answers.tokens.values():
            counts_V[tokens[place]] += 1
        expected_V = probs_V * num_seeds
        common = expected_V >= 5
        observed = [*counts_V[common].tolist(), counts_V[~common].sum().item()]
        wanted = [*expected_V[common].tolist(), expected_V[~common].sum().item()]
        chi2 = sum((a - b) ** 2 / b for a, b in zip(observed, wanted, strict=True) if b)
        freedom = len(wanted) - 1
        limit = freedom + 4 * (2 * freedom) ** 0.5
        assert chi2 < limit, f"token {place}: chi2 {chi2:.1f}, {freedom} degrees, limit {limit:.1f}"


class Same:
    """Drafts the same tokens always."""

    def __init__(self, tokens: tuple[int, ...]) -> None:
        self.tokens = tokens

    def draft(self, limits: Mapping[Sequence, int]) -> dict[Sequence, tuple[int, ...]]:
        return {sequence: self.tokens[:limit] for sequence, limit in limits.items()}

    def forget(self, sequence: Sequence) -> None:
        pass


def exact_probabilities(
    model: Llama, prompt: list[int], temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the second and of the third token behind the prompt: sums over all that come before."""

    def next_RV(prefixes: list[list[int]]) -> torch.Tensor:
        length = len(prefixes[0])
        ids_T = torch.tensor(prefixes).flatten()
        positions_T = torch.arange(length).repeat(len(prefixes))
        attn = PackedAttention(range(0, len(ids_T), length))
        last_RD = model(ids_T, positions_T, attn)[length - 1 :: length]
        return (model.logits(last_RD) / temperature).softmax(-1)

    first_V = next_RV([prompt])[0]
    second_VV = next_RV([[*prompt, a] for a in range(61)]) * first_V[:, None]
    third_RV = next_RV([[*prompt, a, b] for a in range(61) for b in range(61)])
    return second_VV.sum(0), (third_RV * second_VV.flatten()[:, None]).sum(0)


def test_more_than_four_sequences_get_no_drafts(model: Llama) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=40)
    for num_requests, is_drafted in ((4, True), (5, False)):
        engine = Engine(model, EngineConfig(num_blocks=64, enable_prefix_caching=False))
        for _ in range(num_requests):
            engine.add([1, 2, 3], params)
        run(engine)
        assert (engine.stats().num_drafted_tokens > 0) == is_drafted


def test_a_prompt_that_fills_the_step_leaves_no_drafts(model: Llama) -> None:
    config = EngineConfig(max_num_batched_tokens=8, max_num_seqs=2, block_size=4, num_blocks=64)
    engine = Engine(model, config)
    engine.speculation.drafter = Same((1, 2, 3))
    sizes = []
    plain_run = engine.runner.run
    engine.runner.run = lambda chunks: (
        sizes.append(sum(c.num_rows for c in chunks)) or plain_run(chunks)
    )
    engine.add([1, 2, 3], SamplingParams(temperature=0.0, max_tokens=20))
    engine.step()
    engine.add(list(range(40)), SamplingParams(temperature=0.0, max_tokens=20))
    run(engine)
    assert max(sizes) == 8, sizes


def test_a_run_of_failures_is_drafted_for_less_and_less_often() -> None:
    trust = Trust()
    asked = [step for step in range(100) if trust.next(15) and not trust.learn(3, 0)]
    assert asked == [0, 1, 3, 7, 15, 31, 47, 63, 79, 95]
    trust.learn(3, 1)
    assert trust.num_failures == 0


def test_success_lengthens_the_drafts_and_failure_shortens_them() -> None:
    trust = Trust()
    lengths = []
    for is_right in (True, True, True, False, True, False, False, False):
        lengths.append(trust.next(15))
        trust.learn(lengths[-1], lengths[-1] if is_right else 1)
    assert lengths == [3, 7, 15, 15, 7, 15, 7, 3]


def test_a_draft_model_of_another_vocabulary_is_refused(model: Llama) -> None:
    other = Llama(replace(model.config, vocab_size=60))
    with pytest.raises(ConfigError, match=r"vocabulary has 60 tokens, the model's 61"):
        Engine(model, EngineConfig(num_blocks=4), draft_model=other)


def test_a_draft_model_without_speculation_is_refused(model: Llama) -> None:
    with pytest.raises(ConfigError, match="speculation is off"):
        Engine(model, EngineConfig(num_blocks=4, speculation="off"), draft_model=model)


def test_an_unknown_speculation_is_refused() -> None:
    with pytest.raises(ConfigError, match="speculation is 'always'; allowed: ngram, off"):
        EngineConfig(speculation="always")  # type: ignore[arg-type]
