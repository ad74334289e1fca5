"""What only some families have in a fused step: latents, norms behind a branch, routers' rules,
padding. Also parts that do not fit together.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_decoders import by_decoder, by_module, deepseek_v3, filled, grok1, in_dtype

from bobot import kernels
from bobot.engine.fused import fused_decoder
from bobot.engine.fused_layers import FAMILIES
from bobot.engine.kv_cache import KVCache

pytestmark = pytest.mark.skipif(not kernels.available, reason="the extension is not built")

SEQUENCES = [[1, 2, 3], list(range(40)), [*range(30), 0, 7, 0, 0, 9], [5] * 9, [0]]


@pytest.fixture(autouse=True)
def without_grad() -> Any:
    with torch.inference_mode():
        yield


def worst(model: Any, **settings: Any) -> float:
    """The largest difference to the model's logits, in units of their deviation."""
    found, expected = (
        torch.cat(logits)
        for logits in (by_decoder(model, SEQUENCES, **settings), by_module(model, SEQUENCES))
    )
    return float((found - expected).abs().max() / expected.std())


@pytest.mark.parametrize(
    "changes",
    [
        {"q_lora_rank": None},
        {"norm_topk_prob": False},
        {"n_group": 1, "topk_group": 1},
        {"n_group": 3, "topk_group": 1, "num_experts_per_tok": 2},
        {"n_group": 2, "topk_group": 2},
        {"first_k_dense_replace": 0},
        {"first_k_dense_replace": 3, "intermediate_size": 256},
        {"num_attention_heads": 1},
        {"num_attention_heads": 21, "qk_nope_head_dim": 16},
        {"kv_lora_rank": 41, "q_lora_rank": 23, "qk_nope_head_dim": 5, "qk_rope_head_dim": 6},
        {"v_head_dim": 77, "moe_intermediate_size": 33, "num_attention_heads": 5},
        {"kv_lora_rank": 256, "qk_nope_head_dim": 64, "n_shared_experts": 1},
        {"hidden_size": 96, "vocab_size": 100, "n_routed_experts": 66, "num_experts_per_tok": 8},
    ],
    ids=str,
)
@pytest.mark.parametrize("most", [6, 60])
def test_any_config_of_a_deepseek_gives_the_same(changes: dict[str, Any], most: int) -> None:
    made = filled(deepseek_v3(**changes))
    difference = worst(made, most=most, num_threads=2)
    assert difference <= 2e-5, f"logits differ by {difference:.1e}"


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
@pytest.mark.parametrize("q_lora_rank", [64, None])
def test_latents_of_16_bits_are_those_of_their_rounded_matrices(
    kind: str, q_lora_rank: int | None
) -> None:
    """Both halves of kv_b are then tiles, where the kernels have vectors: against the same model
    widened to float32, so that only the cache rounds.
    """
    made = in_dtype(filled(deepseek_v3(q_lora_rank=q_lora_rank)), getattr(torch, kind))
    found = torch.cat(by_decoder(made, SEQUENCES, most=60))
    exact = torch.cat(by_module(in_dtype(made, torch.float32), SEQUENCES))
    error = float(((found - exact).square().mean(-1).sqrt() / exact.std()).median())
    assert error <= {"bfloat16": 6e-3, "float16": 8e-4}[kind], f"logits differ by {error:.1e}"


