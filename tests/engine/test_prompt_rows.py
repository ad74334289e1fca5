"""Log-probabilities and vectors of prompts: those of the model's own logits and hidden states, for
any cutting into chunks, any weights, beside others, cached or preempted.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_decoders import by_module, filled, gpt_oss, llama, mixtral
from tiny_engine import run
from torch import Tensor

from bobot.engine import Engine, EngineConfig, SamplingParams, prompt_rows
from bobot.engine.prompt_rows import PromptScores, PromptVector
from bobot.errors import RequestError
from bobot.layers.context import PackedAttention
from bobot.models.llama import Llama

V = 61
MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: filled(llama()),
    "llama in 16 bits": lambda: filled(llama()).to(torch.bfloat16),
    "llama Q8_0": lambda: filled(llama(), "Q8_0"),
    "llama int8 in tiles": lambda: filled(llama(), "int8", is_tiled=True),
    "llama int4 in tiles": lambda: filled(llama(), "int4", is_tiled=True),
    "mixtral mxfp4": lambda: filled(mixtral(), "mxfp4"),
    "gpt-oss": lambda: filled(gpt_oss()),
}


def prompts_of(lengths: list[int], seed: int = 1) -> list[list[int]]:
    draw = random.Random(seed)
    return [[0, *(draw.randrange(V) for _ in range(n - 1))] for n in lengths]  # a BOS with id 0


def check(reader: PromptScores, prompt: list[int], logits_TV: Tensor, within: float) -> None:
    logprobs_TV = logits_TV.log_softmax(-1)
    assert len(reader.scores) == len(prompt) - 1
    for row, score in enumerate(reader.scores):
        assert score.token_id == prompt[row + 1]
        expected = float(logprobs_TV[row, score.token_id])
        assert score.logprob == pytest.approx(expected, abs=within), row
        better_V = logprobs_TV[row] - expected
        lowest, highest = (1 + int((better_V > limit).sum()) for limit in (2 * within, -2 * within))
        assert lowest <= score.rank <= highest
        best = logprobs_TV[row].topk(len(score.top)).values.tolist()
        assert [value for _, value in score.top] == pytest.approx(best, abs=within)
        for token_id, value in score.top:
            assert value == pytest.approx(float(logprobs_TV[row, token_id]), abs=within)


@pytest.mark.parametrize("most", [7, 64])
@pytest.mark.parametrize("name", MODELS)
def test_scores_are_the_log_softmax_of_the_models_logits(name: str, most: int) -> None:
    model = MODELS[name]()
    prompts = prompts_of([1, 2, 9, 40, 77])
    config = EngineConfig(max_num_seqs=5, max_num_batched_tokens=most, block_size=4, num_blocks=64)
    engine = Engine(model, config)
    readers = [PromptScores(prompt, 3, V) for prompt in prompts]
    for prompt, reader in zip(prompts, readers, strict=True):
        engine.add(prompt, SamplingParams(max_tokens=2, temperature=0.0), prompt_reader=reader)
    run(engine)
    within = 0.1 if "16 bits" in name else 1e-4  # bfloat16 has 8 bits
    with torch.no_grad():
        for prompt, reader, logits_TV in zip(
            prompts, readers, by_module(model, prompts), strict=True
        ):
            check(reader, prompt, logits_TV, within)


def test_a_cached_prompt_is_computed_again_and_found_again(model: Llama) -> None:
    (prompt,) = prompts_of([30])
    engine = Engine(model, EngineConfig(max_num_seqs=2, block_size=4, num_blocks=32))
    plain = engine.add(prompt, SamplingParams(max_tokens=3, temperature=0.0))
    first = run(engine)
    reader = PromptScores(prompt, 0, V)
    scored = engine.add(prompt, SamplingParams(max_tokens=3, temperature=0.0), prompt_reader=reader)
    second = run(engine)
    assert second.last[scored, 0].num_cached_tokens == 0
    check(reader, prompt, by_module(model, [prompt])[0], 1e-4)
    assert second.tokens[scored, 0] == first.tokens[plain, 0]
    again = engine.add(prompt, SamplingParams(max_tokens=3, temperature=0.0))
    assert run(engine).last[again, 0].num_cached_tokens == 28


@pytest.mark.parametrize("seed", range(4))
def test_preempted_prompts_get_each_score_once(model: Llama, seed: int) -> None:
    prompts = prompts_of([20, 33, 11, 26], seed)
    config = EngineConfig(
        max_num_seqs=4, max_num_batched_tokens=9, block_size=4, num_blocks=16, speculation="off"
    )
    engine = Engine(model, config)
    readers = [PromptScores(prompt, 2, V) for prompt in prompts]
    for prompt, reader in zip(prompts, readers, strict=True):
        params = SamplingParams(max_tokens=24, seed=seed)
        engine.add(prompt, params, prompt_reader=reader)
    run(engine)
    assert engine.stats().num_preemptions > 0
    for prompt, reader in zip(prompts, readers, strict=True):
        check(reader, prompt, by_module(model, [prompt])[0], 1e-4)


def test_a_prompt_that_is_only_read_may_fill_the_context_and_leaves_nothing(model: Llama) -> None:
    (prompt,) = prompts_of([128])
    engine = Engine(model, EngineConfig(max_num_seqs=2, block_size=4, num_blocks=32))
    reader = PromptScores(prompt, 1, V)
    request_id = engine.read(prompt, reader)
    output = run(engine).last[request_id, 0]
    assert (output.token_id, output.finish_reason, output.error) == (None, "length", None)
    assert engine.stats().num_free_blocks == 32
    assert engine.stats().num_generated_tokens == 0
    check(reader, prompt, by_module(model, [prompt])[0], 1e-4)
    with pytest.raises(RequestError, match="129 tokens"):
        engine.read([*prompt, 1], PromptScores([*prompt, 1], 1, V))


def test_logits_are_held_in_slices(model: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    (prompt,) = prompts_of([50])
    sizes = []

    def logits(hidden_RD: Tensor) -> Tensor:
        sizes.append(len(hidden_RD))
        return Llama.logits(model, hidden_RD)

    monkeypatch.setattr(model, "logits", logits)
    monkeypatch.setattr(prompt_rows, "SLICE_BYTES", 4 * V * 6 + 3)
    reader = PromptScores(prompt, 1, V)
    engine = Engine(model, EngineConfig(max_num_seqs=1, block_size=4, num_blocks=16))
    engine.read(prompt, reader)
    run(engine)
    assert max(sizes) == 6 and sum(sizes) == 49 + 1  # and the row that would decide
    check(reader, prompt, by_module(model, [prompt])[0], 1e-4)


@pytest.mark.parametrize("most", [5, 64])
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_vectors_are_the_pooled_hidden_states(model: Llama, pooling: Any, most: int) -> None:
    prompts = prompts_of([1, 6, 31])
    config = EngineConfig(max_num_seqs=3, max_num_batched_tokens=most, block_size=4, num_blocks=40)
    engine = Engine(model, config)
    readers = [PromptVector(len(prompt), pooling) for prompt in prompts]
    for _ in range(2):  # the second time with everything in the cache
        readers = [PromptVector(len(prompt), pooling) for prompt in prompts]
        for prompt, reader in zip(prompts, readers, strict=True):
            engine.read(prompt, reader)
        run(engine)
        for prompt, reader in zip(prompts, readers, strict=True):
            ids_T = torch.tensor(prompt)
            hidden_TD = model(ids_T, torch.arange(len(prompt)), PackedAttention([0]))
            pooled_D = hidden_TD.mean(0) if pooling == "mean" else hidden_TD[-1]
            expected = (pooled_D / pooled_D.norm()).tolist()
            assert reader.vector() == pytest.approx(expected, abs=1e-5)


def test_logits_that_are_not_finite_end_a_prompt_that_is_read(monkeypatch: Any) -> None:
    model = filled(llama())
    engine = Engine(model, EngineConfig(max_num_seqs=1, block_size=4, num_blocks=16))
    monkeypatch.setattr(model, "logits", lambda hidden: torch.full((len(hidden), V), torch.nan))
    request_id = engine.read([1, 2, 3], PromptScores([1, 2, 3], 1, V))
    assert run(engine).last[request_id, 0].finish_reason == "error"
