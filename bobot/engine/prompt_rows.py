"""What a request wants of its own prompt: log-probabilities of its tokens, or one vector of it.

A reader takes the hidden states of the prompt row by row, as the chunks are computed. Rows that it
still wants are never left to the prefix cache; rows that come again, after a preemption, it has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from bobot.engine.request import Chunk

SLICE_BYTES = 1 << 26
"""Of the logits that are held at one time."""

Pooling = Literal["mean", "last"]
Logits = Callable[[Tensor], Tensor]


class PromptReader(Protocol):
    next_row: int
    """The first row that it has not got."""
    end_row: int
    """Behind the last that it wants."""

    def push(self, hidden_RD: Tensor, logits: Logits) -> None:
        """The rows from `next_row` on, as the model's final norm left them."""
        ...


@dataclass(frozen=True)
class PromptScore:
    """A token of the prompt, as likely as the model found it after those before it."""

    token_id: int
    logprob: float
    rank: int
    """1 for the most likely token."""
    top: tuple[tuple[int, float], ...]
    """The most likely ids with their log-probabilities, best first."""


class PromptScores:
    """Scores of all tokens but the first, which nothing precedes."""

    def __init__(self, prompt_ids: Sequence[int], num_top: int, vocab_size: int) -> None:
        self.next_row = 0
        self.end_row = len(prompt_ids) - 1
        self.num_top = num_top
        self.scores: list[PromptScore] = []
        self._ids = list(prompt_ids)
        self._num_rows = max(1, SLICE_BYTES // (4 * vocab_size))

    def push(self, hidden_RD: Tensor, logits: Logits) -> None:
        for rows_RD in hidden_RD.split(self._num_rows):
            self._score(logits(rows_RD))

    def _score(self, logits_RV: Tensor) -> None:
        ids = self._ids[self.next_row + 1 : self.next_row + 1 + len(logits_RV)]
        ids_R1 = torch.tensor(ids, device=logits_RV.device).unsqueeze(-1)
        sums_R1 = logits_RV.logsumexp(-1, keepdim=True)
        chosen_R1 = logits_RV.gather(-1, ids_R1)
        ranks = ((logits_RV > chosen_R1).sum(-1) + 1).tolist()
        logprobs = (chosen_R1 - sums_R1).squeeze(-1).tolist()
        best = logits_RV.topk(min(self.num_top, logits_RV.shape[-1]))
        top_ids, top_values = best.indices.tolist(), (best.values - sums_R1).tolist()
        for row, token_id in enumerate(ids):
            top = tuple(zip(top_ids[row], top_values[row], strict=True))
            self.scores.append(PromptScore(token_id, logprobs[row], ranks[row], top))
        self.next_row += len(ids)


class PromptVector:
    """The mean of the hidden states of all tokens, or the last one."""

    def __init__(self, num_tokens: int, pooling: Pooling) -> None:
        self.next_row = 0 if pooling == "mean" else num_tokens - 1
        self.end_row = num_tokens
        self._num_rows = num_tokens if pooling == "mean" else 1
        self._sum_D: Tensor | None = None

    def push(self, hidden_RD: Tensor, logits: Logits) -> None:
        sum_D = hidden_RD.double().sum(0)
        self._sum_D = sum_D if self._sum_D is None else self._sum_D + sum_D
        self.next_row += len(hidden_RD)

    def vector(self) -> list[float]:
        """Of length 1."""
        assert self._sum_D is not None and self.next_row == self.end_row
        return torch.nn.functional.normalize(self._sum_D / self._num_rows, dim=0).tolist()


def wanted_rows(chunk: Chunk) -> range:
    """The rows of the chunk that the reader of its sequence wants now."""
    reader = chunk.sequence.prompt_reader
    if reader is None:
        return range(0)
    first = chunk.sequence.num_computed_tokens
    end = min(reader.end_row - first, chunk.num_tokens)
    return range(max(reader.next_row - first, 0), end)


def push_rows(chunks: Sequence[Chunk], hidden_TD: Tensor, logits: Logits) -> None:
    """Gives the readers of the chunks, which lie side by side in `hidden_TD`, what they want."""
    start = 0
    for chunk in chunks:
        rows, reader = wanted_rows(chunk), chunk.sequence.prompt_reader
        if reader is not None and rows:
            reader.push(hidden_TD[start + rows.start : start + rows.stop], logits)
        start += chunk.num_rows