@pytest.mark.parametrize(
    "changes",
    [
        {"num_experts": 3, "num_experts_per_tok": 3},
        {"max_attn_value": 0.5},
        {"num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 2},
        {"hidden_size": 33, "intermediate_size": 17, "vocab_size": 100},
        {"pad_token_id": 5},
        {"tie_word_embeddings": False},
    ],
    ids=str,
)
def test_any_config_of_a_grok_gives_the_same(changes: dict[str, Any]) -> None:
    made = filled(grok1(**changes))
    for most in (6, 60):
        difference = worst(made, most=most, num_threads=2)
        assert difference <= 2e-5, f"logits differ by {difference:.1e}"  # sums in another order


def test_padding_hidden_in_an_earlier_request_is_seen_again_where_a_token_takes_its_slot() -> None:
    made = filled(grok1())
    cache = KVCache(made.kv_specs(), 2, 8, torch.float32, torch.device("cpu"))
    decoder = fused_decoder(made, cache)
    assert decoder is not None
    logits = [torch.empty(5, 61) for _ in range(3)]
    for ids, out in zip(([3, 4, 5, 6, 7], [0, 0, 0, 0, 0], [3, 4, 5, 6, 7]), logits, strict=True):
        decoder.native.step([(0, ids, [1])], [0, 1, 2, 3, 4], out.numpy(), 1)
    assert torch.equal(logits[0], logits[2]) and not torch.equal(logits[0], logits[1])


def test_a_single_expert_is_left_to_the_model() -> None:
    made = filled(grok1(num_experts=1, num_experts_per_tok=1))
    cache = KVCache(made.kv_specs(), 2, 8, torch.float32, torch.device("cpu"))
    assert fused_decoder(made, cache) is None


def parts_of(made: Any) -> tuple[Any, dict[str, Any]]:
    """A decoder of the model, and once more the parts of its last layer."""
    cache = KVCache(made.kv_specs(), 3, 4, torch.float32, torch.device("cpu"))
    decoder = fused_decoder(made, cache)
    assert decoder is not None
    layer = FAMILIES[type(made)].layer(made.model.layers[-1])
    for name in ("attention", "latent_attention"):
        if name in layer:
            layer[name]["keys"] = cache.keys[0]
    if "attention" in layer:
        layer["attention"]["values"] = cache.values[0]
    return decoder.native, layer


@pytest.mark.parametrize("part", ["mlp", "router", "shared"])
def test_parts_in_another_order_are_refused(part: str) -> None:
    native, layer = parts_of(filled(deepseek_v3()))
    native.add_latent_attention(**layer["latent_attention"])
    if part == "mlp":
        native.add_mlp(**layer["mlp"])
    with pytest.raises(ValueError):
        getattr(native, f"add_{part}")(**layer[part])
    with pytest.raises(ValueError):
        native.step([(0, [1], [0])], [0], torch.zeros(1, 61).numpy(), 1)


@pytest.mark.parametrize(
    "change",
    [
        {"q_a": None},
        {"q_norm": torch.ones(32)},
        {"kv_norm": torch.ones(33)},
        {"norm": torch.ones(63)},
        {"keys": torch.zeros(12, 1, 47)},
        {"keys": torch.zeros(12, 1, 48, dtype=torch.float16)},
        {"key": "value"},
        {"o": "q"},
    ],
    ids=str,
)
def test_latents_that_do_not_fit_are_refused(change: dict[str, Any]) -> None:
    native, layer = parts_of(filled(deepseek_v3(v_head_dim=24)))
    attention = layer["latent_attention"]
    changed = {n: attention[v] if isinstance(v, str) else v for n, v in change.items()}
    with pytest.raises(ValueError):
        native.add_latent_attention(**attention | changed)


@pytest.mark.parametrize(
    "change",
    [
        {"num_active": 0},
        {"num_active": 5},
        {"num_groups": 4},
        {"num_groups": 0},
        {"num_best_groups": 0},
        {"num_best_groups": 4},
        {"scores": "softmax"},
        {"choice_bias": torch.ones(5)},
    ],
    ids=str,
)
def test_routers_that_do_not_fit_are_refused(change: dict[str, Any]) -> None:
    native, layer = parts_of(filled(deepseek_v3()))
    native.add_latent_attention(**layer["latent_attention"])
    native.add_mlp(**layer["mlp"])
    with pytest.raises(ValueError):
        native.add_router(**layer["router"] | change)
    native.add_router(**layer["router"])


def test_a_latent_beside_heads_of_their_own_is_refused() -> None:
    native, layer = parts_of(filled(grok1()))
    _, other = parts_of(filled(deepseek_v3()))
    with pytest.raises(ValueError):
        native.add_latent_attention(**other["latent_attention"])
    native.add_attention(**layer["attention"])
