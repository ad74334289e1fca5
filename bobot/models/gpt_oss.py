"""gpt-oss-20b and gpt-oss-120b (arXiv:2508.10925): alternating windows, attention sinks, and a
mixture of clamped SwiGLU experts.

Source: openai/gpt-oss `gpt_oss/torch/model.py` (7b58334). Published forms and their names:
`gpt_oss_dialects.py`.

Axes: T packed tokens, R chosen rows, D hidden, N query heads, H head_dim, E experts, A active
experts of a token, F intermediate, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bobot.errors import ConfigError
from bobot.layers.attention import GroupedQueryAttention
from bobot.layers.causal import CausalLM
from bobot.layers.context import AttentionContext, AttentionSpec
from bobot.layers.decoder import Decoder
from bobot.layers.linear import Linear
from bobot.layers.norm import Float32RMSNorm
from bobot.models.config import check_active_experts
from bobot.models.llama import LlamaConfig
from bobot.ops.linear import linear
from bobot.ops.moe import mixture_of_experts
from bobot.ops.rope import apply_rope

SLIDING, FULL = "sliding_attention", "full_attention"


@dataclass(frozen=True, kw_only=True)
class GptOssConfig(LlamaConfig):
    """Llama's settings, the kind of each layer's attention, and the experts'."""

    layer_types: tuple[str, ...]
    """One per layer: sliding_attention (keys in the last `sliding_window` positions) or
    full_attention."""
    num_local_experts: int
    num_experts_per_tok: int
    swiglu_limit: float = 7.0
    swiglu_alpha: float = 1.702

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.layer_types) != self.num_hidden_layers:
            raise ConfigError(
                "layer_types names {found} layers; num_hidden_layers is {layers}.",
                hint="Download config.json again.",
                found=len(self.layer_types),
                layers=self.num_hidden_layers,
            )
        if unknown := set(self.layer_types) - {SLIDING, FULL}:
            raise ConfigError(
                "layer_types names the kind {found!r}; bobot knows {allowed}.",
                found=min(unknown),
                allowed=f"{SLIDING}, {FULL}",
            )
        if SLIDING in self.layer_types and self.sliding_window is None:
            raise ConfigError(
                "layer_types names sliding_attention, but sliding_window is missing.",
                hint="Download config.json again.",
            )
        check_active_experts(self.num_experts_per_tok, self.num_local_experts)

    def layer_spec(self, layer: int) -> AttentionSpec:
        """What that layer's attention looks like."""
        if self.layer_types[layer] == SLIDING:
            return self.attention_spec()
        return replace(self.attention_spec(), sliding_window=None)


class GptOssAttention(GroupedQueryAttention):
    """Grouped-query attention with biases, and one learned logit per head that joins each softmax
    and takes its share of the weight nowhere (an attention sink, arXiv:2309.17453)."""

    def __init__(self, config: GptOssConfig, layer: int) -> None:
        super().__init__(config.hidden_size, config.layer_spec(layer), bias=True)
        self.sinks = nn.Parameter(torch.zeros(config.num_attention_heads))

    def forward(
        self, x_TD: Tensor, cos: Tensor, sin: Tensor, layer: int, attn: AttentionContext
    ) -> Tensor:
        h = self.spec.head_dim
        q_TNH = apply_rope(self.q_proj(x_TD).unflatten(-1, (-1, h)), cos, sin)
        k_TKH = apply_rope(self.k_proj(x_TD).unflatten(-1, (-1, h)), cos, sin)
        v_TKH = self.v_proj(x_TD).unflatten(-1, (-1, h))
        out_TNH = attn.attend(layer, self.spec, q_TNH, k_TKH, v_TKH, sinks_N=self.sinks)
        return self.o_proj(out_TNH.flatten(-2))


class GptOssExperts(nn.Module):
    """All experts of a layer, stacked: gate_up (E, 2F, D), rows 2i gate and 2i + 1 up; down
    (E, D, F)."""

    def __init__(self, config: GptOssConfig) -> None:
        super().__init__()
        e, f, d = config.num_local_experts, config.intermediate_size, config.hidden_size
        self.gate_up_proj = nn.Parameter(torch.empty(e, 2 * f, d))
        self.gate_up_proj_bias = nn.Parameter(torch.empty(e, 2 * f))
        self.down_proj = nn.Parameter(torch.empty(e, d, f))
        self.down_proj_bias = nn.Parameter(torch.empty(e, d))
        self.limit, self.alpha = config.swiglu_limit, config.swiglu_alpha

    def run(self, e: int, x_RD: Tensor) -> Tensor:
        """Expert e: down(gate * sigmoid(alpha * gate) * (up + 1)), both clamped at the limit."""
        gate_up_RF = linear(x_RD, self.gate_up_proj[e], self.gate_up_proj_bias[e])
        gate_RF = gate_up_RF[:, ::2].clamp(max=self.limit)
        up_RF = gate_up_RF[:, 1::2].clamp(-self.limit, self.limit)
        hidden_RF = gate_RF * torch.sigmoid(self.alpha * gate_RF) * (up_RF + 1)
        return linear(hidden_RF, self.down_proj[e], self.down_proj_bias[e])


class GptOssMLP(nn.Module):
    """Router and experts: the best few logits, and a softmax over those alone."""

    def __init__(self, config: GptOssConfig) -> None:
        super().__init__()
        self.router = Linear(config.hidden_size, config.num_local_experts)
        self.experts = GptOssExperts(config)
        self.num_active = config.num_experts_per_tok

    def forward(self, x_TD: Tensor) -> Tensor:
        logits_TA, experts_TA = self.router(x_TD).topk(self.num_active, dim=-1)
        return mixture_of_experts(x_TD, experts_TA, logits_TA.softmax(-1), self.experts.run)


class GptOssLayer(nn.Module):
    def __init__(self, config: GptOssConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = Float32RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = GptOssAttention(config, layer)
        self.post_attention_layernorm = Float32RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = GptOssMLP(config)

    def forward(
        self, x_TD: Tensor, cos: Tensor, sin: Tensor, layer: int, attn: AttentionContext
    ) -> Tensor:
        x_TD = x_TD + self.self_attn(self.input_layernorm(x_TD), cos, sin, layer, attn)
        return x_TD + self.mlp(self.post_attention_layernorm(x_TD))


class GptOss(CausalLM):
    def __init__(self, config: GptOssConfig) -> None:
        layers = (GptOssLayer(config, n) for n in range(config.num_hidden_layers))
        norm = Float32RMSNorm(config.hidden_size, config.rms_norm_eps)
        super().__init__(config, Decoder(config, layers, norm, config.head_dim))

    def kv_specs(self) -> list[AttentionSpec]:
        return [self.config.layer_spec(n) for n in range(self.config.num_hidden_layers)]
