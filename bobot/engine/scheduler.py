"""Which tokens are computed in the next step, and which sequence owns which blocks.

First come, first served. A sequence gets blocks for all its present tokens before it runs, then
one more whenever it fills the last. When the pool has none, the sequence that started last gives
all its blocks back and waits at the head of the queue; later its tokens are computed again (or
found in the prefix cache). The oldest sequence is never preempted, and the engine admits no
request larger than the pool, so every request ends.

Blocks whose prefix memory has forgotten may lie on the disk (disk_cache.py): they are read into the
blocks of an admitted sequence, some in each step, before its other tokens are computed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from bobot.engine.block_pool import BlockPool
from bobot.engine.config import EngineConfig
from bobot.engine.disk_cache import MIN_PROMPT_TOKENS, DiskCache
from bobot.engine.request import Chunk, Sequence
from bobot.engine.stats import EngineStats


@dataclass
class Restore:
    """Blocks of a running sequence that are still to be read from the disk."""

    end: int
    """Number of the block behind the last of them."""
    is_first: bool
    """The sequence has not run before: its client is told what was found."""


class Scheduler:
    """Chunked prefill, continuous batching, preemption: all follow from num_computed_tokens."""

    def __init__(self, config: EngineConfig, pool: BlockPool, stats: EngineStats) -> None:
        self.config = config
        self.pool = pool
        self.stats = stats
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.disk: DiskCache | None = None
        self._restores: dict[Sequence, Restore] = {}

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def add_first(self, sequences: Iterable[Sequence]) -> None:
        """To the head of the queue, in their order."""
        self.waiting.extendleft(reversed(list(sequences)))

    def remove(self, sequence: Sequence) -> None:
        """Forgets a finished or aborted sequence, wherever it is, and frees its blocks."""
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        num_full = sequence.num_computed_tokens // self.config.block_size
        if num_full and self.disk is not None and not sequence.request.is_private:
            self.disk.used(sequence.block_hashes(num_full, self.config.block_size))
        self._release(sequence)

    def schedule(self) -> list[Chunk]:
        """The chunks of the next step: running sequences first, then waiting ones that fit. One
        whose blocks are still read from the disk runs, and has no chunk.
        """
        budget = self.config.max_num_batched_tokens
        num_reads = self.disk.blocks_per_step if self.disk is not None else 0
        chunks: list[Chunk] = []
        number = 0
        while budget > 0 and (number < len(self.running) or self._may_admit()):
            if number < len(self.running):
                if not self._grow(self.running[number]):
                    self._preempt_last()
                    continue
            elif self._admit(self.waiting[0]):
                self.running.append(self.waiting.popleft())
            else:
                break
            sequence = self.running[number]
            number += 1
            if sequence in self._restores:
                num_reads -= self._restore(sequence, num_reads)
            if sequence not in self._restores:
                chunks.append(Chunk(sequence, min(sequence.num_new_tokens, budget)))
                budget -= chunks[-1].num_tokens
        return chunks

    def make_room(self, sequence: Sequence, num_drafts: int) -> int:
        """How many of `num_drafts` tokens behind the present ones have a slot, once the sequence
        got what blocks are free. Drafts preempt nobody, and `commit` takes back what they left.
        """
        size, table = self.config.block_size, sequence.block_table
        num_missing = -(-(sequence.num_tokens + num_drafts) // size) - len(table)
        for _ in range(min(num_missing, self.pool.num_free)):
            table.append(self.pool.allocate(after=table[-1]))
        return min(num_drafts, len(table) * size - sequence.num_tokens)

    def commit(self, chunks: Iterable[Chunk]) -> None:
        """The chunks are computed and their tokens accepted: counters move on, full blocks become
        shareable, and sequences that ended free theirs.

        The last token of a sequence is never computed, nor are drafts that turned out wrong: their
        slots will be written again.
        """
        size = self.config.block_size
        for chunk in chunks:
            sequence = chunk.sequence
            num_full = sequence.num_computed_tokens // size
            num_computed = sequence.num_computed_tokens + chunk.num_rows
            sequence.num_computed_tokens = min(num_computed, sequence.num_tokens - 1)
            num_full_now = sequence.num_computed_tokens // size
            if self.config.enable_prefix_caching and num_full_now > num_full:
                hashes = sequence.block_hashes(num_full_now, size)
                for i in range(num_full, num_full_now):
                    self.pool.remember(sequence.block_table[i], hashes[i])
                if len(sequence.request.prompt_ids) >= MIN_PROMPT_TOKENS:
                    self._offer(sequence, range(num_full, num_full_now))
            self.stats.num_computed_tokens += chunk.num_rows
            if sequence.finish_reason is not None:
                self.remove(sequence)
            else:
                self._take_back(sequence)

    def _may_admit(self) -> bool:
        return bool(self.waiting) and len(self.running) < self.config.max_num_seqs

    def _admit(self, sequence: Sequence) -> bool:
        """Gives a waiting sequence its blocks, shared ones first; False if there are too few."""
        hashes = self._prefix_hashes(sequence)
        shared = self.pool.match(hashes)
        num_missing = self._num_blocks(sequence) - len(shared)
        if num_missing > self.pool.num_free_without(shared):
            return False
        self.pool.share(shared)
        sequence.block_table = shared
        sequence.num_computed_tokens = len(shared) * self.config.block_size
        is_first = sequence.num_cached_tokens is None
        if is_first:
            sequence.num_cached_tokens = sequence.num_computed_tokens
        self.stats.num_cached_tokens += sequence.num_computed_tokens
        if self.disk is not None:
            if sequence.index == 0:  # what comes again is worth keeping
                self._offer(sequence, range(len(shared)))
            if num_found := self.disk.num_found(hashes[len(shared) :]):
                self._restores[sequence] = Restore(len(shared) + num_found, is_first)
        return self._grow(sequence)

    def _offer(self, sequence: Sequence, numbers: range) -> None:
        """Lets the disk have full blocks of a sequence; not of a private conversation, nor of a
        prompt that is only read, for it seldom comes again.
        """
        request = sequence.request
        if self.disk is None or request.is_private or request.only_reads:
            return
        hashes = sequence.block_hashes(numbers.stop, self.config.block_size)
        for number in numbers:
            self.disk.offer(hashes[number], sequence.block_table[number])

    def _restore(self, sequence: Sequence, max_blocks: int) -> int:
        """Reads at most so many of the sequence's blocks from the disk: how many it tried. Those
        behind one that could not be read are computed.
        """
        assert self.disk is not None
        restore, size = self._restores[sequence], self.config.block_size
        first = sequence.num_computed_tokens // size
        stop = min(restore.end, first + max_blocks)
        hashes = sequence.block_hashes(stop, size)
        number = first
        while number < stop and self.disk.read(hashes[number], sequence.block_table[number]):
            self.pool.remember(sequence.block_table[number], hashes[number])
            number += 1
        sequence.num_computed_tokens = number * size
        num_tokens = (number - first) * size
        self.stats.num_cached_tokens += num_tokens
        self.stats.num_restored_tokens += num_tokens
        if restore.is_first:
            sequence.num_cached_tokens = sequence.num_computed_tokens
        if number < stop or number == restore.end:
            del self._restores[sequence]
        return stop - first

    def _prefix_hashes(self, sequence: Sequence) -> list[bytes]:
        """Full blocks before the last token, which is always computed: its logits are needed; so
        are those of the tokens that the reader of the prompt still wants.
        """
        if not self.config.enable_prefix_caching:
            return []
        num_tokens, reader = sequence.num_tokens - 1, sequence.prompt_reader
        if reader is not None and reader.next_row < reader.end_row:
            num_tokens = min(num_tokens, reader.next_row)
        size = self.config.block_size
        return sequence.block_hashes(num_tokens // size, size)

    def _grow(self, sequence: Sequence) -> bool:
        """Blocks for all present tokens; False, and nothing changed, if the pool has too few."""
        table = sequence.block_table
        num_missing = self._num_blocks(sequence) - len(table)
        if num_missing > self.pool.num_free:
            return False
        for _ in range(num_missing):
            table.append(self.pool.allocate(after=table[-1] if table else -1))
        return True

    def _take_back(self, sequence: Sequence) -> None:
        """Frees the blocks behind the present tokens."""
        num_blocks = self._num_blocks(sequence)
        self.pool.free(sequence.block_table[num_blocks:])
        del sequence.block_table[num_blocks:]

    def _num_blocks(self, sequence: Sequence) -> int:
        return -(-sequence.num_tokens // self.config.block_size)

    def _preempt_last(self) -> None:
        sequence = self.running.pop()
        self._release(sequence)
        self.waiting.appendleft(sequence)
        self.stats.num_preemptions += 1

    def _release(self, sequence: Sequence) -> None:
        self._restores.pop(sequence, None)
        self.pool.free(sequence.block_table)
        sequence.block_table = []
        sequence.num_computed_tokens = 0
