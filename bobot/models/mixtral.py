"""Mixtral 8x7B and 8x22B (arXiv:2401.04088): a Llama whose MLP is a mixture of experts.

The router is a plain linear layer; softmax over all experts in float32, the best few, and those
renormalised to sum 1 (transformers modeling_mixtral.py 106-108). Published forms and their names:
`mixtral_dialects.py`.

Axes as in llama.py; E experts, A active experts of a token, F intermediate.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bobot.layers.attention import GroupedQueryAttention
from bobot.layers.context import AttentionContext
from bobot.layers.linear import Linear
from bobot.layers.norm import RMSNorm
from bobot.models.config import check_active_experts
from bobot.models.llama import Llama, LlamaConfig
from bobot.ops.linear import linear
from bobot.ops.moe import mixture_of_experts


@dataclass(frozen=True, kw_only=True)
class MixtralConfig(LlamaConfig):
    """Llama's settings and the number of experts."""

    num_local_experts: int
    num_experts_per_tok: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_active_experts(self.num_experts_per_tok, self.num_local_experts)


class MixtralExperts(nn.Module):
    """All experts of a layer, stacked: gate w1 and up w3 (E, F, D), down w2 (E, D, F)."""

    def __init__(self, config: MixtralConfig) -> None:
        super().__init__()
        e, f, d = config.num_local_experts, config.intermediate_size, config.hidden_size
        self.w1 = nn.Parameter(torch.empty(e, f, d))
        self.w2 = nn.Parameter(torch.empty(e, d, f))
        self.w3 = nn.Parameter(torch.empty(e, f, d))

    def run(self, e: int, x_RD: Tensor) -> Tensor:
        """Expert e, a SwiGLU network: (R, D)."""
        hidden_RF = F.silu(linear(x_RD, self.w1[e])) * linear(x_RD, self.w3[e])
        return linear(hidden_RF, self.w2[e])


class MixtralSparseMoe(nn.Module):
    """Router and experts."""

    def __init__(self, config: MixtralConfig) -> None:
        super().__init__()
        self.gate = Linear(config.hidden_size, config.num_local_experts, bias=False)
        self.experts = MixtralExperts(config)
        self.num_active = config.num_experts_per_tok

    def forward(self, x_TD: Tensor) -> Tensor:
        probs_TE = self.gate(x_TD).softmax(-1, dtype=torch.float32)
        weights_TA, experts_TA = probs_TE.topk(self.num_active, dim=-1)
        weights_TA = (weights_TA / weights_TA.sum(-1, keepdim=True)).to(x_TD.dtype)
        return mixture_of_experts(x_TD, experts_TA, weights_TA, self.experts.run)


class MixtralLayer(nn.Module):
    def __init__(self, config: MixtralConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = GroupedQueryAttention(config.hidden_size, config.attention_spec())
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.block_sparse_moe = MixtralSparseMoe(config)

    def forward(
        self, x_TD: Tensor, cos: Tensor, sin: Tensor, layer: int, attn: AttentionContext
    ) -> Tensor:
        x_TD = x_TD + self.self_attn(self.input_layernorm(x_TD), cos, sin, layer, attn)
        return x_TD + self.block_sparse_moe(self.post_attention_layernorm(x_TD))


class Mixtral(Llama):
    """A Llama with Mixtral's layers."""

    layer_class = MixtralLayer
