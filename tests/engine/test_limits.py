"""Where a request ends, and what is refused, with the value found and the value allowed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_engine import greedy_without_cache, run, tiny_llama

from bobot.engine import Engine, EngineConfig, SamplingParams
from bobot.engine.config import choose_num_blocks
from bobot.errors import ConfigError, RequestError
from bobot.models.llama import Llama


def test_a_prompt_as_long_as_the_context_is_refused_with_both_numbers(model: Llama) -> None:
    engine = Engine(model, EngineConfig(max_model_len=20, num_blocks=8))
    with pytest.raises(RequestError, match=r"20 tokens; at most 19 .* context of 20"):
        engine.add([1] * 20)
    assert not engine.has_unfinished()


def test_a_request_larger_than_the_pool_is_refused_with_both_numbers(model: Llama) -> None:
    engine = Engine(model, EngineConfig(block_size=4, num_blocks=5))
    with pytest.raises(RequestError, match=r"10 prompt tokens and 12 new .* 6 .* pool has 5"):
        engine.add([1] * 10, SamplingParams(max_tokens=12))
    engine.add([1] * 10, SamplingParams(max_tokens=11))
    assert len(run(engine).tokens[0, 0]) == 11, "the last token needs no slot"


def test_no_max_tokens_means_until_context_or_pool_is_full(model: Llama) -> None:
    params = SamplingParams(max_tokens=None, temperature=0.0)
    for config, expected in (
        (EngineConfig(max_model_len=30, num_blocks=8), 30),
        (EngineConfig(block_size=4, num_blocks=5), 21),
    ):
        engine = Engine(model, config)
        request_id = engine.add([1] * 10, params)
        answers = run(engine)
        assert len(answers.tokens[request_id, 0]) + 10 == expected
        assert answers.last[request_id, 0].finish_reason == "length"


@pytest.mark.parametrize(
    ("prompt", "params", "message"),
    [
        ([], {}, "no tokens; at least 1"),
        ([3, 61], {}, "prompt holds token id 61; allowed: 0 to 60"),
        ([3, -1], {}, "prompt holds token id -1; allowed: 0 to 60"),
        ([3], {"logit_bias": {99: 1.0}}, "logit_bias holds token id 99; allowed: 0 to 60"),
    ],
)
def test_ids_outside_the_vocabulary_are_refused(
    model: Llama, prompt: list[int], params: dict[str, Any], message: str
) -> None:
    engine = Engine(model, EngineConfig(num_blocks=4))
    with pytest.raises(RequestError, match=message):
        engine.add(prompt, SamplingParams(max_tokens=4, **params))
    assert not engine.has_unfinished()


def test_stop_tokens_and_eos_end_a_sequence_and_are_reported(model: Llama) -> None:
    whole = greedy_without_cache(model, [4, 5], 12)
    stop = next(token for token in whole if token != whole[0])
    at = whole.index(stop) + 1
    cases = [
        (frozenset({stop}), {}, at, "stop"),
        (frozenset({stop}), {"ignore_eos": True}, 12, "length"),
        (frozenset(), {"stop_token_ids": (stop,), "ignore_eos": True}, at, "stop"),
    ]
    for eos_ids, extra, length, reason in cases:
        engine = Engine(model, EngineConfig(num_blocks=8), eos_ids=eos_ids)
        engine.add([4, 5], SamplingParams(temperature=0.0, max_tokens=12, **extra))
        answers = run(engine)
        assert answers.tokens[0, 0] == whole[:length]
        assert answers.last[0, 0].finish_reason == reason


def test_logits_that_are_not_finite_end_the_request_with_an_error() -> None:
    model = tiny_llama()
    model.model.embed_tokens.weight[7] = torch.nan
    engine = Engine(model, EngineConfig(num_blocks=32))
    bad = engine.add([1, 7, 2], SamplingParams(n=2, max_tokens=4))
    good = engine.add([1, 3, 2], SamplingParams(temperature=0.0, max_tokens=1))
    answers = run(engine)
    for index in range(2):
        output = answers.last[bad, index]
        assert (output.finish_reason, output.token_id) == ("error", None)
        assert "After 3 tokens 61 of the model's 61 logits are not finite" in str(output.error)
    assert answers.last[good, 0].finish_reason == "length"
    assert engine.stats().num_free_blocks == 32


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -0.1}, "temperature is -0.1; allowed: 0 or more"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 1.5}, "top_p is 1.5; allowed: 0 to 1"),
        ({"top_k": -1}, "top_k is -1; allowed: 0 or more"),
        ({"min_p": 2.0}, "min_p is 2.0; allowed: 0 to 1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0; allowed: 0.01 to 100"),
        ({"presence_penalty": 3.0}, "presence_penalty is 3.0; allowed: -2 to 2"),
        ({"frequency_penalty": float("inf")}, "frequency_penalty is inf; allowed: -2 to 2"),
        ({"logit_bias": {3: 101.0}}, r"logit_bias\[3\] is 101.0; allowed: -100 to 100"),
        ({"max_tokens": 0}, "max_tokens is 0; allowed: 1 or more"),
        ({"n": 0}, "n is 0; allowed: 1 to 128"),
        ({"logprobs": 21}, "logprobs is 21; allowed: 0 to 20"),
    ],
)
def test_sampling_values_out_of_range_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        SamplingParams(**values)


def test_engine_limits_that_cannot_work_are_refused(model: Llama) -> None:
    with pytest.raises(ConfigError, match="block_size is 0; allowed: 1 or more"):
        EngineConfig(block_size=0)
    with pytest.raises(ConfigError, match=r"max_num_batched_tokens is 8, .* max_num_seqs \(16\)"):
        EngineConfig(max_num_batched_tokens=8)
    with pytest.raises(ConfigError, match="max_model_len is 4096; this model reads at most 128"):
        Engine(model, EngineConfig(max_model_len=4096))


def test_the_pool_is_bounded_by_what_is_needed_and_by_free_memory() -> None:
    config = EngineConfig(max_num_seqs=4, block_size=16)
    assert choose_num_blocks(config, 100, token_bytes=1000, free_bytes=10**12) == 28
    assert choose_num_blocks(config, 100, token_bytes=1000, free_bytes=320_000) == 10
    with pytest.raises(ConfigError, match="16000 bytes; 31999 bytes of memory are free"):
        choose_num_blocks(config, 100, token_bytes=1000, free_bytes=31_999)
