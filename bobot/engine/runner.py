"""The model and its KV cache: chunks in, the logits that decide their next tokens out."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from itertools import chain
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bobot.engine.batch import build_batch
from bobot.engine.fused import fused_decoder
from bobot.engine.kv_cache import KVCache
from bobot.engine.prompt_rows import push_rows, wanted_rows
from bobot.engine.request import Chunk
from bobot.layers.context import AttentionContext, AttentionSpec
from bobot.layers.lora import Adapter, applied


class CausalModel(Protocol):
    """What the engine needs of a model family (DESIGN section 5)."""

    config: Any
    """With vocab_size and max_position_embeddings."""

    def __call__(self, ids_T: Tensor, positions_T: Tensor, attn: AttentionContext) -> Tensor: ...
    def logits(self, hidden_RD: Tensor) -> Tensor: ...
    def kv_specs(self) -> list[AttentionSpec]: ...
    def parameters(self) -> Any: ...
    def get_submodule(self, target: str) -> nn.Module: ...


class Runner:
    """Owns the cache; the only place that calls the model."""

    def __init__(self, model: CausalModel, num_blocks: int, block_size: int) -> None:
        weight = first_weight(model)
        self.model = model
        self.cache = KVCache(model.kv_specs(), num_blocks, block_size, weight.dtype, weight.device)
        self.fused = fused_decoder(model, self.cache)

    def run(self, chunks: Rows[Chunk]) -> tuple[Tensor, list[Chunk]]:
        """Logits (R, V), and the chunks that have caught up with their tokens: each has one row for
        its last known token and one for each of its drafts.

        Each row is changed by the adapter of its sequence and by no other. All run in one C++ call
        where that is possible. Elsewhere chunks without an adapter run as if they were alone, and
        the others behind them: with both kinds a step then reads the weights twice.
        If the model raises, nothing is committed: the same chunks can run again.
        """
        plain = [chunk for chunk in chunks if chunk.sequence.adapter is None]
        if len(plain) == len(chunks) or self._is_one_call(chunks):
            return self._run_alike(chunks)
        adapted = [chunk for chunk in chunks if chunk.sequence.adapter is not None]
        results = [self._run_alike(kind) for kind in (plain, adapted) if kind]
        logits = [logits_RV for logits_RV, caught_up in results if caught_up]
        caught_up = [chunk for _, found in results for chunk in found]
        return torch.cat(logits) if logits else results[0][0], caught_up

    def _is_one_call(self, chunks: Rows[Chunk]) -> bool:
        num_rows = sum(chunk.num_rows for chunk in chunks)
        has_readers = any(map(wanted_rows, chunks))
        return self.fused is not None and self.fused.takes(num_rows) and not has_readers

    def _run_alike(self, chunks: Rows[Chunk]) -> tuple[Tensor, list[Chunk]]:
        """In one C++ call where that is possible, else in the model's modules, the rows of each
        adapter side by side.
        """
        if self.fused is not None and self._is_one_call(chunks):
            return self.fused.run(chunks)
        of_adapter: dict[Adapter | None, list[Chunk]] = {}
        for chunk in chunks:
            of_adapter.setdefault(chunk.sequence.adapter, []).append(chunk)
        rows: list[tuple[Adapter, slice]] = []
        end = 0
        for adapter, own in of_adapter.items():
            start, end = end, end + sum(chunk.num_rows for chunk in own)
            if adapter is not None:
                rows.append((adapter, slice(start, end)))
        with applied(self.model, rows):
            return self._run_modules(list(chain.from_iterable(of_adapter.values())))

    def _run_modules(self, chunks: Rows[Chunk]) -> tuple[Tensor, list[Chunk]]:
        batch = build_batch(chunks, self.cache)
        hidden_TD = self.model(batch.ids_T, batch.positions_T, batch.attn)
        push_rows(chunks, hidden_TD, self.model.logits)
        if not batch.caught_up:
            return hidden_TD[:0], []
        return self.model.logits(hidden_TD[batch.rows_R]), batch.caught_up


def first_weight(model: CausalModel) -> nn.Parameter:
    """The first floating-point parameter: its dtype and device are those of the cache."""
    return next(weight for weight in model.parameters() if weight.is_floating_point())
