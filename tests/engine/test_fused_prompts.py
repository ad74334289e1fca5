"""Prompts of many tokens, whole or in chunks beside decoding sequences, in one C++ call: what the
model gives, for every family, with any number of threads.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from tiny_decoders import (
    FAMILIES,
    by_decoder,
    by_module,
    filled,
    gpt_oss,
    in_dtype,
    llama,
    mixtral,
)

from bobot import kernels
from bobot.engine import Engine, EngineConfig, SamplingParams
from bobot.engine.fused import MAX_TOKENS, fused_decoder
from bobot.engine.kv_cache import KVCache

pytestmark = pytest.mark.skipif(not kernels.available, reason="the extension is not built")

DRAW = random.Random(5)
PROMPTS = [[DRAW.randrange(61) for _ in range(n)] for n in (700, 130, 65, 9, 1)]
LONG = {"max_position_embeddings": 1024}


@pytest.fixture(autouse=True)
def without_grad() -> Any:
    with torch.inference_mode():
        yield


def errors(found: list[torch.Tensor], expected: list[torch.Tensor]) -> torch.Tensor:
    """The largest error of each token's logits, in units of the logits' deviation."""
    expected_TV = torch.cat(expected)
    return (torch.cat(found) - expected_TV).abs().amax(-1) / expected_TV.std()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("packing", "is_tiled"), [("float32", False), ("Q8_0", True)])
@pytest.mark.parametrize(("num_threads", "most"), [(1, 900), (2, 200), (3, 40)])
def test_prompts_give_the_logits_of_the_model(
    family: str, packing: str, is_tiled: bool, num_threads: int, most: int
) -> None:
    """In steps of random sizes, among which others decode."""
    made = filled(FAMILIES[family](**LONG), packing, is_tiled=is_tiled)
    found = by_decoder(made, PROMPTS, most=most, num_threads=num_threads, block_size=16)
    error = float(errors(found, by_module(made, PROMPTS)).max())
    assert error <= 2e-5, f"logits differ by {error:.1e}"


@pytest.mark.parametrize("isa", [name for name, usable in kernels.features().items() if usable])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_instruction_set_gives_the_same(
    isa: str, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At odd shapes: columns that fill no panel, and shares that are not of one size."""
    monkeypatch.setenv("BOBOT_ISA", isa)
    changes = {"num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 32, **LONG}
    made = filled(
        FAMILIES[family](hidden_size=96, intermediate_size=160, **changes), "Q8_0", is_tiled=True
    )
    found = by_decoder(made, PROMPTS[1:], most=150, num_threads=3)
    error = float(errors(found, by_module(made, PROMPTS[1:])).max())
    assert error <= 2e-5, f"logits differ by {error:.1e}"


@pytest.mark.parametrize("family", FAMILIES)
def test_16_bit_models_come_nearer_to_float32_than_in_torch(family: str) -> None:
    """Their tiles take activations as integers of 16 bits: what the model rounds to bfloat16, at
    every operation, the step rounds in the cache alone, which leaves less than half of the error.
    On AMX it rounds both factors of every product as the model does, and only nothing in between.
    Where the cache rounds, a router may take another expert: such a token is an outlier, and
    quantiles say what holds for the others.
    """
    has_unit = kernels.isa() in ("amx", kernels.EMULATED_AMX)
    made = in_dtype(filled(FAMILIES[family](**LONG), "Q8_0", is_tiled=True), torch.bfloat16)
    found = by_decoder(made, PROMPTS, most=900, num_threads=2, block_size=16)
    by_torch = by_module(made, PROMPTS)
    exact = by_module(in_dtype(made, torch.float32), PROMPTS)
    for share in (0.5, 0.9):
        step, reference = (float(errors(x, exact).quantile(share)) for x in (found, by_torch))
        assert step <= reference / (1 if has_unit else 2), (
            f"error {step:.1e}, in torch {reference:.1e}"
        )


@pytest.mark.parametrize("num_experts", [5, 64])
def test_many_experts_whose_rows_are_few_or_none(num_experts: int) -> None:
    changes = {"num_local_experts": num_experts, "num_experts_per_tok": 4}
    made = filled(mixtral(**LONG, **changes), "Q8_0", is_tiled=True)
    for prompts in ([PROMPTS[0]], [PROMPTS[3]]):
        found = by_decoder(made, prompts, most=900, num_threads=2, block_size=16)
        error = float(errors(found, by_module(made, prompts)).max())
        assert error <= 2e-5, f"logits differ by {error:.1e}"


def test_an_expert_that_nobody_chose_is_not_read() -> None:
    made = filled(gpt_oss(**LONG))
    for layer in made.model.layers:
        layer.mlp.router.bias[2] = -1e4
        layer.mlp.experts.gate_up_proj[2] = float("nan")
        layer.mlp.experts.down_proj[2] = float("nan")
    found = by_decoder(made, PROMPTS[1:], most=200, num_threads=2)
    error = float(errors(found, by_module(made, PROMPTS[1:])).max())
    assert error <= 2e-5, f"logits differ by {error:.1e}"


def test_sums_do_not_depend_on_which_thread_comes_first() -> None:
    made = filled(mixtral(**LONG), "Q8_0", is_tiled=True)
    first, *others = (
        torch.cat(by_decoder(made, PROMPTS, most=300, num_threads=3)) for _ in range(4)
    )
    assert all(torch.equal(first, other) for other in others)


def answers(made: Any, is_fused: bool) -> list[list[int]]:
    """Greedy answers of requests that run together with drafts, long prompts among them."""
    config = EngineConfig(
        max_num_batched_tokens=100, block_size=16, num_blocks=96, speculation="ngram"
    )
    engine = Engine(made, config)
    assert engine.runner.fused is not None
    if not is_fused:
        engine.runner.fused = None
    params = SamplingParams(max_tokens=20, temperature=0, ignore_eos=True)
    results: dict[int, list[int]] = {engine.add(ids, params): [] for ids in PROMPTS}
    while engine.has_unfinished():
        for output in engine.step():
            assert output.token_id is not None
            results[output.request_id].append(output.token_id)
    return list(results.values())


@pytest.mark.parametrize("window", [None, 33])
def test_requests_get_the_same_answers_either_way(window: int | None) -> None:
    made = filled(llama(sliding_window=window, **LONG), "Q8_0", is_tiled=True)
    assert answers(made, True) == answers(made, False)


@pytest.mark.parametrize("isa", [name for name, usable in kernels.features().items() if usable])
@pytest.mark.parametrize(("packing", "is_tiled"), [("Q8_0", True), ("Q8_0", False)])
def test_prompts_take_the_way_that_is_faster(
    packing: str, is_tiled: bool, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are multiplied one by one, and without fast products of integers torch is faster too."""
    monkeypatch.setenv("BOBOT_ISA", isa)
    made = filled(llama(), packing, is_tiled=is_tiled)
    cache = KVCache(made.kv_specs(), 3, 4, torch.float32, torch.device("cpu"))
    decoder = fused_decoder(made, cache)
    assert decoder is not None and decoder.takes(MAX_TOKENS)
    assert decoder.takes(10_000) == (is_tiled and isa == "avx512vnni")
