"""Llama 3.1 405B and Mixtral at their real size: every tensor of the published files has its place,
and one layer of 405B runs.

Names and shapes are written out here from ../shared/parity/FAMILIES.md; nothing of that size is
allocated but for the one layer.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from bobot.layers.context import PackedAttention
from bobot.models import registry
from bobot.models.llama import LlamaLayer
from bobot.ops.rope import inverse_frequencies, rotation
from bobot.weights.source import build_on_meta, source_names

LLAMA_405B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 16384,
    "intermediate_size": 53248,
    "num_hidden_layers": 126,
    "num_attention_heads": 128,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def mixtral(hidden: int, ffn: int, layers: int, heads: int, context: int) -> dict[str, Any]:
    return {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "vocab_size": 32000,
        "max_position_embeddings": context,
        "rms_norm_eps": 1e-05,
        "rope_theta": 1e6,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }


SIZES = {
    "llama3.1 405b": (LLAMA_405B, 405_853_388_800, 811.71),
    "mixtral 8x7b": (mixtral(4096, 14336, 32, 32, 32768), 46_702_792_704, 93.41),
    "mixtral 8x22b": (mixtral(6144, 16384, 56, 48, 65536), 140_620_634_112, 281.24),
}


def published_index(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor in the publisher's safetensors files."""
    d, f, v = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    kv = d // config["num_attention_heads"] * config["num_key_value_heads"]
    index: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (v, d),
        "model.norm.weight": (d,),
        "lm_head.weight": (v, d),
    }
    for n in range(config["num_hidden_layers"]):
        layer = f"model.layers.{n}."
        for part, rows, columns in (("q", d, d), ("k", kv, d), ("v", kv, d), ("o", d, d)):
            index[f"{layer}self_attn.{part}_proj.weight"] = (rows, columns)
        index[f"{layer}input_layernorm.weight"] = (d,)
        index[f"{layer}post_attention_layernorm.weight"] = (d,)
        if "num_local_experts" not in config:
            index[f"{layer}mlp.gate_proj.weight"] = (f, d)
            index[f"{layer}mlp.up_proj.weight"] = (f, d)
            index[f"{layer}mlp.down_proj.weight"] = (d, f)
            continue
        index[f"{layer}block_sparse_moe.gate.weight"] = (config["num_local_experts"], d)
        for e in range(config["num_local_experts"]):
            expert = f"{layer}block_sparse_moe.experts.{e}."
            index |= {f"{expert}w1.weight": (f, d), f"{expert}w2.weight": (d, f)}
            index[f"{expert}w3.weight"] = (f, d)
    return index


@pytest.mark.parametrize("name", SIZES)
def test_every_published_tensor_has_its_place(name: str) -> None:
    raw, num_parameters, gigabytes = SIZES[name]
    source: Any = SimpleNamespace(config=raw, tensors={}, num_shards=1)
    family = registry.family_of(source, "hf")
    dialect = family.dialects["hf"]
    model = build_on_meta(family, dialect.config(source))
    found: dict[str, tuple[int, ...]] = {}
    for ours, parameter in model.named_parameters():
        shape = tuple(parameter.shape)
        theirs = source_names(ours, shape, dialect)
        for name_there in theirs:
            found[name_there] = shape if len(theirs) == 1 else shape[1:]
    assert found == published_index(raw)
    count = sum(math.prod(shape) for shape in found.values())
    assert count == num_parameters
    assert round(2 * count / 1e9, 2) == gigabytes, "bytes in bf16"


@pytest.mark.slow
@torch.no_grad()
def test_one_layer_of_405b_runs_at_real_size() -> None:
    """6.4 GB of random bfloat16, against the same layer written out in float32."""
    torch.manual_seed(0)
    source: Any = SimpleNamespace(config=LLAMA_405B, tensors={}, num_shards=1)
    config = registry.family_of(source, "hf").dialects["hf"].config(source)
    with torch.device("meta"):
        layer = LlamaLayer(config)
    layer = layer.to(torch.bfloat16).to_empty(device="cpu")
    for parameter in layer.parameters():
        _ = parameter.fill_(1.0) if parameter.ndim == 1 else parameter.normal_(std=0.02)
    x_TD = torch.randn(3, config.hidden_size).to(torch.bfloat16)
    frequencies = inverse_frequencies(config.rope, config.head_dim)
    cos, sin = rotation(torch.arange(3), frequencies, torch.bfloat16)
    found = layer(x_TD, cos, sin, 0, PackedAttention())

    def normed(x: torch.Tensor) -> torch.Tensor:
        return x * (x.square().mean(-1, keepdim=True) + config.rms_norm_eps).rsqrt()

    # The first token sees itself alone, so its attention is its own values, repeated per group.
    x_D = x_TD[:1].float()
    values = F.linear(normed(x_D), layer.self_attn.v_proj.weight.float())
    heads = values.view(8, 1, 128).expand(8, 16, 128).reshape(1, -1)
    x_D = x_D + F.linear(heads, layer.self_attn.o_proj.weight.float())
    gate = F.linear(normed(x_D), layer.mlp.gate_proj.weight.float())
    up = F.linear(normed(x_D), layer.mlp.up_proj.weight.float())
    wanted = x_D + F.linear(F.silu(gate) * up, layer.mlp.down_proj.weight.float())
    worst = ((found[:1] - wanted).abs().max() / wanted.abs().max()).item()
    assert worst < 2e-2, f"{worst:.1e} of the largest output, in bfloat16"
