"""What a sequence may say next: masks over the vocabulary, computed while the model computes.

The engine knows ids only. Whoever makes a `Constraint` (text/constraints.py: grammars) knows what
they mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from bobot.engine.request import Chunk
from bobot.errors import RequestError

MAX_THREADS = 4
"""A mask takes microseconds to a few milliseconds, without Python's lock."""

Masks = dict[Chunk, "Future[list[Tensor]]"]
"""For each chunk whose sequence is constrained: bool (V,), True for the tokens that may come, for
its first deciding row, and for the row behind each of its drafts."""


class Constraint(Protocol):
    """The state of one sequence, used by one thread at a time."""

    def fork(self) -> Constraint:
        """A copy that goes its own way."""
        ...

    def drafts(self, draft_ids: Sequence[int], most: int) -> tuple[int, ...]:
        """At most `most` ids that may follow: those that must, else the valid head of the draft."""
        ...

    def masks(self, draft_ids: Sequence[int]) -> list[bytes]:
        """One bit for each id, the lowest first, ids beyond its end ruled out: what may come now,
        and behind each draft. RequestError where the sequence can't go on."""
        ...

    def accept(self, token_id: int) -> None:
        """The token has been chosen. If it can't be followed, `masks` says so."""
        ...


class MaskMaker:
    """Threads that compute masks. They start with the first constraint."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self._threads: ThreadPoolExecutor | None = None
        self._begun: Masks = {}

    def begin(self, chunks: Iterable[Chunk]) -> Masks:
        """Begins the masks of the constrained chunks that reach the end of their sequence."""
        if self._begun:
            wait(self._begun.values())  # of a step that failed: they use the constraints
        begun: Masks = {}
        for chunk in chunks:
            sequence = chunk.sequence
            if sequence.constraint is None or chunk.num_tokens < sequence.num_new_tokens:
                continue
            if self._threads is None:
                self._threads = ThreadPoolExecutor(MAX_THREADS, "masks")
            begun[chunk] = self._threads.submit(self._masks, sequence.constraint, chunk.draft_ids)
        self._begun = begun
        return begun

    def _masks(self, constraint: Constraint, draft_ids: tuple[int, ...]) -> list[Tensor]:
        masks = [self._unpacked(bits) for bits in constraint.masks(draft_ids)]
        if not all(bool(allowed_V.any()) for allowed_V in masks):
            raise RequestError("No token of the vocabulary may follow here.")
        return masks

    def _unpacked(self, bits: bytes) -> Tensor:
        allowed_V = np.zeros(self.vocab_size, dtype=np.uint8)
        known = np.unpackbits(np.frombuffer(bits, dtype=np.uint8), bitorder="little")
        size = min(len(known), self.vocab_size)
        allowed_V[:size] = known[:size]
        return torch.from_numpy(allowed_V.view(np.bool_))
