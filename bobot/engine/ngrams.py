"""Drafts without a model: what stood behind the latest tokens the last time they occurred.

Code that is edited, tables, JSON and quotations repeat themselves, and there it costs nothing to
guess what comes. Prompt lookup (github.com/apoorvumang/prompt-lookup-decoding), with the search of
LZ77: chains of equal pairs, newest first, and the longest match wins (RFC 1951, section 4).
"""

from __future__ import annotations

from collections.abc import Mapping

from bobot.engine.request import Sequence

MIN_MATCH = 2
"""Equal tokens in a row that make a draft. By chance two occur all the time, but then one draft in
five is right, and where it never is `speculation.Trust` asks less often.
"""
MAX_MATCH = 32
"""Tokens compared at most: beyond, one match is as good as another."""
MAX_CANDIDATES = 32
"""Earlier places looked at, so that a token costs microseconds however long the text is."""


class NgramIndex:
    """Finds where a growing list of tokens was like its end before.

    `_earlier[p]` is the latest q < p with the same pair of tokens at q - 1 and q as at p - 1 and p,
    or 0 where there is none.
    """

    def __init__(self) -> None:
        self._latest: dict[tuple[int, int], int] = {}
        self._earlier: list[int] = [0]

    def draft(self, ids: list[int], max_tokens: int) -> tuple[int, ...]:
        """What may follow `ids`, which begins with all that was given before."""
        self._extend(ids)
        match = self._longest_match(ids)
        if not match:
            return ()
        # The copy may reach into itself: behind "a b a b" it is "a b a b a b ...".
        period = len(ids) - 1 - match
        return tuple(ids[match + 1 + i % period] for i in range(max_tokens))

    def _extend(self, ids: list[int]) -> None:
        latest, earlier = self._latest, self._earlier
        for p in range(len(earlier), len(ids)):
            pair = ids[p - 1], ids[p]
            earlier.append(latest.get(pair, 0))
            latest[pair] = p

    def _longest_match(self, ids: list[int]) -> int:
        """The position that is most like the last one; 0 for none."""
        best, best_length = 0, 0
        end = len(ids) - 1
        candidate = self._earlier[end]
        for _ in range(MAX_CANDIDATES):
            if not candidate or best_length == MAX_MATCH:
                break
            length = MIN_MATCH
            while length < min(MAX_MATCH, candidate + 1) and (
                ids[candidate - length] == ids[end - length]
            ):
                length += 1
            if length > best_length:
                best, best_length = candidate, length
            candidate = self._earlier[candidate]
        return best


class NgramDrafter:
    """A drafter (speculation.py) with one index for each sequence."""

    def __init__(self) -> None:
        self._indexes: dict[Sequence, NgramIndex] = {}

    def draft(self, limits: Mapping[Sequence, int]) -> dict[Sequence, tuple[int, ...]]:
        """At most limits[s] tokens that may follow sequence s; none where nothing is repeated."""
        return {s: self._index(s).draft(s.token_ids, limit) for s, limit in limits.items()}

    def forget(self, sequence: Sequence) -> None:
        self._indexes.pop(sequence, None)

    def _index(self, sequence: Sequence) -> NgramIndex:
        return self._indexes.setdefault(sequence, NgramIndex())
