"""Drafts from repetitions: the longest match wins, and a token costs the same in any context."""

from __future__ import annotations

import random

from bobot.engine.ngrams import MAX_CANDIDATES, MAX_MATCH, NgramDrafter, NgramIndex
from bobot.engine.request import Request
from bobot.engine.sampling_params import SamplingParams


def by_definition(ids: list[int], max_tokens: int) -> tuple[int, ...]:
    """Compares the end with every earlier place, without an index."""

    def match_length(p: int) -> int:
        length = 0
        while length < min(p + 1, MAX_MATCH) and ids[p - length] == ids[-1 - length]:
            length += 1
        return length

    candidates = [p for p in reversed(range(1, len(ids) - 1)) if match_length(p) >= 2]
    if not candidates:
        return ()
    best = max(candidates[:MAX_CANDIDATES], key=match_length)
    copy = list(ids)
    for i in range(max_tokens):
        copy.append(copy[best + 1 + i])
    return tuple(copy[len(ids) :])


def test_drafts_equal_those_of_the_definition_as_the_text_grows() -> None:
    rng = random.Random(2)
    for num_letters in (2, 3, 8, 40):
        ids: list[int] = []
        index = NgramIndex()
        found = 0
        for _ in range(400):
            if len(ids) > 20 and rng.random() < 0.1:
                start = rng.randrange(len(ids) - 10)
                ids += ids[start : start + rng.randint(1, 10)]
            ids.append(rng.randrange(num_letters))
            drafts = index.draft(ids, 5)
            assert drafts == by_definition(ids, 5), (num_letters, len(ids))
            found += bool(drafts)
        assert found > 20, (num_letters, found)


def test_the_longest_match_wins_over_a_later_one() -> None:
    assert NgramIndex().draft([1, 2, 3, 4, 9, 2, 3, 5, 1, 2, 3], 1) == (4,)
    assert NgramIndex().draft([2, 3, 4, 9, 2, 3, 5, 1, 2, 3], 1) == (5,), "the later of two equal"


def test_a_draft_may_continue_its_own_copy() -> None:
    assert NgramIndex().draft([7, 8, 9, 8, 9], 7) == (8, 9, 8, 9, 8, 9, 8)
    assert NgramIndex().draft([5, 5, 5], 4) == (5, 5, 5, 5)


def test_nothing_is_drafted_where_nothing_repeats() -> None:
    index = NgramIndex()
    for length in range(1, 200):
        assert index.draft(list(range(length)), 3) == ()


class CountingList(list[int]):
    """Counts how often an item is read."""

    reads = 0

    def __getitem__(self, key):  # type: ignore[override]
        self.reads += 1
        return super().__getitem__(key)


def test_a_token_costs_the_same_at_a_hundred_thousand_tokens() -> None:
    """Counted in tokens that are read, for the worst text: one where every place is a candidate."""
    bound = 2 + 3 * MAX_CANDIDATES * MAX_MATCH
    for period in (1, 2, 7, 50_000):
        ids = CountingList(i % period for i in range(100_000))
        index = NgramIndex()
        index.draft(ids, 3)
        assert ids.reads <= 2 * len(ids) + bound, "the prompt is read once"
        for _ in range(100):
            ids.append(len(ids) % period)
            ids.reads = 0
            assert index.draft(ids, 3) == tuple((len(ids) + i) % period for i in range(3))
            assert ids.reads <= bound


def test_sequences_keep_their_own_index_until_they_are_forgotten() -> None:
    params = SamplingParams(n=2)
    request = Request(0, [1, 2, 3, 1, 2], params, seed=0, max_len=99)
    one, two = request.sequences
    two.token_ids += [4, 1, 2]
    drafter = NgramDrafter()
    for _ in range(2):
        assert drafter.draft({one: 1, two: 2}) == {one: (3,), two: (4, 1)}
        drafter.forget(one)
    assert list(drafter._indexes) == [two]
