"""Drafts behind the tokens of a step: who gets them, how many, and what became of them.

A step of few rows is bound by reading the weights, so that some rows more cost little. The tokens
that a drafter guesses ride along; the sampler keeps those that it would have chosen (sampler.py),
and the scheduler counts the others as not computed. Speculative decoding: arXiv:2211.17192. Here a
draw is a function of logits and key, so comparing tokens is enough and every distribution is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from bobot import kernels
from bobot.engine.config import EngineConfig
from bobot.engine.draft_model import DraftModel
from bobot.engine.ngrams import NgramDrafter
from bobot.engine.request import Chunk, Sequence
from bobot.engine.runner import CausalModel
from bobot.engine.scheduler import Scheduler
from bobot.engine.stats import EngineStats
from bobot.errors import ConfigError

MAX_SEQUENCES = 4
"""With more of them a step has rows enough, and each draft takes time from the others."""
MAX_ROWS = 16
"""Rows of those sequences in one step: up to 4 cost what one costs, 16 less than twice as much."""
MAX_PAUSE = 15
"""Steps for which a sequence whose drafts always fail gets none."""


class Drafter(Protocol):
    """Guesses tokens. A wrong guess costs time, never a token."""

    def draft(self, limits: Mapping[Sequence, int]) -> Mapping[Sequence, tuple[int, ...]]:
        """At most limits[s] tokens that may follow sequence s, for each s that has a guess."""
        ...

    def forget(self, sequence: Sequence) -> None:
        """Drops what it remembers of a sequence that may not come back."""
        ...


def choose_drafter(
    config: EngineConfig, vocab_size: int, draft_model: CausalModel | None, num_blocks: int
) -> Drafter | None:
    """The draft model if there is one, else what the config names. ConfigError for a draft model
    with other tokens than the model's, or one that the config forbids.
    """
    if draft_model is None:
        return NgramDrafter() if config.speculation == "ngram" else None
    if config.speculation == "off":
        raise ConfigError(
            "A draft model was given, and speculation is off.",
            hint="Leave one of the two out.",
        )
    if draft_model.config.vocab_size != vocab_size:
        raise ConfigError(
            "The draft model's vocabulary has {found} tokens, the model's {expected}.",
            hint="Take a smaller model of the same family: both must read the same token ids.",
            found=draft_model.config.vocab_size,
            expected=vocab_size,
        )
    return DraftModel(draft_model, num_blocks, config)


@dataclass
class Trust:
    """How many drafts a sequence gets next, by what became of its last ones.

    Three, whose rows are nearly free; when all were right 7, then 15; when some were wrong half as
    many again, down to three. When none is right twice in a row, nothing for 1, 3, 7 ... steps.
    """

    num_drafts: int = 3
    num_failures: int = 0
    pause: int = 0

    def next(self, most: int) -> int:
        """Drafts for this step, at most `most`."""
        if self.pause:
            self.pause -= 1
            return 0
        return min(self.num_drafts, most)

    def learn(self, num_drafted: int, num_accepted: int) -> None:
        if num_accepted == num_drafted:
            self.num_drafts = max(self.num_drafts, min(2 * num_drafted + 1, MAX_ROWS - 1))
        else:
            self.num_drafts = max(3, self.num_drafts // 2)
        self.num_failures = 0 if num_accepted else self.num_failures + 1
        if self.num_failures > 1:
            self.pause = min(2 ** (self.num_failures - 1) - 1, MAX_PAUSE)


class Speculation:
    """Puts drafts behind the chunks of a step, and learns from what was chosen."""

    def __init__(
        self,
        config: EngineConfig,
        drafter: Drafter | None,
        scheduler: Scheduler,
        stats: EngineStats,
    ) -> None:
        self.config = config
        self.drafter = drafter
        self.scheduler = scheduler
        self.stats = stats
        self.max_rows = min(MAX_ROWS, kernels.max_rows_alike() or MAX_ROWS)
        """Rows that drafts may fill a step up to: more might be multiplied in another way than the
        row of plain decoding, and choose another token."""
        self._trust: dict[Sequence, Trust] = {}
        """Of the sequences of the last step; what was known of others is forgotten."""

    def add_drafts(self, chunks: list[Chunk]) -> list[Chunk]:
        """The chunks, with drafts behind those that are about to decode the next token."""
        if self.drafter is None:
            return chunks
        for sequence in self._trust.keys() - {chunk.sequence for chunk in chunks}:
            del self._trust[sequence]
            self.drafter.forget(sequence)
        if not 0 < len(chunks) <= MAX_SEQUENCES:
            return chunks
        limits = self._limits(chunks)
        drafts = dict(self.drafter.draft(limits))
        for sequence, limit in limits.items():
            if sequence.constraint is not None:
                draft = drafts.get(sequence, ())
                drafts[sequence] = sequence.constraint.drafts(draft, limit)
        return [replace(chunk, draft_ids=drafts.get(chunk.sequence, ())) for chunk in chunks]

    def learn(self, chunk: Chunk) -> None:
        """To be called when the sequence has got its tokens, and before `commit` counts them."""
        if not chunk.draft_ids:
            return
        sequence = chunk.sequence
        followed = sequence.token_ids[sequence.num_computed_tokens + chunk.num_tokens :]
        num_accepted = sum(a == b for a, b in zip(chunk.draft_ids, followed, strict=False))
        self._trust[sequence].learn(len(chunk.draft_ids), num_accepted)
        self.stats.num_drafts += bool(chunk.draft_ids)
        self.stats.num_drafted_tokens += len(chunk.draft_ids)
        self.stats.num_accepted_tokens += num_accepted

    def _limits(self, chunks: list[Chunk]) -> dict[Sequence, int]:
        """Drafts that each decoding sequence may get: by trust, limits of length, and room."""
        budget = self.config.max_num_batched_tokens - sum(chunk.num_tokens for chunk in chunks)
        most = min(self.config.num_speculative_tokens, self.max_rows // len(chunks) - 1)
        limits = {}
        for sequence in (chunk.sequence for chunk in chunks):
            if sequence.num_new_tokens > 1:
                continue
            before_last = sequence.request.max_len - sequence.num_tokens - 1
            trust = self._trust.setdefault(sequence, Trust())
            num_drafts = trust.next(min(most, budget, before_last))
            if num_drafts > 0:
                limits[sequence] = self.scheduler.make_room(sequence, num_drafts)
                budget -= limits[sequence]
        return limits
