"""A step in one C++ call gives what the model gives, for every family that it computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_decoders import (
    FAMILIES,
    LLAMA3,
    PACKINGS,
    YARN,
    by_decoder,
    by_module,
    filled,
    in_dtype,
    llama,
)

from bobot import kernels
from bobot.engine import Engine, EngineConfig, SamplingParams, fused
from bobot.engine.kv_cache import KVCache
from bobot.layers.context import PackedAttention
from bobot.models.llama import Llama
from bobot.ops.rope import RopeParameters

pytestmark = pytest.mark.skipif(not kernels.available, reason="the extension is not built")

NEEDS_TILES = pytest.mark.skipif(
    kernels.available and kernels.isa() == "portable", reason="no tiles without vectors"
)
SEQUENCES = [[1, 2, 3], list(range(40)), [*range(30), 7], [5] * 9, [60]]
WIDE = {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 8}
"""Rows of whole blocks of 256."""
ROUNDINGS = 2e-5
"""Of sums of up to 256 terms in float32, whose order differs at every instruction level; seen:
1.3e-5."""


@pytest.fixture(autouse=True)
def without_grad() -> Any:
    with torch.inference_mode():
        yield


def worst(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """The largest difference, in units of the logits' deviation."""
    size = torch.cat(expected).std()
    return max(float((a - b).abs().max() / size) for a, b in zip(found, expected, strict=True))


def errors(found: list[torch.Tensor], exact: list[torch.Tensor]) -> torch.Tensor:
    """Root mean square error of each token's logits, in units of the logits' deviation.

    Where a cache of 16 bits rounds, a router may take another expert than without: such a token is
    an outlier, and quantiles say what holds for the others.
    """
    exact_TV = torch.cat(exact)
    return (torch.cat(found) - exact_TV).square().mean(-1).sqrt() / exact_TV.std()


