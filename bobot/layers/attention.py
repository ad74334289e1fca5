"""Grouped-query attention (arXiv:2305.13245) with rotary positions."""

from __future__ import annotations

from torch import Tensor, nn

from bobot.layers.context import AttentionContext, AttentionSpec
from bobot.layers.linear import Linear
from bobot.ops.rope import apply_rope


class GroupedQueryAttention(nn.Module):
    """Query head i reads key/value head i // (num_heads / num_kv_heads)."""

    def __init__(self, hidden_size: int, spec: AttentionSpec, *, bias: bool = False) -> None:
        super().__init__()
        n, k, h = spec.num_heads, spec.num_kv_heads, spec.head_dim
        self.q_proj = Linear(hidden_size, n * h, bias=bias)
        self.k_proj = Linear(hidden_size, k * h, bias=bias)
        self.v_proj = Linear(hidden_size, k * h, bias=bias)
        self.o_proj = Linear(n * h, hidden_size, bias=bias)
        self.spec = spec

    def forward(
        self, x_TD: Tensor, cos: Tensor, sin: Tensor, layer: int, attn: AttentionContext
    ) -> Tensor:
        h = self.spec.head_dim
        q_TNH = apply_rope(self.q_proj(x_TD).unflatten(-1, (-1, h)), cos, sin)
        k_TKH = apply_rope(self.k_proj(x_TD).unflatten(-1, (-1, h)), cos, sin)
        v_TKH = self.v_proj(x_TD).unflatten(-1, (-1, h))
        return self.o_proj(attn.attend(layer, self.spec, q_TNH, k_TKH, v_TKH).flatten(-2))
