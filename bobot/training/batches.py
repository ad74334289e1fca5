"""Which documents each step sees, and documents packed into one axis with their targets.

The plan of a whole stage follows from the seed alone, so the position in the data is the step's
number: nothing else has to be saved, and nothing is held back in a buffer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bobot.training.shards import Documents


@dataclass(frozen=True)
class Batch:
    """Whole documents packed in one axis T; rows R are the tokens whose successor is learned."""

    ids_T: Tensor
    positions_T: Tensor
    starts: list[int]
    rows_R: Tensor
    targets_R: Tensor


@dataclass(frozen=True)
class StagePlan:
    """Step i sees `order[bounds[i]:bounds[i + 1]]`; each entry is (source index, document)."""

    order: np.ndarray
    bounds: list[int]

    @property
    def num_steps(self) -> int:
        return len(self.bounds) - 1

    def step(self, index: int) -> list[tuple[int, int]]:
        chosen = self.order[self.bounds[index] : self.bounds[index + 1]]
        return [(int(source), int(document)) for source, document in chosen]


def plan_stage(
    sources: Mapping[str, Documents],
    mix: Mapping[str, int],
    tokens_per_step: int,
    max_steps: int,
    seed: int,
) -> StagePlan:
    """Documents of each source without repetition, then again, until its tokens are reached;
    shuffled, and cut into steps of at most `tokens_per_step`.
    """
    rng = np.random.default_rng(seed)
    names = list(sources)
    entries, lengths = [], []
    for name, num_tokens in mix.items():
        documents = sources[name]
        document_lengths = documents.lengths()
        repeats = 1 + num_tokens // int(document_lengths.sum())
        picked = np.concatenate([rng.permutation(len(documents)) for _ in range(repeats)])
        enough = int(np.searchsorted(np.cumsum(document_lengths[picked]), num_tokens)) + 1
        picked = picked[:enough]
        entries.append(np.stack([np.full(len(picked), names.index(name)), picked], axis=1))
        lengths.append(document_lengths[picked])
    shuffle = rng.permutation(sum(len(part) for part in entries))
    order = np.concatenate(entries)[shuffle].astype(np.int64)
    bounds, filled = [0], 0
    for index, length in enumerate(np.concatenate(lengths)[shuffle]):
        if filled and filled + length > tokens_per_step:
            bounds.append(index)
            filled = 0
        filled += int(length)
    bounds.append(len(order))
    return StagePlan(order, bounds[: max_steps + 1])


def micro_batches(
    sources: Sequence[Documents],
    chosen: Sequence[tuple[int, int]],
    max_tokens: int,
    *,
    assistant_only: bool,
) -> list[Batch]:
    """The chosen documents in as few batches of at most `max_tokens` as their order allows."""
    groups: list[list[tuple[Documents, int]]] = [[]]
    filled = 0
    for source, document in chosen:
        start, end = sources[source].bounds(document)
        if filled and filled + end - start > max_tokens:
            groups.append([])
            filled = 0
        groups[-1].append((sources[source], document))
        filled += end - start
    return [pack(group, assistant_only=assistant_only) for group in groups]


def pack(documents: Sequence[tuple[Documents, int]], *, assistant_only: bool) -> Batch:
    """Documents side by side. The last token of each has no target."""
    starts, ids, positions, rows, targets = [], [], [], [], []
    offset = 0
    for source, document in documents:
        start, end = source.bounds(document)
        tokens = torch.from_numpy(source.ids[start:end].astype(np.int64))
        learned = np.ones(end - start, dtype=bool)
        if assistant_only:
            learned = source.said[start:end].astype(bool)
        chosen = torch.from_numpy(np.flatnonzero(learned[1:]))
        starts.append(offset)
        ids.append(tokens)
        positions.append(torch.arange(end - start))
        rows.append(chosen + offset)
        targets.append(tokens[1:][chosen])
        offset += end - start
    return Batch(torch.cat(ids), torch.cat(positions), starts, torch.cat(rows), torch.cat(targets))
