"""Drafts by a smaller model of the same vocabulary, which decodes ahead of the large one.

It draws with the large model's own noise, so that both draw the same token wherever they think
alike, at any temperature (arXiv:2408.07978). Its tokens catch up like everyone's: here too a
counter says how far, and a prompt is computed in chunks.
"""

from __future__ import annotations

from collections.abc import Mapping

from bobot.engine.config import EngineConfig
from bobot.engine.request import Chunk, Sequence
from bobot.engine.runner import CausalModel, Runner
from bobot.engine.sampler import choose


class Double(Sequence):
    """A sequence as the draft model knows it: its own tokens and counter, the same blocks.

    Behind the first `num_agreed` tokens stand those that it drafted last.
    """

    def __init__(self, sequence: Sequence, num_computed_tokens: int) -> None:
        super().__init__(sequence.request, sequence.index)
        self.adapter = None  # it changes the large model
        self.block_table = sequence.block_table
        self.num_computed_tokens = num_computed_tokens
        self.num_agreed = self.num_tokens

    def follow(self, sequence: Sequence) -> None:
        """Takes the tokens of the sequence; from where the drafts were others, they count as not
        computed. The last token never counts: its logits are needed.
        """
        ids, actual = self.token_ids, sequence.token_ids
        same = self.num_agreed
        while same < min(len(ids), len(actual)) and ids[same] == actual[same]:
            same += 1
        ids[same:] = actual[same:]
        self.num_agreed = len(actual)
        self.num_computed_tokens = min(self.num_computed_tokens, same, len(actual) - 1)


class DraftModel:
    """A drafter (speculation.py) with a cache of its own.

    Its cache has as many blocks as the large model's and is read through the same block tables, so
    one pool serves both. `_content` says which full block holds the keys of which prefix, by its
    hash: a block that is shared, or given to another sequence, is never taken for something else.
    """

    def __init__(self, model: CausalModel, num_blocks: int, config: EngineConfig) -> None:
        self.config = config
        self.max_model_len: int = model.config.max_position_embeddings
        self.runner = Runner(model, num_blocks, config.block_size)
        self._doubles: dict[Sequence, Double] = {}
        self._content: dict[int, bytes] = {}

    def draft(self, limits: Mapping[Sequence, int]) -> dict[Sequence, tuple[int, ...]]:
        """The next limits[s] tokens of each sequence s; fewer where its own context ends, none
        where it has not caught up yet.
        """
        ends = {}
        for sequence, limit in limits.items():
            double = self._follow(sequence)
            ends[double] = min(sequence.num_tokens + limit, self.max_model_len + 1)
        active = [double for double, end in ends.items() if double.num_tokens < end]
        while active:
            active = [double for double in self._step(active) if double.num_tokens < ends[double]]
        doubles = {sequence: self._doubles[sequence] for sequence in limits}
        return {s: tuple(double.token_ids[double.num_agreed :]) for s, double in doubles.items()}

    def forget(self, sequence: Sequence) -> None:
        self._doubles.pop(sequence, None)

    def _follow(self, sequence: Sequence) -> Double:
        """The double, with the tokens of the sequence; a fresh one after a preemption."""
        size = self.config.block_size
        double = self._doubles.get(sequence)
        if double is None or double.block_table is not sequence.block_table:
            double = Double(sequence, self._num_known(sequence) * size)
            self._doubles[sequence] = double
        double.follow(sequence)
        num_full = double.num_computed_tokens // size
        hashes = sequence.block_hashes(num_full, size)
        self._content.update(zip(sequence.block_table, hashes, strict=False))
        return double

    def _num_known(self, sequence: Sequence) -> int:
        """Full blocks at the start of the sequence whose keys lie in this cache already."""
        size = self.config.block_size
        hashes = sequence.block_hashes((sequence.num_tokens - 1) // size, size)
        for i, (block, block_hash) in enumerate(zip(sequence.block_table, hashes, strict=False)):
            if self._content.get(block) != block_hash:
                return i
        return len(hashes)

    def _step(self, doubles: list[Double]) -> list[Double]:
        """Computes what is new, or a part of it; those that have got another token."""
        size, share = self.config.block_size, self.config.max_num_batched_tokens // len(doubles)
        chunks = [Chunk(double, min(double.num_new_tokens, share)) for double in doubles]
        for double, chunk in zip(doubles, chunks, strict=True):
            first = double.num_computed_tokens
            for i in range(first // size, -(-(first + chunk.num_tokens) // size)):
                self._content.pop(double.block_table[i], None)
        logits_RV, caught_up = self.runner.run(chunks)
        choices = iter(choose(logits_RV, caught_up))
        extended = []
        for double, chunk in zip(doubles, chunks, strict=True):
            is_caught_up = chunk.num_tokens == double.num_new_tokens
            double.num_computed_tokens += chunk.num_tokens
            if is_caught_up and (token_id := next(choices)[0].token_id) is not None:
                double.token_ids.append(token_id)
                extended.append(double)
        return extended
