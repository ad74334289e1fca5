"""What a layer's attention looks like, and the context that computes it for packed sequences.

A model calls `attn.attend(layer, spec, q, k, v)` and knows nothing else of sequences or caches.
`PackedAttention` here serves training, scoring and tests; `engine.batch.PagedAttention` serves
requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from bobot.ops.attention import AttentionSpec
from bobot.ops.span_attention import Span, SpanAttention

__all__ = ["AttentionContext", "AttentionSpec", "PackedAttention"]


class AttentionContext(Protocol):
    """The only thing that differs between training and serving."""

    def attend(
        self,
        layer: int,
        spec: AttentionSpec,
        q_TNH: Tensor,
        k_TKH: Tensor,
        v_TKH: Tensor,
        sinks_N: Tensor | None = None,
        hidden_T: Tensor | None = None,
    ) -> Tensor:
        """Causal attention of every token over its own sequence: (T, num_heads, v_head_dim).

        `sinks_N` is one more logit per head; `hidden_T` (bool) marks tokens whose keys nobody sees.
        """
        ...


class PackedAttention:
    """Whole sequences side by side in one axis; differentiable; no cache.

    `starts` holds the first index of each sequence: `[0, 5]` means tokens 0..4 are one sequence and
    tokens 5.. another. Positions within a sequence are consecutive.
    """

    def __init__(self, starts: Sequence[int] = (0,)) -> None:
        if not starts or starts[0] != 0 or any(a >= b for a, b in pairwise(starts)):
            raise ValueError(f"starts must begin with 0 and rise, got {list(starts)[:8]}")
        self.starts = tuple(starts)
        self._made: tuple[tuple[int, torch.device], SpanAttention] | None = None

    def attend(
        self,
        layer: int,
        spec: AttentionSpec,
        q_TNH: Tensor,
        k_TKH: Tensor,
        v_TKH: Tensor,
        sinks_N: Tensor | None = None,
        hidden_T: Tensor | None = None,
    ) -> Tensor:
        del layer
        return self._attention(q_TNH)(q_TNH, k_TKH, v_TKH, spec, sinks_N, hidden_T)

    def _attention(self, q_TNH: Tensor) -> SpanAttention:
        """Each sequence is one block of the packed axis. Made once for all layers."""
        key = (q_TNH.shape[0], q_TNH.device)
        if self._made is None or self._made[0] != key:
            bounds = pairwise((*self.starts, key[0]))
            spans = [Span(slice(a, b), 0, [a], key[0], key[1]) for a, b in bounds]
            self._made = (key, SpanAttention(spans))
        return self._made[1]
