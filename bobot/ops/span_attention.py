"""Causal attention of several sequences at once over keys that lie in blocks: the kernel where it
can run, else torch, sequence by sequence.

P is the axis of slots, S that of sequences, V the size of a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from bobot import kernels
from bobot.ops.attention import AttentionSpec, attention

KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Span:
    """The queries of one sequence in this step, and where its keys lie."""

    rows: slice
    """Its queries in the packed axis."""
    first_position: int
    """Position of the first of them."""
    block_starts: Sequence[int]
    """Position p lies in slot block_starts[p // block_size] + p % block_size."""
    block_size: int
    device: torch.device

    @property
    def num_queries(self) -> int:
        return self.rows.stop - self.rows.start

    @property
    def num_keys(self) -> int:
        return self.first_position + self.num_queries

    @cached_property
    def slots(self) -> slice | Tensor:
        """The slots of all keys in order: a slice if they lie in one run, else int64 (num_keys)."""
        size, starts = self.block_size, self.block_starts
        first, used = starts[0], -(-self.num_keys // size)
        if all(starts[i] == first + i * size for i in range(used)):
            return slice(first, first + self.num_keys)
        starts_B1 = torch.tensor(starts[:used], device=self.device)[:, None]
        return (starts_B1 + torch.arange(size, device=self.device)).flatten()[: self.num_keys]


class SpanAttention:
    """Attention of the same spans in every layer; what depends on their shape is made once."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self.spans = list(spans)
        self._plans: dict[tuple[int | None, ...], Any] = {}

    def __call__(
        self,
        q_TNH: Tensor,
        k_PKH: Tensor,
        v_PKV: Tensor,
        spec: AttentionSpec,
        sinks_N: Tensor | None = None,
        hidden_P: Tensor | None = None,
    ) -> Tensor:
        """What ops.attention gives for each span: (T, N, v_head_dim), in q's dtype."""
        if self._can_use_kernel(q_TNH, k_PKH, v_PKV, sinks_N):
            return self._through_kernel(q_TNH, k_PKH, v_PKV, spec, sinks_N, hidden_P)
        outputs = [
            self._of_one(span, q_TNH, k_PKH, v_PKV, spec, sinks_N, hidden_P) for span in self.spans
        ]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _of_one(
        self,
        span: Span,
        q_TNH: Tensor,
        k_PKH: Tensor,
        v_PKV: Tensor,
        spec: AttentionSpec,
        sinks_N: Tensor | None,
        hidden_P: Tensor | None,
    ) -> Tensor:
        """In torch: keys are read in place where they lie in one run, else gathered, without those
        that no query sees."""
        window = spec.sliding_window
        unseen = 0 if window is None else max(0, span.first_position + 1 - window)
        slots = span.slots
        if isinstance(slots, slice):
            slots = slice(slots.start + unseen, slots.stop)
        else:
            slots = slots[unseen:]
        return attention(
            q_TNH[span.rows],
            k_PKH[slots],
            v_PKV[slots],
            spec,
            first_query=span.first_position - unseen,
            sinks_N=sinks_N,
            hidden_S=None if hidden_P is None else hidden_P[slots],
        )

    def _can_use_kernel(self, *tensors: Tensor | None) -> bool:
        q_TNH, k_PKH, v_PKV, _ = tensors
        assert q_TNH is not None and k_PKH is not None and v_PKV is not None
        if not kernels.available or q_TNH.device.type != "cpu":
            return False
        is_known = q_TNH.dtype in KERNEL_DTYPES and k_PKH.dtype in KERNEL_DTYPES
        if not is_known or k_PKH.dtype != v_PKV.dtype:
            return False
        has_gradients = any(x is not None and x.requires_grad for x in tensors)
        return not (torch.is_grad_enabled() and has_gradients)

    def _through_kernel(
        self,
        q_TNH: Tensor,
        k_PKH: Tensor,
        v_PKV: Tensor,
        spec: AttentionSpec,
        sinks_N: Tensor | None,
        hidden_P: Tensor | None,
    ) -> Tensor:
        out_TNV = q_TNH.new_empty(q_TNH.shape[0], spec.num_heads, spec.v_head_dim)
        self._plan(spec).run(
            _side_by_side(q_TNH),
            _side_by_side(k_PKH),
            _side_by_side(v_PKV),
            out_TNV,
            spec.scale,
            spec.logit_softcap or 0.0,
            None if sinks_N is None else sinks_N.detach().float().contiguous(),
            hidden_P,
            kernels.isa(),
        )
        return out_TNV

    def _plan(self, spec: AttentionSpec) -> Any:
        shape = (
            spec.num_heads,
            spec.num_kv_heads,
            spec.head_dim,
            spec.v_head_dim,
            spec.sliding_window,
        )
        if shape not in self._plans:
            spans_S4, block_starts_B = self._numbers
            self._plans[shape] = kernels.attention_plan(
                spans_S4,
                block_starts_B,
                self.spans[0].block_size,
                num_heads=spec.num_heads,
                num_kv_heads=spec.num_kv_heads,
                head_dim=spec.head_dim,
                v_head_dim=spec.v_head_dim,
                window=spec.sliding_window or 0,
                num_threads=torch.get_num_threads(),
            )
        return self._plans[shape]

    @cached_property
    def _numbers(self) -> tuple[Tensor, Tensor]:
        """The spans as `kernels.attention_plan` takes them."""
        rows: list[tuple[int, int, int, int]] = []
        starts: list[int] = []
        for span in self.spans:
            assert span.block_size == self.spans[0].block_size
            rows.append((span.rows.start, span.num_queries, span.first_position, len(starts)))
            starts += span.block_starts
        return torch.tensor(rows), torch.tensor(starts)


def _side_by_side(x: Tensor) -> Tensor:
    """x without its history, the numbers of a head next to each other."""
    return x.detach() if x.stride(-1) == 1 else x.detach().contiguous()
