"""One step as tensors: what the model reads, and how its attention finds the KV cache."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass

import torch
from torch import Tensor

from bobot.engine.kv_cache import KVCache
from bobot.engine.request import Chunk
from bobot.layers.context import AttentionSpec
from bobot.ops.span_attention import Span, SpanAttention


@dataclass(frozen=True)
class Batch:
    """The tokens of all chunks side by side.

    `caught_up` are the chunks that reach the end of their sequence: the last known token of each
    and its drafts are the rows `rows_R`, in this order, whose logits decide what follows.
    """

    ids_T: Tensor
    positions_T: Tensor
    attn: PagedAttention
    rows_R: Tensor
    caught_up: list[Chunk]


def build_batch(chunks: Rows[Chunk], cache: KVCache) -> Batch:
    """The chunks as one batch.

    Position p lives in slot block_table[p // block_size] * block_size + p % block_size.
    """
    ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    deciding_rows: list[int] = []
    caught_up: list[Chunk] = []
    spans: list[Span] = []
    size = cache.block_size
    for chunk in chunks:
        sequence = chunk.sequence
        first, table = sequence.num_computed_tokens, sequence.block_table
        end = first + chunk.num_rows
        rows = slice(len(ids), len(ids) + chunk.num_rows)
        ids += sequence.token_ids[first : first + chunk.num_tokens]
        ids += chunk.draft_ids
        positions += range(first, end)
        slots += [table[p // size] * size + p % size for p in range(first, end)]
        starts = [block * size for block in table[: -(-end // size)]]
        spans.append(Span(rows, first, starts, size, cache.device))
        if chunk.num_tokens == sequence.num_new_tokens:
            deciding_rows += range(rows.start + chunk.num_tokens - 1, rows.stop)
            caught_up.append(chunk)
    ids_T, positions_T, slots_T, rows_R = (
        torch.tensor(numbers, dtype=torch.int64, device=cache.device)
        for numbers in (ids, positions, slots, deciding_rows)
    )
    attn = PagedAttention(cache, spans, slots_T)
    return Batch(ids_T, positions_T, attn, rows_R, caught_up)


class PagedAttention:
    """The serving form of `layers.context.AttentionContext`: through the paged cache."""

    def __init__(self, cache: KVCache, spans: list[Span], slots_T: Tensor) -> None:
        self.cache = cache
        self.slots_T = slots_T
        self.spans = spans
        self._attention = SpanAttention(spans)

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
        """Writes this step's keys and values, then attends over each sequence's cache."""
        self.cache.write(layer, spec, self.slots_T, k_TKH, v_TKH)
        if hidden_T is not None:
            self.cache.hidden_P.index_copy_(0, self.slots_T, hidden_T)
        return self._attention(
            q_TNH,
            self.cache.keys[layer],
            self.cache.values[layer],
            spec,
            sinks_N,
            None if hidden_T is None else self.cache.hidden_P,
        )
