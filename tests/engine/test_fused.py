"""The layer stack in one C++ call gives what the model gives, through the same cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bobot import kernels
from bobot.engine import Engine, EngineConfig, SamplingParams
from bobot.engine.fused import MAX_TOKENS
from bobot.layers.linear import Linear
from bobot.models.llama import Llama, LlamaConfig
from bobot.quant.gguf_types import BLOCK_TYPES, quantize_q8_0, weight_from_blocks
from bobot.quant.grid import GRIDS, round_to_nearest

pytestmark = pytest.mark.skipif(not kernels.available, reason="the extension is not built")


def q8_0(weight: torch.Tensor) -> Any:
    kind = next(kind for kind in BLOCK_TYPES.values() if kind.name == "Q8_0")
    return weight_from_blocks(kind, quantize_q8_0(weight).view(len(weight), -1))


PACKINGS = {
    "float32": None,
    "Q8_0": q8_0,
    "int8": lambda weight: round_to_nearest(weight, GRIDS["int8"]),
    "int4": lambda weight: round_to_nearest(weight, GRIDS["int4"]),
    "mxfp4": lambda weight: round_to_nearest(weight, GRIDS["mxfp4"]),
}


def model(packing: str = "float32", **changes: Any) -> Llama:
    torch.manual_seed(3)
    settings: dict[str, Any] = {
        "vocab_size": 61,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 128,
    }
    made = Llama(LlamaConfig(**settings | changes)).eval().requires_grad_(False)
    for module in made.modules():
        if isinstance(module, Linear):
            weight = torch.randn_like(module.weight) * 0.2
            pack = PACKINGS[packing] if module is not made.lm_head else None
            del module.weight
            module.weight = pack(weight) if pack else torch.nn.Parameter(weight, False)
    return made


def outputs(made: Llama, is_fused: bool) -> list[tuple[int, list[int], list[float]]]:
    """Ids and log-probabilities of four requests that run together, in small steps."""
    config = EngineConfig(max_num_batched_tokens=MAX_TOKENS, block_size=4, num_blocks=64)
    engine = Engine(made, config)
    assert engine.runner.fused is not None
    if not is_fused:
        engine.runner.fused = None
    prompts = [[1, 2, 3], list(range(40)), [*range(30), 7], [5] * 9]
    results: dict[int, tuple[list[int], list[float]]] = {}
    for prompt in prompts:
        params = SamplingParams(max_tokens=12, temperature=0, logprobs=1, ignore_eos=True)
        results[engine.add(prompt, params)] = ([], [])
    while engine.has_unfinished():
        for output in engine.step():
            ids, logprobs = results[output.request_id]
            assert output.token_id is not None and output.logprob is not None
            ids.append(output.token_id)
            logprobs.append(output.logprob)
    return [(n, *result) for n, result in sorted(results.items())]


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("window", [None, 7])
def test_requests_get_the_same_answers_either_way(packing: str, window: int | None) -> None:
    made = model(packing, sliding_window=window)
    for (_, fused_ids, fused), (_, ids, plain) in zip(
        outputs(made, True), outputs(made, False), strict=True
    ):
        assert fused_ids == ids
        worst = max(abs(a - b) for a, b in zip(fused, plain, strict=True))
        assert worst <= 1e-5, f"log-probabilities differ by {worst:.1e}"


@pytest.mark.parametrize("heads", [(4, 4), (8, 1)])
def test_any_grouping_of_heads_gives_the_same(heads: tuple[int, int]) -> None:
    made = model(num_attention_heads=heads[0], num_key_value_heads=heads[1], head_dim=16)
    assert [ids for _, ids, _ in outputs(made, True)] == [ids for _, ids, _ in outputs(made, False)]


@pytest.mark.parametrize(
    "made",
    [
        lambda: model(attention_bias=True),
        lambda: model().to(torch.bfloat16),
    ],
    ids=["biases", "bfloat16"],
)
def test_other_models_run_as_they_are(made: Any) -> None:
    engine = Engine(made(), EngineConfig(num_blocks=8))
    assert engine.runner.fused is None
    engine.add([1, 2, 3], SamplingParams(max_tokens=2, temperature=0))
    while engine.has_unfinished():
        engine.step()


def test_a_step_outside_the_cache_is_refused() -> None:
    engine = Engine(model(), EngineConfig(num_blocks=4, block_size=4))
    fused = engine.runner.fused
    assert fused is not None
    x, angles = torch.zeros(1, 64), torch.zeros(1, 16)
    one, zero = torch.tensor([1]), torch.tensor([0])
    for slots, first, length in [
        (torch.tensor([16]), zero, one),
        (torch.tensor([-1]), zero, one),
        (zero, one, one),
        (zero, zero, torch.tensor([2])),
        (zero, zero, zero),
    ]:
        with pytest.raises(ValueError):
            fused.native.step(x, angles, angles, slots, first, length)
    with pytest.raises(ValueError):
        fused.native.step(torch.zeros(1, 63), angles, angles, zero, zero, one)
