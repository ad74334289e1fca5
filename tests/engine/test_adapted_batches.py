"""Requests with different adapters, or none, in one batch: each gets what it would get alone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_adapters import layers_of, merge, random_matrices, write_adapter
from tiny_decoders import filled, gpt_oss, llama
from tiny_engine import greedy_without_cache, near_llama, run, tiny_llama

from bobot.engine import Engine, EngineConfig, SamplingParams
from bobot.engine.prompt_rows import PromptScores
from bobot.engine.request import Chunk, Request
from bobot.layers.lora import Adapter
from bobot.weights.adapters import load_adapter, open_adapter

GREEDY = SamplingParams(temperature=0.0, max_tokens=12)
DRAWN = SamplingParams(temperature=0.9, max_tokens=12, seed=5, logprobs=3)
PROMPTS = [[1, 2, 3, 4, 5, 6, 7, 8, 9], [9, 8, 7], [5, 6, 5, 6, 5, 6, 5, 6, 5, 6, 5], [1, 2, 3]]


def adapters(model: Any, folder: Path, *seeds: int, family: str = "llama") -> list[Adapter]:
    found = []
    for seed in seeds:
        tensors = random_matrices(layers_of(model), seed, std=0.2)
        path = write_adapter(folder / str(seed), tensors)
        found.append(load_adapter(open_adapter(path), model, family))
    return found


def engine_of(model: Any, **changes: Any) -> Engine:
    limits = {"max_num_seqs": 8, "block_size": 4, "num_blocks": 128, **changes}
    return Engine(model, EngineConfig(**limits))


def alone(model: Any, prompt: list[int], adapter: Adapter | None, params=DRAWN) -> list[int]:
    engine = engine_of(model)
    request_id = engine.add(prompt, params, adapter=adapter)
    return run(engine).tokens[request_id, 0]


@pytest.mark.parametrize(
    ("family", "packing"), [("llama", "float32"), ("llama", "int8"), ("gpt_oss", "mxfp4")]
)
@pytest.mark.parametrize("most", [8, 512])
def test_answers_in_a_mixed_batch_are_those_alone(tmp_path, family, packing, most):
    make = {"llama": llama, "gpt_oss": gpt_oss}[family]
    model = filled(make(), packing, is_tiled=packing != "float32")
    a, b = adapters(model, tmp_path, 1, 2, family=family)
    asked = [(prompt, adapter) for prompt in PROMPTS for adapter in (None, a, b, a)]
    engine = engine_of(model, max_num_batched_tokens=most)
    ids = [engine.add(prompt, DRAWN, adapter=adapter) for prompt, adapter in asked]
    tokens = run(engine).tokens
    assert [tokens[i, 0] for i in ids] == [alone(model, *one) for one in asked]
    assert len({tuple(tokens[i, 0]) for i in ids[:3]}) == 3, "the adapters change nothing"


def test_a_row_without_an_adapter_is_the_same_to_the_last_bit(tmp_path, monkeypatch):
    """All of them in one C++ call."""
    model = filled(llama(), "int8", is_tiled=True)
    (a,) = adapters(model, tmp_path, 1)
    results = []
    for neighbours in ([], [a], [a, a]):
        engine = engine_of(model)
        assert engine.runner.fused is not None
        monkeypatch.setattr(engine.runner, "_run_modules", None)
        chunks = []
        for n, adapter in enumerate([*neighbours, None, None]):
            prompt = PROMPTS[n - len(neighbours)] if adapter is None else [4, 4]
            sequence = Request(n, prompt, GREEDY, 0, 64, adapter=adapter).sequences[0]
            sequence.block_table = [10 * n + 1, 10 * n + 2, 10 * n + 3]
            chunks.append(Chunk(sequence, len(prompt)))
        logits_RV, caught_up = engine.runner.run(chunks)
        assert set(caught_up) == set(chunks)
        rows = [caught_up.index(chunk) for chunk in chunks if chunk.sequence.adapter is None]
        results.append(logits_RV[rows])
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_steps_in_which_only_some_catch_up(tmp_path):
    """A long prompt, with or without an adapter, beside one that already answers."""
    model = filled(llama())
    (a,) = adapters(model, tmp_path, 1)
    long = [n % 60 for n in range(70)]
    for first, second in ((a, None), (None, a), (a, a)):
        engine = engine_of(model, max_num_batched_tokens=8)
        ids = [engine.add([3, 1], DRAWN, adapter=first), engine.add(long, DRAWN, adapter=second)]
        tokens = run(engine).tokens
        wanted = [alone(model, [3, 1], first), alone(model, long, second)]
        assert [tokens[i, 0] for i in ids] == wanted


def test_a_prefix_is_shared_within_an_adapter_and_with_no_other(tmp_path):
    model = filled(llama())
    a, same, b = adapters(model, tmp_path, 1, 1, 2)
    assert a is not same and a.digest == same.digest
    prompt = [n % 60 for n in range(33)]
    engine = engine_of(model)
    cached = []
    for adapter in (None, a, b, None, a, same, b):
        request_id = engine.add(prompt, GREEDY, adapter=adapter)
        answers = run(engine)
        cached.append(answers.last[request_id, 0].num_cached_tokens)
        assert answers.tokens[request_id, 0] == alone(model, prompt, adapter, GREEDY)
    assert cached == [0, 0, 0, 32, 32, 32, 32]


def test_several_answers_of_one_request_share_its_prompt(tmp_path):
    model = filled(llama())
    (a,) = adapters(model, tmp_path, 1)
    prompt = [n % 60 for n in range(20)]
    params = SamplingParams(temperature=1.0, max_tokens=8, seed=3, n=3)
    engine = engine_of(model)
    request_id = engine.add(prompt, params, adapter=a)
    answers = run(engine)
    assert answers.last[request_id, 1].num_cached_tokens == 16
    assert answers.tokens[request_id, 0] == alone(
        model, prompt, a, SamplingParams(temperature=1.0, max_tokens=8, seed=3)
    )


def test_greedy_answers_are_those_of_merged_weights_through_preemptions(tmp_path):
    model = tiny_llama()
    tensors = random_matrices(layers_of(model), 4)
    folder = write_adapter(tmp_path, tensors)
    adapter = load_adapter(open_adapter(folder), model, "llama")
    merged = copy.deepcopy(model)
    merge(merged, tensors, dict.fromkeys(layers_of(model), 2.0))
    engine = engine_of(model, num_blocks=10)
    ids = {
        engine.add(prompt, GREEDY, adapter=chosen): (prompt, used)
        for prompt in PROMPTS
        for chosen, used in ((adapter, merged), (None, model))
    }
    tokens = run(engine).tokens
    assert engine.stats().num_preemptions > 0
    for request_id, (prompt, used) in ids.items():
        assert tokens[request_id, 0] == greedy_without_cache(used, prompt, 12)


def test_a_draft_model_guesses_without_the_adapter_and_changes_nothing(tmp_path):
    model = tiny_llama()
    (a,) = adapters(model, tmp_path, 1)
    config = EngineConfig(max_num_seqs=4, block_size=4, num_blocks=64)
    engine = Engine(model, config, draft_model=near_llama())
    ids = [engine.add(prompt, DRAWN, adapter=a) for prompt in PROMPTS]
    tokens = run(engine).tokens
    assert engine.stats().num_drafted_tokens > 0
    assert [tokens[i, 0] for i in ids] == [alone(model, prompt, a) for prompt in PROMPTS]


def test_a_prompt_is_scored_by_the_adapted_model(tmp_path):
    model = tiny_llama()
    tensors = random_matrices(layers_of(model), 4)
    adapter = load_adapter(open_adapter(write_adapter(tmp_path, tensors)), model, "llama")
    merged = copy.deepcopy(model)
    merge(merged, tensors, dict.fromkeys(layers_of(model), 2.0))
    prompt = [n * 7 % 60 for n in range(30)]
    readers = [PromptScores(prompt, 1, 61) for _ in range(3)]
    engine = engine_of(model, max_num_batched_tokens=8)
    for reader, chosen in zip(readers, (adapter, None, adapter), strict=True):
        engine.read(prompt, reader, chosen)
    run(engine)
    other = PromptScores(prompt, 1, 61)
    merged_engine = engine_of(merged)
    merged_engine.read(prompt, other)
    run(merged_engine)
    found, plain, again = ([score.logprob for score in reader.scores] for reader in readers)
    wanted = [score.logprob for score in other.scores]
    assert found == pytest.approx(wanted, abs=1e-3) and again == pytest.approx(wanted, abs=1e-3)
    assert max(abs(x - y) for x, y in zip(found, plain, strict=True)) > 0.1


def test_a_failing_step_leaves_no_adapter_behind(tmp_path, monkeypatch):
    model = tiny_llama()
    (a,) = adapters(model, tmp_path, 1)
    before = alone(model, PROMPTS[0], None)
    engine = engine_of(model)
    engine.runner.fused = None
    engine.add(PROMPTS[0], DRAWN, adapter=a)

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(type(model), "logits", fail)
    with pytest.raises(RuntimeError):
        engine.step()
    monkeypatch.undo()
    assert not any(module._forward_hooks for module in model.modules())
    assert alone(model, PROMPTS[0], None) == before
    answers = run(engine)
    assert answers.tokens[0, 0] == alone(model, PROMPTS[0], a)
