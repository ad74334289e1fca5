"""The layers of each family as the C++ decoder takes them (`kernels.decoder`): matrices, biases and
rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bobot import kernels
from bobot.layers.context import AttentionSpec
from bobot.layers.linear import Linear
from bobot.layers.mlp import SwiGLU
from bobot.models.gpt_oss import GptOss, GptOssLayer
from bobot.models.llama import Llama, LlamaLayer
from bobot.models.mixtral import Mixtral, MixtralLayer
from bobot.quant.native import packed_rows
from bobot.quant.tiles import TileFormat
from bobot.quant.weight import QuantWeight, Weight

Arguments = dict[str, Any]
PLAIN_SWIGLU = {"alpha": 1.0, "limit": math.inf, "up_offset": 0.0}
ONE_NETWORK = {"router": None, "num_experts": 1, "num_active": 1}


class NoKernelError(Exception):
    """A part of the model that only its own code can compute."""


TILE_PARTS = 6
"""Of a matrix of tiles, as the kernels take it; packed rows have five."""


def matrix(weight: Weight) -> kernels.Matrix:
    """A matrix, or those of all experts one behind the other."""
    if isinstance(weight, QuantWeight) and isinstance(weight.format, TileFormat):
        return *weight.format.layout.arguments(), weight.parts["tiles"].flatten()
    packed = packed_rows(weight)
    if packed is None or not packed.has_kernel:
        raise NoKernelError
    if weight.ndim == 3 and weight.shape[1] % packed.rows_per_scale:
        raise NoKernelError
    return packed.arguments()


def floats(vector: Tensor) -> Tensor:
    return vector.detach().float().contiguous()


def linear(module: nn.Module) -> tuple[kernels.Matrix, Tensor | None]:
    if type(module) is not Linear:
        raise NoKernelError
    bias: Tensor | None = module.bias
    return matrix(module.weight), None if bias is None else floats(bias)


def attention(layer: Any) -> Arguments:
    """Norms and grouped-query attention, alike in all families."""
    spec: AttentionSpec = layer.self_attn.spec
    return {
        "attention_norm": floats(layer.input_layernorm.weight),
        "mlp_norm": floats(layer.post_attention_layernorm.weight),
        **{name: linear(layer.self_attn.get_submodule(f"{name}_proj")) for name in "qkvo"},
        "sinks": None,
        "window": spec.sliding_window or 0,
        "scale": spec.scale,
        "softcap": spec.logit_softcap or 0.0,
    }


def llama_layer(layer: LlamaLayer) -> Arguments:
    mlp: SwiGLU = layer.mlp
    matrices = {
        "gate": linear(mlp.gate_proj),
        "up": linear(mlp.up_proj),
        "down": linear(mlp.down_proj),
    }
    return attention(layer) | matrices | ONE_NETWORK | PLAIN_SWIGLU


def mixtral_layer(layer: MixtralLayer) -> Arguments:
    moe = layer.block_sparse_moe
    experts = moe.experts
    matrices = {
        "router": linear(moe.gate),
        "gate": (matrix(experts.w1), None),
        "up": (matrix(experts.w3), None),
        "down": (matrix(experts.w2), None),
        "num_experts": moe.gate.out_features,
        "num_active": moe.num_active,
    }
    return attention(layer) | matrices | PLAIN_SWIGLU


def gpt_oss_layer(layer: GptOssLayer) -> Arguments:
    mlp, experts = layer.mlp, layer.mlp.experts
    return attention(layer) | {
        "sinks": floats(layer.self_attn.sinks),
        "router": linear(mlp.router),
        "gate": (matrix(experts.gate_up_proj), floats(experts.gate_up_proj_bias).flatten()),
        "up": None,
        "down": (matrix(experts.down_proj), floats(experts.down_proj_bias).flatten()),
        "num_experts": mlp.router.out_features,
        "num_active": mlp.num_active,
        "alpha": experts.alpha,
        "limit": experts.limit,
        "up_offset": 1.0,
    }


LAYERS: dict[type[nn.Module], Callable[[Any], Arguments]] = {
    Llama: llama_layer,
    Mixtral: mixtral_layer,
    GptOss: gpt_oss_layer,
}
CACHE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
