"""The memory behind the blocks: keys and values of every layer. Their owners: block_pool.py.

P is the axis of slots: block b covers slots [b * block_size, (b + 1) * block_size).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bobot.layers.context import AttentionSpec


class KVCache:
    """Keys (P, K, H) and values (P, K, v_head_dim) per layer.

    The memory is reserved, not filled: on the CPU the operating system commits a page when it is
    first written, so a large pool costs nothing until it is used.
    """

    def __init__(
        self,
        specs: Sequence[AttentionSpec],
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.block_size = block_size
        self.device = device
        num_slots = num_blocks * block_size
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        for spec in specs:
            k_PKH = torch.empty(
                num_slots, spec.num_kv_heads, spec.head_dim, dtype=dtype, device=device
            )
            if spec.v_is_k_prefix:
                v_PKH = k_PKH[..., : spec.v_head_dim]
            else:
                v_PKH = torch.empty(
                    num_slots, spec.num_kv_heads, spec.v_head_dim, dtype=dtype, device=device
                )
            self.keys.append(k_PKH)
            self.values.append(v_PKH)
        self.hidden_P = torch.empty(num_slots, dtype=torch.bool, device=device)
        """Slots whose key nobody sees; only written by models that hide tokens."""

    def write(
        self, layer: int, spec: AttentionSpec, slots_T: Tensor, k_TKH: Tensor, v_TKH: Tensor
    ) -> None:
        """Stores the keys and values of T tokens in their slots, in place."""
        self.keys[layer].index_copy_(0, slots_T, k_TKH)
        if not spec.v_is_k_prefix:
            self.values[layer].index_copy_(0, slots_T, v_TKH)


def bytes_per_token(specs: Sequence[AttentionSpec], dtype: torch.dtype) -> int:
    """Cache bytes that one token takes over all layers."""
    return sum(spec.cached_per_token for spec in specs) * dtype.itemsize
