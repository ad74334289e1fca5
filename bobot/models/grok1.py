"""Grok-1 (xai-org/grok-1 `model.py`): a mixture of 8 experts, 2 active, scaled in many places.

    x = embedding[id] * embedding_multiplier_scale
    per layer   x += post_attn_norm(attention(pre_attn_norm(x)))
                x += post_moe_norm(experts(pre_moe_norm(x)))
    logits = norm(x) @ embedding.T * output_multiplier_scale

Parameters have the names of HPC-AI Tech's Hugging Face port, whose layers are called as in every
other family; xAI's own names are those of a JAX tree. Published forms and their names:
`grok1_dialects.py`, `grok1_jax_names.py`.

Axes: T packed tokens, R chosen rows, D hidden, N query heads, K key/value heads, H head_dim, E
experts, A active experts of a token, F intermediate, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bobot.errors import ConfigError
from bobot.layers.causal import CausalLM
from bobot.layers.context import AttentionContext, AttentionSpec
from bobot.layers.linear import Embedding, Linear
from bobot.layers.norm import Float32RMSNorm
from bobot.models.config import check_active_experts
from bobot.ops.linear import linear
from bobot.ops.moe import mixture_of_experts
from bobot.ops.rope import (
    RopeParameters,
    apply_rope,
    attention_factor,
    inverse_frequencies,
    rotation,
)


@dataclass(frozen=True, kw_only=True)
class Grok1Config:
    """The family's settings, under their Hugging Face names. Raises ConfigError if they can't fit
    together.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    num_experts: int
    num_experts_per_tok: int
    max_position_embeddings: int
    embedding_multiplier_scale: float
    output_multiplier_scale: float
    attn_output_multiplier: float
    """What q.k is multiplied by; there is no other scale, whatever head_dim is."""
    max_attn_value: float = 30.0
    """Attention scores become cap * tanh(score / cap)."""
    rms_norm_eps: float = 1e-5
    rope: RopeParameters = field(default_factory=RopeParameters)
    pad_token_id: int = 0
    """Nobody attends to this token, wherever it stands."""
    tie_word_embeddings: bool = True

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                "num_attention_heads is {heads}; it must be a multiple of num_key_value_heads "
                "({kv_heads}).",
                heads=self.num_attention_heads,
                kv_heads=self.num_key_value_heads,
            )
        if self.head_dim % 2:
            raise ConfigError(
                "head_dim is {head_dim}; rotary positions need an even number.",
                head_dim=self.head_dim,
            )
        check_active_experts(self.num_experts_per_tok, self.num_experts)

    def attention_spec(self) -> AttentionSpec:
        """What every layer's attention looks like."""
        return AttentionSpec(
            num_heads=self.num_attention_heads,
            num_kv_heads=self.num_key_value_heads,
            head_dim=self.head_dim,
            v_head_dim=self.head_dim,
            scale=self.attn_output_multiplier,
            logit_softcap=self.max_attn_value,
        )


class Grok1Attention(nn.Module):
    """Grouped queries with rotary positions; the keys of padding are hidden."""

    def __init__(self, config: Grok1Config) -> None:
        super().__init__()
        self.spec = config.attention_spec()
        d, h = config.hidden_size, config.head_dim
        self.q_proj = Linear(d, config.num_attention_heads * h, bias=False)
        self.k_proj = Linear(d, config.num_key_value_heads * h, bias=False)
        self.v_proj = Linear(d, config.num_key_value_heads * h, bias=False)
        self.o_proj = Linear(config.num_attention_heads * h, d, bias=False)

    def forward(
        self,
        x_TD: Tensor,
        cos: Tensor,
        sin: Tensor,
        hidden_T: Tensor,
        layer: int,
        attn: AttentionContext,
    ) -> Tensor:
        h = self.spec.head_dim
        q_TNH = apply_rope(self.q_proj(x_TD).unflatten(-1, (-1, h)), cos, sin)
        k_TKH = apply_rope(self.k_proj(x_TD).unflatten(-1, (-1, h)), cos, sin)
        v_TKH = self.v_proj(x_TD).unflatten(-1, (-1, h))
        out_TNH = attn.attend(layer, self.spec, q_TNH, k_TKH, v_TKH, hidden_T=hidden_T)
        return self.o_proj(out_TNH.flatten(-2))


