"""One step as tensors: what the model reads, and how its attention finds the KV cache."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass

import torch
from torch import Tensor

from bobot.engine.kv_cache import KVCache
from bobot.engine.request import Chunk
from bobot.layers.context import AttentionSpec
from bobot.ops.attention import attention


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
        spans.append(Span(rows, first, _slots(table, end, cache)))
        if chunk.num_tokens == sequence.num_new_tokens:
            deciding_rows += range(rows.start + chunk.num_tokens - 1, rows.stop)
            caught_up.append(chunk)
    ids_T, positions_T, slots_T, rows_R = (
        torch.tensor(numbers, dtype=torch.int64, device=cache.device)
        for numbers in (ids, positions, slots, deciding_rows)
    )
    attn = PagedAttention(cache, spans, slots_T)
    return Batch(ids_T, positions_T, attn, rows_R, caught_up)


def _slots(table: list[int], num_tokens: int, cache: KVCache) -> slice | Tensor:
    """The slots of positions 0..num_tokens-1: a slice if they lie in one run, else a tensor."""
    size = cache.block_size
    if table == list(range(table[0], table[0] + len(table))):
        return slice(table[0] * size, table[0] * size + num_tokens)
    starts_B1 = torch.tensor(table, device=cache.device)[:, None] * size
    return (starts_B1 + torch.arange(size, device=cache.device)).flatten()[:num_tokens]


@dataclass(frozen=True)
class Span:
    """One sequence in this step."""

    rows: slice
    """Its tokens in the packed axis."""
    first_position: int
    """Position of the first of them."""
    slots: slice | Tensor
    """Where all its keys lie, in order of position, those of this step included."""

    @property
    def num_keys(self) -> int:
        return self.first_position + self.rows.stop - self.rows.start

    def within(self, window: int) -> Span:
        """The same span without the keys that no query of this step can see."""
        hidden = self.first_position + 1 - window
        if hidden <= 0:
            return self
        if isinstance(self.slots, slice):
            slots = slice(self.slots.start + hidden, self.slots.stop)
        else:
            slots = self.slots[hidden:]
        return Span(self.rows, self.first_position - hidden, slots)


class PagedAttention:
    """The serving form of `layers.context.AttentionContext`: through the paged cache.

    This is the torch reference: one attention call per sequence. A sequence whose blocks lie in
    one run is read in place; otherwise its keys and values are gathered, one copy per layer.
    """

    def __init__(self, cache: KVCache, spans: list[Span], slots_T: Tensor) -> None:
        self.cache = cache
        self.slots_T = slots_T
        self.spans = spans
        self._spans_of_window: dict[int | None, list[Span]] = {None: spans}

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
        outputs = []
        for span in self._spans(spec.sliding_window):
            keys, values = self.cache.read(layer, span.slots)
            q = q_TNH[span.rows]
            outputs.append(
                attention(
                    q,
                    keys,
                    values,
                    spec,
                    first_query=span.first_position,
                    sinks_N=sinks_N,
                    hidden_S=None if hidden_T is None else self.cache.hidden_P[span.slots],
                )
            )
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _spans(self, window: int | None) -> list[Span]:
        if window not in self._spans_of_window:
            assert window is not None
            whole = self._spans_of_window[None]
            self._spans_of_window[window] = [span.within(window) for span in whole]
        return self._spans_of_window[window]
