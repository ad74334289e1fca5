"""The memory behind the blocks: keys and values of every layer. Their owners: block_pool.py.

P is the axis of slots: block b covers slots [b * block_size, (b + 1) * block_size). B: bytes.
"""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Sequence

import torch
from torch import Tensor

from bobot.layers.context import AttentionSpec

SMALL_PAGES = 2 << 20
"""Bytes at the beginning of a layer's keys, or values, that stay in pages of 4 KiB: a short chat
then takes no more memory than it fills."""


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
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.device = device
        num_slots = num_blocks * block_size
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        for spec in specs:
            k_PKH = reserve((num_slots, spec.num_kv_heads, spec.head_dim), dtype, device)
            if spec.v_is_k_prefix:
                v_PKH = k_PKH[..., : spec.v_head_dim]
            else:
                v_PKH = reserve((num_slots, spec.num_kv_heads, spec.v_head_dim), dtype, device)
            self.keys.append(k_PKH)
            self.values.append(v_PKH)
        self.hidden_P = torch.zeros(num_slots, dtype=torch.bool, device=device)
        """Slots whose key nobody sees; only written by models that hide tokens."""
        owned = [v for spec, v in zip(specs, self.values, strict=True) if not spec.v_is_k_prefix]
        self.stored = [*self.keys, *owned, self.hidden_P]
        """All that a slot holds, each (P, ...)."""
        self._bytes = [part.view(num_blocks, -1).view(torch.uint8) for part in self.stored]
        """The same, each (num_blocks, bytes of it in a block)."""

    def write(
        self, layer: int, spec: AttentionSpec, slots_T: Tensor, k_TKH: Tensor, v_TKH: Tensor
    ) -> None:
        """Stores the keys and values of T tokens in their slots, in place."""
        self.keys[layer].index_copy_(0, slots_T, k_TKH)
        if not spec.v_is_k_prefix:
            self.values[layer].index_copy_(0, slots_T, v_TKH)

    @property
    def block_bytes(self) -> int:
        """Of one block, over all layers."""
        return sum(part.shape[1] for part in self._bytes)

    def read_block(self, block: int) -> Tensor:
        """A copy of what a block holds, on the CPU: uint8 (block_bytes,)."""
        return torch.cat([part[block] for part in self._bytes]).cpu()

    def write_block(self, block: int, content_B: Tensor) -> None:
        """Puts back what `read_block` gave, in place."""
        pieces = content_B.to(self.device).split([part.shape[1] for part in self._bytes])
        for part, piece in zip(self._bytes, pieces, strict=True):
            part[block].copy_(piece)


def reserve(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor of nothing in particular. On Linux what lies behind its first bytes asks for huge
    pages: one row per position and head touches so many small ones that finding them costs more
    than reading them (attention of one row behind 8k tokens: 1.7 times the speed).
    """
    size = math.prod(shape) * dtype.itemsize
    if device.type != "cpu" or not hasattr(mmap, "MADV_HUGEPAGE") or size <= 2 * SMALL_PAGES:
        return torch.empty(shape, dtype=dtype, device=device)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without them: small pages then
        memory.madvise(mmap.MADV_HUGEPAGE, SMALL_PAGES, size - SMALL_PAGES)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


def bytes_per_token(specs: Sequence[AttentionSpec], dtype: torch.dtype) -> int:
    """Cache bytes that one token takes over all layers."""
    return sum(spec.cached_per_token for spec in specs) * dtype.itemsize
