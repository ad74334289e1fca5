"""Who owns which block of the KV cache: free list, reference counts, prefix sharing. No tensors.

A block is in exactly one of three states:

    blank      free, content worthless
    cached     free, content known by its hash; evicted least recently used first
    in use     owned by one sequence, or by several that share a prefix

Only full blocks get a hash, so only full blocks are shared, and a shared block is never written.
Paged attention: arXiv:2309.06180. Sharing by chained hash: vLLM's automatic prefix caching.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterable, Sequence


class BlockPool:
    """Hands out blocks 0..num_blocks-1."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._ref_counts = [0] * num_blocks
        self._blank = list(range(num_blocks))
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._block_of_hash: dict[bytes, int] = {}
        self._hash_of_block: dict[int, bytes] = {}

    @property
    def num_free(self) -> int:
        """Blocks that can be allocated now, cached ones included."""
        return len(self._blank) + len(self._cached)

    def match(self, hashes: Iterable[bytes]) -> list[int]:
        """The blocks that hold the longest known prefix of `hashes`; not yet owned."""
        blocks = []
        for block_hash in hashes:
            block = self._block_of_hash.get(block_hash)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def num_free_without(self, blocks: Iterable[int]) -> int:
        """What `num_free` will be once `blocks` are shared."""
        return self.num_free - sum(self._ref_counts[block] == 0 for block in blocks)

    def share(self, blocks: Iterable[int]) -> None:
        """One more owner for each of `blocks`, which `match` found."""
        for block in blocks:
            if self._ref_counts[block] == 0:
                del self._cached[block]
            self._ref_counts[block] += 1

    def allocate(self, after: int = -1) -> int:
        """A block with one owner and no hash: the first blank one behind `after`, so that a lone
        sequence lies in one run and needs no gather. Evicts the oldest cached block when no blank
        one is left. The caller checks `num_free` first.
        """
        if self._blank:
            at = bisect_left(self._blank, after + 1)
            block = self._blank.pop(at if at < len(self._blank) else 0)
        else:
            block, _ = self._cached.popitem(last=False)
            del self._block_of_hash[self._hash_of_block.pop(block)]
        self._ref_counts[block] = 1
        return block

    def remember(self, block: int, block_hash: bytes) -> None:
        """Makes a full block findable. The first block with a hash stays the shared one."""
        if block_hash not in self._block_of_hash and block not in self._hash_of_block:
            self._block_of_hash[block_hash] = block
            self._hash_of_block[block] = block_hash

    def free(self, blocks: Sequence[int]) -> None:
        """One owner less for each; last block first, so that a prefix outlives its continuation."""
        for block in reversed(blocks):
            assert self._ref_counts[block] > 0, f"block {block} freed twice"
            self._ref_counts[block] -= 1
            if self._ref_counts[block]:
                continue
            if block in self._hash_of_block:
                self._cached[block] = None
            else:
                insort(self._blank, block)