EACH_PACKING = [
    pytest.param(packing, marks=NEEDS_TILES if packing == "bfloat16 tiles" else ())
    for packing in PACKINGS
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("packing", EACH_PACKING)
@pytest.mark.parametrize("is_tiled", [False, True])
def test_logits_are_those_of_the_model(family: str, packing: str, is_tiled: bool) -> None:
    changes = WIDE if packing == "Q4_K" else {}
    if changes and family == "deepseek_v3":
        changes = changes | {"q_lora_rank": 256, "moe_intermediate_size": 256}
    made = filled(FAMILIES[family](**changes), packing, is_tiled=is_tiled)
    difference = worst(by_decoder(made, SEQUENCES), by_module(made, SEQUENCES))
    assert difference <= ROUNDINGS, f"logits differ by {difference:.1e}"


@pytest.mark.parametrize(
    "changes",
    [
        {"sliding_window": 7},
        {"attention_bias": True, "mlp_bias": True},
        {"tie_word_embeddings": True},
        {"rope": YARN},
        {"rope": LLAMA3},
        {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16},
        {"num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 2},
        {"num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 18},
        {"num_attention_heads": 21, "num_key_value_heads": 3, "head_dim": 40},
        {"hidden_size": 33, "intermediate_size": 17, "vocab_size": 100},
    ],
    ids=str,
)
def test_any_config_of_a_llama_gives_the_same(changes: dict[str, Any]) -> None:
    made = filled(llama(**changes))
    difference = worst(by_decoder(made, SEQUENCES), by_module(made, SEQUENCES))
    assert difference <= 1e-5, f"logits differ by {difference:.1e}"


@pytest.mark.parametrize("isa", [name for name, usable in kernels.features().items() if usable])
@pytest.mark.parametrize("num_threads", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_instruction_set_and_number_of_threads_gives_the_same(
    isa: str, num_threads: int, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOBOT_ISA", isa)
    for dtype, limit in [(torch.float32, 2e-6), (torch.bfloat16, 1e-2), (torch.float16, 1e-3)]:
        made = in_dtype(filled(FAMILIES[family](attention_bias=family != "mixtral")), dtype)
        found, exact = (
            by_decoder(made, SEQUENCES, num_threads=num_threads),
            by_module(in_dtype(made, torch.float32), SEQUENCES),
        )
        error = float(errors(found, exact).quantile(0.9))
        assert error <= limit, f"{dtype}: logits differ by {error:.1e}"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("family", "packing"), [*((family, "float32") for family in FAMILIES), ("llama", "Q8_0")]
)
def test_16_bit_models_come_nearer_to_float32_than_in_torch(
    family: str, dtype: torch.dtype, packing: str
) -> None:
    """With tiles, which then take activations as integers of 16 bits, and without. AMX takes many
    rows of tiles as bfloat16: nearer all the same."""
    is_rounded = packing != "float32" and kernels.isa() in ("amx", kernels.EMULATED_AMX)
    made = in_dtype(filled(FAMILIES[family](), packing, is_tiled=True), dtype)
    found, by_torch = by_decoder(made, SEQUENCES), by_module(made, SEQUENCES)
    exact = by_module(in_dtype(made, torch.float32), SEQUENCES)
    for share in (0.5, 0.9):
        step, reference = (float(errors(x, exact).quantile(share)) for x in (found, by_torch))
        assert step <= reference / (1 if is_rounded else 2), (
            f"error {step:.1e}, in torch {reference:.1e}"
        )


@pytest.mark.parametrize("isa", [name for name, usable in kernels.features().items() if usable])
@pytest.mark.parametrize("num_threads", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_tiles_of_odd_shapes_give_the_same_everywhere(
    isa: str, num_threads: int, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOBOT_ISA", isa)
    changes = {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 8}
    made = filled(FAMILIES[family](intermediate_size=160, **changes), "Q8_0", is_tiled=True)
    found = by_decoder(made, SEQUENCES, num_threads=num_threads)
    difference = worst(found, by_module(made, SEQUENCES))
    assert difference <= 1e-5, f"logits differ by {difference:.1e}"


def nudged(model: Any, seed: int) -> Any:
    """The model with every weight of its norms moved by one rounding, up or down."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            ups = torch.randint(0, 2, parameter.shape, generator=generator)
            parameter *= 1 + (2 * ups - 1) * 2.0**-23
    return model


@NEEDS_TILES
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("packing", ["Q8_0", "mxfp4"])
def test_8_bit_activations_are_those_of_the_model(family: str, packing: str) -> None:
    """Tokens agree as closely as floats do until a last bit makes a code another one: an error
    such as 8 bits have anyway, which all later tokens see. Where it reaches most of them (with
    latents: 8.0e-3), one rounding of the model's own norms must do as much to the model.
    """
    if kernels.isa() in ("amx", kernels.EMULATED_AMX):
        pytest.skip("rows for a matrix unit are rounded to bfloat16 instead")

    def made() -> Any:
        return filled(FAMILIES[family](), packing, is_tiled=True, activations="int8")

    found, by_products = by_decoder(made(), SEQUENCES), by_module(made(), SEQUENCES)
    exact = by_module(filled(FAMILIES[family](), packing, is_tiled=True), SEQUENCES)
    chosen = float(errors(by_products, exact).median())
    assert 1e-3 <= chosen <= 0.1, f"8 bits: {chosen:.1e}"
    step = errors(found, exact).median()
    assert abs(float(step) / chosen - 1) <= 0.1, f"decoder {step:.1e}, products {chosen:.1e}"
    differences = errors(found, by_products)
    closest, difference = float(differences.quantile(0.1)), float(differences.median())
    assert closest <= 1e-6, f"the first tokens differ by {closest:.1e}"
    if difference > chosen / 4:
        moved = [by_module(nudged(made(), seed), SEQUENCES) for seed in range(3)]
        own = max(float(errors(found, by_products).median()) for found in moved)
        assert difference <= 1.25 * own, f"{difference:.1e}, a rounding of norms makes {own:.1e}"


@NEEDS_TILES
def test_8_bit_activations_give_the_same_tokens_in_a_batch_as_alone() -> None:
    model = filled(llama(), "Q8_0", is_tiled=True, activations="int8")
    params = SamplingParams(temperature=0.0, max_tokens=12)
    config = EngineConfig(max_num_seqs=5, max_num_batched_tokens=24, block_size=4, num_blocks=128)

    def tokens(prompts: list[list[int]]) -> list[list[int]]:
        engine = Engine(model, config)
        answers: dict[int, list[int]] = {engine.add(prompt, params): [] for prompt in prompts}
        while engine.has_unfinished():
            for output in engine.step():
                assert output.token_id is not None
                answers[output.request_id].append(output.token_id)
        return list(answers.values())

    assert tokens(SEQUENCES) == [tokens([ids])[0] for ids in SEQUENCES]


def test_several_blocks_and_sizes_of_steps_give_the_same() -> None:
    made = filled(llama(sliding_window=5))
    expected = by_module(made, SEQUENCES)
    for most, block_size in [(1, 1), (3, 16), (16, 7)]:
        found = by_decoder(made, SEQUENCES, most=most, block_size=block_size)
        assert worst(found, expected) <= 1e-5


def outputs(made: Llama, is_fused: bool) -> list[tuple[list[int], list[float]]]:
    """Ids and log-probabilities of four requests that run together, in small steps."""
    config = EngineConfig(max_num_batched_tokens=fused.MAX_TOKENS, block_size=4, num_blocks=64)
    engine = Engine(made, config)
    assert engine.runner.fused is not None
    if not is_fused:
        engine.runner.fused = None
    results: dict[int, tuple[list[int], list[float]]] = {}
    for prompt in SEQUENCES:
        params = SamplingParams(max_tokens=12, temperature=0, logprobs=1, ignore_eos=True)
        results[engine.add(prompt, params)] = ([], [])
    while engine.has_unfinished():
        for output in engine.step():
            ids, logprobs = results[output.request_id]
            assert output.token_id is not None and output.logprob is not None
            ids.append(output.token_id)
            logprobs.append(output.logprob)
    return [result for _, result in sorted(results.items())]


@pytest.mark.parametrize("window", [None, 7])
def test_requests_get_the_same_answers_either_way(window: int | None) -> None:
    made = filled(llama(sliding_window=window))
    for (fused_ids, by_step), (ids, plain) in zip(
        outputs(made, True), outputs(made, False), strict=True
    ):
        assert fused_ids == ids
        difference = max(abs(a - b) for a, b in zip(by_step, plain, strict=True))
        assert difference <= 2e-5, f"log-probabilities differ by {difference:.1e}"


def test_other_models_run_as_they_are() -> None:
    made = filled(llama())
    made.model.layers[0].mlp.up_proj = torch.nn.Linear(64, 96, bias=False)
    engine = Engine(made, EngineConfig(num_blocks=8))
    assert engine.runner.fused is None
    engine.add([1, 2, 3], SamplingParams(max_tokens=2, temperature=0))
    while engine.has_unfinished():
        engine.step()


@pytest.mark.parametrize(
    ("chunks", "rows"),
    [
        ([(0, [61], [0])], [0]),
        ([(0, [-1], [0])], [0]),
        ([(0, [1], [3])], [0]),
        ([(0, [1], [-1])], [0]),
        ([(0, [1], [])], [0]),
        ([(4, [1], [0])], [0]),
        ([(-1, [1], [0])], [0]),
        ([(1 << 40, [1], [0])], [0]),
        ([(0, [1], [0])], [1]),
        ([(0, [1], [0])], [-1]),
        ([(0, [1], [0])], [0, 0]),
        ([], [0]),
    ],
)
def test_a_step_outside_the_cache_or_the_vocabulary_is_refused(
    chunks: list[Any], rows: list[int]
) -> None:
    made = filled(llama())
    decoder = fused.fused_decoder(
        made, KVCache(made.kv_specs(), 3, 4, torch.float32, torch.device("cpu"))
    )
    assert decoder is not None
    with pytest.raises(ValueError):
        decoder.native.step(chunks, rows, torch.zeros(len(rows), 61).numpy(), 1)


def test_logits_of_another_shape_are_refused() -> None:
    made = filled(llama())
    decoder = fused.fused_decoder(
        made, KVCache(made.kv_specs(), 3, 4, torch.float32, torch.device("cpu"))
    )
    assert decoder is not None
    for shape in [(1, 60), (2, 61), (0, 61)]:
        with pytest.raises(ValueError):
            decoder.native.step([(0, [1], [0])], [0], torch.zeros(shape).numpy(), 1)
    decoder.native.step([(0, [1], [0])], [], torch.zeros(0, 61).numpy(), 1)


CACHES = {
    "too short": lambda: torch.zeros(12, 2, 16),
    "another dtype": lambda: torch.zeros(12, 2, 32, dtype=torch.bfloat16),
    "integers": lambda: torch.zeros(12, 2, 32, dtype=torch.int16),
}


@pytest.mark.parametrize("values", CACHES.values(), ids=CACHES)
def test_arrays_that_do_not_fit_are_refused(values: Any) -> None:
    made = filled(llama())
    cache = KVCache(made.kv_specs(), 3, 4, torch.float32, torch.device("cpu"))
    cache.values[1] = values()
    with pytest.raises((ValueError, TypeError)):
        fused.fused_decoder(made, cache)


@pytest.mark.parametrize("rope", [RopeParameters(), YARN, LLAMA3], ids=lambda rope: rope.kind)
def test_angles_of_far_positions_are_those_of_the_model(rope: RopeParameters) -> None:
    """One layer and two keys in sight: the first token sees one that was never written, the others
    only each other's.
    """
    first = 131_000
    made = filled(llama(rope=rope, sliding_window=2, num_hidden_layers=1))
    cache = KVCache(made.kv_specs(), 1, 1 << 17, torch.float32, torch.device("cpu"))
    decoder = fused.fused_decoder(made, cache)
    assert decoder is not None
    logits_RV = torch.empty(3, 61)
    decoder.native.step([(first, [5, 6, 7], [0])], [0, 1, 2], logits_RV.numpy(), 1)
    hidden_TD = made(torch.tensor([5, 6, 7]), first + torch.arange(3), PackedAttention())
    difference = worst([logits_RV[1:]], [made.logits(hidden_TD)[1:]])
    assert difference <= 1e-5, f"logits differ by {difference:.1e}"
