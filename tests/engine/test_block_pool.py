"""The block pool: no block has two owners by accident, none is lost, shared prefixes are found."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from bobot.engine.block_pool import BlockPool
from bobot.engine.request import Request
from bobot.engine.sampling_params import SamplingParams


def assert_sound(pool: BlockPool, tables: list[list[int]]) -> None:
    """Owners counted from outside equal the pool's counts; each block is in exactly one state."""
    owners = Counter(block for table in tables for block in table)
    blank, cached = list(pool._blank), list(pool._cached)
    assert blank == sorted(set(blank)), "the blank list must rise without repeats"
    states = Counter(blank) + Counter(cached) + Counter(set(owners))
    assert states == Counter(range(pool.num_blocks)), f"blocks in no state or in two: {states}"
    assert [owners[b] for b in range(pool.num_blocks)] == pool._ref_counts
    assert pool.num_free == pool.num_blocks - len(owners)
    assert {h: b for b, h in pool._hash_of_block.items()} == pool._block_of_hash
    assert set(cached) <= set(pool._hash_of_block)
    assert not set(blank) & set(pool._hash_of_block)


@pytest.mark.parametrize("seed", range(8))
def test_any_order_of_operations_keeps_every_block_in_one_state(seed: int) -> None:
    rng = random.Random(seed)
    pool = BlockPool(rng.randint(1, 24))
    tables: list[list[int]] = []
    hashes: dict[int, list[bytes]] = {}
    for _ in range(600):
        action = rng.choice(["start", "grow", "grow", "remember", "free"])
        if action == "start":
            known = rng.choice(list(hashes.values()) or [[]])
            shared = pool.match(known)
            before = pool.num_free_without(shared)
            pool.share(shared)
            assert pool.num_free == before
            tables.append(shared)
            hashes[id(shared)] = known[: len(shared)]
        elif tables:
            table = rng.choice(tables)
            if action == "grow" and pool.num_free:
                block = pool.allocate(after=table[-1] if table else -1)
                assert all(block not in other for other in tables), f"block {block} owned twice"
                table.append(block)
            elif action == "remember":
                known = hashes.setdefault(id(table), [])
                while len(known) < len(table):
                    known.append(rng.randbytes(1) if rng.random() < 0.3 else rng.randbytes(8))
                    pool.remember(table[len(known) - 1], known[-1])
            elif action == "free":
                tables = [other for other in tables if other is not table]
                pool.free(table)
        assert_sound(pool, tables)
    for table in tables:
        pool.free(table)
    assert pool.num_free == pool.num_blocks


def test_a_lone_sequence_gets_one_ascending_run() -> None:
    pool = BlockPool(16)
    first = [pool.allocate()]
    second = [pool.allocate(), pool.allocate()]
    pool.free(first)
    table = [pool.allocate(after=second[-1])]
    for _ in range(12):
        table.append(pool.allocate(after=table[-1]))
    assert table == list(range(3, 16)), table
    assert pool.allocate(after=table[-1]) == 0, "the search wraps round to the first blank block"


def test_the_least_recently_used_block_is_evicted_and_a_prefix_outlives_its_end() -> None:
    pool = BlockPool(4)
    old = [pool.allocate() for _ in range(2)]
    recent = [pool.allocate() for _ in range(2)]
    for i, block in enumerate(old + recent):
        pool.remember(block, bytes([i]))
    pool.free(old)
    pool.free(recent)
    assert pool.allocate() == old[1], "the end of the oldest prefix goes first"
    assert pool.match([b"\0", b"\1"]) == [old[0]]
    assert pool.allocate() == old[0]
    assert pool.match([b"\2", b"\3"]) == recent


def test_freeing_a_block_twice_is_caught() -> None:
    pool = BlockPool(2)
    block = pool.allocate()
    pool.free([block])
    with pytest.raises(AssertionError, match="freed twice"):
        pool.free([block])


def test_equal_hashes_mean_equal_tokens_from_the_start() -> None:
    def hashes(ids: list[int]) -> list[bytes]:
        request = Request(0, ids, SamplingParams(), seed=0, max_len=99)
        return request.sequences[0].block_hashes(len(ids) // 4, 4)

    one = hashes([1, 2, 3, 4, 5, 6, 7, 8])
    assert one == hashes([1, 2, 3, 4, 5, 6, 7, 8, 9])
    other = hashes([9, 2, 3, 4, 5, 6, 7, 8])
    assert one[0] != other[0]
    assert one[1] != other[1], "the second block has the same tokens but another past"
    assert len({*one, *hashes([5, 6, 7, 8])}) == 3, "block hashes must depend on what came before"
