"""The layers of each family as the C++ decoder takes them (`kernels.decoder`): matrices, biases and
rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from bobot import kernels
from bobot.layers.context import AttentionSpec
from bobot.layers.linear import Linear
from bobot.layers.mlp import SwiGLU
from bobot.layers.norm import RMSNorm
from bobot.models.deepseek_v3 import (
    LATENT_EPS,
    DeepseekV3,
    DeepseekV3Layer,
    DeepseekV3MoE,
    LatentAttention,
)
from bobot.models.gpt_oss import GptOss, GptOssLayer
from bobot.models.grok1 import Grok1, Grok1Layer
from bobot.models.llama import Llama, LlamaLayer
from bobot.models.mixtral import Mixtral, MixtralLayer
from bobot.quant.native import packed_rows
from bobot.quant.tiles import TileFormat, tiled
from bobot.quant.weight import QuantWeight, Weight

Arguments = dict[str, Any]
Layer = dict[str, Arguments]
"""The parts of a layer in order: attention or latent_attention, mlp and, where there are experts,
router, and shared if every token passes one.
"""
LinearParts = tuple[kernels.Matrix, Tensor | None]
SWIGLU = {"alpha": 1.0, "cubic": 0.0, "limit": math.inf, "up_offset": 0.0}
GELU = SWIGLU | {"alpha": 2 * math.sqrt(2 / math.pi), "cubic": 0.044715}
"""With tanh, whose (1 + tanh(x)) / 2 is sigmoid(2 x)."""


class NoKernelError(Exception):
    """A part of the model that only its own code can compute."""


TILE_PARTS = 6
"""Of a matrix of tiles, as the kernels take it; packed rows have five."""
COPIED_BYTES = 1 << 24
"""Of a matrix that lies input by input (xAI's order) and is copied row by row: a router, or all of
a small model. Large packed ones are tiles, large plain ones are left to the model."""


def matrix(weight: Weight) -> kernels.Matrix:
    """A matrix, or those of all experts one behind the other."""
    if isinstance(weight, QuantWeight) and isinstance(weight.format, TileFormat):
        return *weight.format.layout.arguments(), weight.parts["tiles"].flatten()
    if isinstance(weight, Tensor) and weight.nbytes <= COPIED_BYTES:
        weight = weight.detach().contiguous()
    packed = packed_rows(weight)
    if packed is None or not packed.is_known:
        raise NoKernelError
    if not packed.values.is_contiguous():
        if packed.values.nbytes > COPIED_BYTES:
            raise NoKernelError
        packed = replace(packed, values=packed.values.contiguous())
    if weight.ndim == 3 and weight.shape[1] % packed.rows_per_scale:
        raise NoKernelError
    return packed.arguments()


PARTS = {
    **{f"{name}_proj": name for name in ("q", "k", "v", "o", "gate", "up", "down")},
    "q_a_proj": "q_a",
    "q_b_proj": "q",
    "kv_a_proj_with_mqa": "kv_a",
    "gate": "router",
    "router": "router",
}
"""Linear layers that every token passes, by the last part of their names -> what the C++ decoder
calls them."""


def place_of(name: str) -> tuple[int, str]:
    """A linear layer's decoder layer and part: model.layers.3.mlp.up_proj is up of layer 3."""
    _, _, layer, *path = name.split(".")
    part = PARTS[path[-1]]
    return int(layer), f"shared {part}" if "shared_experts" in path else part


def floats(vector: Tensor) -> Tensor:
    return vector.detach().float().contiguous()


def linear(module: nn.Module) -> LinearParts:
    if type(module) is not Linear:
        raise NoKernelError
    bias: Tensor | None = module.bias
    return matrix(module.weight), None if bias is None else floats(bias)


def attention(
    attn: Any, norm: RMSNorm, norm_after: RMSNorm | None = None, sinks: Tensor | None = None
) -> Arguments:
    """Grouped-query attention, alike in all families but one."""
    spec: AttentionSpec = attn.spec
    return {
        "norm": floats(norm.weight),
        "norm_after": None if norm_after is None else floats(norm_after.weight),
        **{name: linear(attn.get_submodule(f"{name}_proj")) for name in "qkvo"},
        "sinks": None if sinks is None else floats(sinks),
        "window": spec.sliding_window or 0,
        "scale": spec.scale,
        "softcap": spec.logit_softcap or 0.0,
    }


def latent_attention(attn: LatentAttention, norm: RMSNorm) -> Arguments:
    """MLA. Both halves of kv_b are copied, in the order in which they are multiplied: 0.05 % of
    Kimi K2's bytes once more.
    """
    has_latent = attn.config.q_lora_rank is not None
    key_NPC, value_NUC = attn.halves_of_kv_b()
    return {
        "norm": floats(norm.weight),
        "q_a": linear(attn.q_a_proj) if has_latent else None,
        "q_norm": floats(attn.q_a_layernorm.weight) if has_latent else None,
        "q": linear(attn.q_b_proj if has_latent else attn.q_proj),
        "kv_a": linear(attn.kv_a_proj_with_mqa),
        "kv_norm": floats(attn.kv_a_layernorm.weight),
        "latent_eps": LATENT_EPS,
        "key": (matrix(tiled(key_NPC.detach().transpose(1, 2).contiguous())), None),
        "value": (matrix(tiled(value_NUC.detach().contiguous())), None),
        "o": linear(attn.o_proj),
        "scale": attn.spec.scale,
    }


def router(
    linear: LinearParts,
    num_experts: int,
    num_active: int,
    scores: str = "softmax of chosen",
    **rules: Any,
) -> Arguments:
    """Who picks among experts, if there is a choice."""
    if num_experts == 1:
        raise NoKernelError
    return {
        "router": linear,
        "num_active": num_active,
        "scores": scores,
        "choice_bias": None,
        "num_groups": 1,
        "num_best_groups": 1,
        "factor": 1.0,
        **rules,
    }


def swiglu(mlp: SwiGLU) -> Arguments:
    return {name: linear(mlp.get_submodule(f"{name}_proj")) for name in ("gate", "up", "down")}


def llama_layer(layer: LlamaLayer) -> Layer:
    return {
        "attention": attention(layer.self_attn, layer.input_layernorm),
        "mlp": {
            "norm": floats(layer.post_attention_layernorm.weight),
            "norm_after": None,
            "num_experts": 1,
            **swiglu(layer.mlp),
            **SWIGLU,
        },
    }


def mixtral_layer(layer: MixtralLayer) -> Layer:
    moe = layer.block_sparse_moe
    experts = moe.experts
    return {
        "attention": attention(layer.self_attn, layer.input_layernorm),
        "mlp": {
            "norm": floats(layer.post_attention_layernorm.weight),
            "norm_after": None,
            "gate": (matrix(experts.w1), None),
            "up": (matrix(experts.w3), None),
            "down": (matrix(experts.w2), None),
            "num_experts": moe.gate.out_features,
            **SWIGLU,
        },
        "router": router(linear(moe.gate), moe.gate.out_features, moe.num_active),
    }


def gpt_oss_layer(layer: GptOssLayer) -> Layer:
    mlp, experts = layer.mlp, layer.mlp.experts
    sinks = layer.self_attn.sinks
    return {
        "attention": attention(layer.self_attn, layer.input_layernorm, sinks=sinks),
        "mlp": {
            "norm": floats(layer.post_attention_layernorm.weight),
            "norm_after": None,
            "gate": (matrix(experts.gate_up_proj), floats(experts.gate_up_proj_bias).flatten()),
            "up": None,
            "down": (matrix(experts.down_proj), floats(experts.down_proj_bias).flatten()),
            "num_experts": mlp.router.out_features,
            "alpha": experts.alpha,
            "cubic": 0.0,
            "limit": experts.limit,
            "up_offset": 1.0,
        },
        "router": router(linear(mlp.router), mlp.router.out_features, mlp.num_active),
    }


def grok1_layer(layer: Grok1Layer) -> Layer:
    moe = layer.moe_block
    return {
        "attention": attention(layer.attn, layer.pre_attn_norm, layer.post_attn_norm),
        "mlp": {
            "norm": floats(layer.pre_moe_norm.weight),
            "norm_after": floats(layer.post_moe_norm.weight),
            "gate": (matrix(moe.experts.linear), None),
            "up": (matrix(moe.experts.linear_v), None),
            "down": (matrix(moe.experts.linear_1), None),
            "num_experts": moe.gate.out_features,
            **GELU,
        },
        "router": router(linear(moe.gate), moe.gate.out_features, moe.num_active, "softmax of all"),
    }


def deepseek_v3_layer(layer: DeepseekV3Layer) -> Layer:
    parts = {"latent_attention": latent_attention(layer.self_attn, layer.input_layernorm)}
    mlp = {"norm": floats(layer.post_attention_layernorm.weight), "norm_after": None, **SWIGLU}
    if isinstance(layer.mlp, SwiGLU):
        return parts | {"mlp": mlp | {"num_experts": 1, **swiglu(layer.mlp)}}
    moe: DeepseekV3MoE = layer.mlp
    gate, experts = moe.gate, moe.experts
    config = gate.config
    matrices = {
        "gate": (matrix(experts.gate_proj), None),
        "up": (matrix(experts.up_proj), None),
        "down": (matrix(experts.down_proj), None),
    }
    return parts | {
        "mlp": mlp | {"num_experts": config.n_routed_experts, **matrices},
        "router": router(
            (matrix(gate.weight), None),
            config.n_routed_experts,
            config.num_experts_per_tok,
            "normalized sigmoid" if config.norm_topk_prob else "sigmoid",
            choice_bias=floats(gate.e_score_correction_bias),
            num_groups=config.n_group,
            num_best_groups=config.topk_group,
            factor=config.routed_scaling_factor,
        ),
        "shared": swiglu(moe.shared_experts),
    }


@dataclass(frozen=True, kw_only=True)
class Family:
    """How the layers of a model become arguments, and what is special outside of them."""

    layer: Callable[[Any], Layer]
    embedding_factor: Callable[[Any], float] = lambda config: 1.0
    logits_factor: Callable[[Any], float] = lambda config: 1.0
    hidden_id: Callable[[Any], int | None] = lambda config: None
    """The token that nobody attends to."""


FAMILIES: dict[type[nn.Module], Family] = {
    Llama: Family(layer=llama_layer),
    Mixtral: Family(layer=mixtral_layer),
    GptOss: Family(layer=gpt_oss_layer),
    DeepseekV3: Family(layer=deepseek_v3_layer),
    Grok1: Family(
        layer=grok1_layer,
        embedding_factor=lambda config: config.embedding_multiplier_scale,
        logits_factor=lambda config: config.output_multiplier_scale,
        hidden_id=lambda config: config.pad_token_id,
    ),
}
CACHE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