class Grok1Experts(nn.Module):
    """All experts of a layer, stacked: linear and linear_v (E, F, D), linear_1 (E, D, F)."""

    def __init__(self, config: Grok1Config) -> None:
        super().__init__()
        e, f, d = config.num_experts, config.intermediate_size, config.hidden_size
        self.linear = nn.Parameter(torch.empty(e, f, d))
        self.linear_v = nn.Parameter(torch.empty(e, f, d))
        self.linear_1 = nn.Parameter(torch.empty(e, d, f))

    def run(self, e: int, x_RD: Tensor) -> Tensor:
        """Expert e: linear_1(gelu(linear(x)) * linear_v(x)), with gelu's tanh approximation."""
        gate_RF = F.gelu(linear(x_RD, self.linear[e]), approximate="tanh")
        return linear(gate_RF * linear(x_RD, self.linear_v[e]), self.linear_1[e])


class Grok1Moe(nn.Module):
    """Router and experts. The router works in float32, whatever the rest does."""

    def __init__(self, config: Grok1Config) -> None:
        super().__init__()
        self.gate = Linear(config.hidden_size, config.num_experts, bias=False)
        self.experts = Grok1Experts(config)
        self.num_active = config.num_experts_per_tok

    def forward(self, x_TD: Tensor) -> Tensor:
        probs_TE = self.gate(x_TD.float()).softmax(-1)
        # The best two of a softmax over all eight: they do not sum to 1.
        weights_TA, experts_TA = probs_TE.topk(self.num_active, dim=-1)
        return mixture_of_experts(x_TD, experts_TA, weights_TA.to(x_TD.dtype), self.experts.run)


class Grok1Layer(nn.Module):
    """Norms stand before and after each branch; the second acts before the branch is added."""

    def __init__(self, config: Grok1Config) -> None:
        super().__init__()
        d, eps = config.hidden_size, config.rms_norm_eps
        self.pre_attn_norm = Float32RMSNorm(d, eps)
        self.attn = Grok1Attention(config)
        self.post_attn_norm = Float32RMSNorm(d, eps)
        self.pre_moe_norm = Float32RMSNorm(d, eps)
        self.moe_block = Grok1Moe(config)
        self.post_moe_norm = Float32RMSNorm(d, eps)

    def forward(
        self,
        x_TD: Tensor,
        cos: Tensor,
        sin: Tensor,
        hidden_T: Tensor,
        layer: int,
        attn: AttentionContext,
    ) -> Tensor:
        out_TD = self.attn(self.pre_attn_norm(x_TD), cos, sin, hidden_T, layer, attn)
        x_TD = x_TD + self.post_attn_norm(out_TD)
        return x_TD + self.post_moe_norm(self.moe_block(self.pre_moe_norm(x_TD)))


class Grok1Decoder(nn.Module):
    """Embedding, layers and final norm: the part the checkpoint calls `model`."""

    def __init__(self, config: Grok1Config) -> None:
        super().__init__()
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Grok1Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = Float32RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.embedding_multiplier_scale = config.embedding_multiplier_scale
        self.pad_token_id = config.pad_token_id
        self.frequencies = inverse_frequencies(config.rope, config.head_dim)
        self.rope_factor = attention_factor(config.rope)

    def forward(self, ids_T: Tensor, positions_T: Tensor, attn: AttentionContext) -> Tensor:
        x_TD = self.embed_tokens(ids_T) * self.embedding_multiplier_scale
        cos, sin = rotation(positions_T, self.frequencies, x_TD.dtype, self.rope_factor)
        hidden_T = ids_T == self.pad_token_id
        for n, layer in enumerate(self.layers):
            x_TD = layer(x_TD, cos, sin, hidden_T, n, attn)
        return self.norm(x_TD)


class Grok1(CausalLM):
    float32_parameters = ("model.layers.{n}.moe_block.gate.weight",)
    """Stay float32 whatever dtype the rest has, as in the reference."""

    def __init__(self, config: Grok1Config) -> None:
        super().__init__(config, Grok1Decoder(config))

    def logits(self, hidden_RD: Tensor) -> Tensor:
        return super().logits(hidden_RD) * self.config.output_multiplier_scale

    def kv_specs(self) -> list[AttentionSpec]:
        return [self.config.attention_spec()] * self.config.num_hidden_layers
