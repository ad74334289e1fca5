"""Ratings against the definition: the maximum of the likelihood, found in another way."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable

import pytest

from bobot.chat.elo import MEAN, Outcome, ratings

SCALE = 400.0


def fit(votes: Iterable[Outcome]) -> dict[str, float]:
    return {rating.model: rating.elo for rating in ratings(votes, num_draws=1)}


def log_likelihood(counts: Counter[Outcome], elo: dict[str, float]) -> float:
    """Of the votes and of one imagined tie each with a model of 1000, from the formula."""

    def log_win(a: float, b: float) -> float:
        return -math.log1p(10 ** ((b - a) / SCALE))

    total = sum(0.5 * (log_win(r, MEAN) + log_win(MEAN, r)) for r in elo.values())
    for (a, b, score), n in counts.items():
        total += n * (score * log_win(elo[a], elo[b]) + (1 - score) * log_win(elo[b], elo[a]))
    return total


def test_two_models_have_the_rating_that_bisection_finds() -> None:
    counts = Counter({("a", "b", 1.0): 70, ("b", "a", 1.0): 20, ("a", "b", 0.5): 10})
    low, high = 0.0, 1000.0
    while high - low > 1e-9:  # by symmetry a and b lie as far above and below the mean
        middle = (low + high) / 2
        share = 1 / (1 + 10 ** (-2 * middle / SCALE))
        own = 1 / (1 + 10 ** (-middle / SCALE))
        slope = (75 - 100 * share) + (0.5 - own)
        low, high = (middle, high) if slope > 0 else (low, middle)
    found = fit(counts.elements())
    assert found["a"] == pytest.approx(MEAN + low, abs=1e-4)
    assert found["b"] == pytest.approx(MEAN - low, abs=1e-4)


def votes_of(strengths: dict[str, float], num: int, seed: int) -> list[Outcome]:
    draw = random.Random(seed)
    votes: list[Outcome] = []
    for _ in range(num):
        a, b = draw.sample(sorted(strengths), 2)
        share = 1 / (1 + 10 ** ((strengths[b] - strengths[a]) / SCALE))
        votes.append((a, b, 0.5 if draw.random() < 0.1 else float(draw.random() < share)))
    return votes


TRUE = {"a": 1300.0, "b": 1100.0, "c": 1000.0, "d": 900.0, "e": 700.0}


def test_no_small_step_is_more_likely() -> None:
    counts = Counter(votes_of(TRUE, 400, 1))
    found = fit(counts.elements())
    best = log_likelihood(counts, found)
    for model in found:
        for step in (-1.0, 1.0):
            assert log_likelihood(counts, {**found, model: found[model] + step}) < best


def test_order_of_the_votes_changes_nothing() -> None:
    votes = votes_of(TRUE, 300, 2)
    shuffled = random.Random(0).sample(votes, len(votes))
    assert fit(votes) == pytest.approx(fit(shuffled), abs=1e-6)


def test_true_strengths_lie_in_their_intervals_about_as_often_as_promised() -> None:
    inside = 0
    for seed in range(12):
        for rating in ratings(votes_of(TRUE, 400, seed), num_draws=100, seed=seed):
            # ties at random pull everybody a little to the middle; the interval is wider than that
            inside += rating.low - 25 <= TRUE[rating.model] <= rating.high + 25
    assert inside >= 52, f"{inside} of 60"


def test_interval_of_two_models_is_that_of_the_binomial() -> None:
    votes: list[Outcome] = [("a", "b", 1.0)] * 600 + [("a", "b", 0.0)] * 400
    best, _ = ratings(votes, num_draws=800)
    # the rating of a is half of the difference; its standard error by the delta method
    error = 0.5 * SCALE / math.log(10) * math.sqrt(1 / (1000 * 0.6 * 0.4))
    assert best.model == "a"
    assert best.high - best.low == pytest.approx(2 * 1.96 * error, rel=0.12)


def test_nobody_and_a_model_that_never_lost() -> None:
    assert ratings([]) == []
    assert ratings([("a", "a", 1.0)]) == []
    [best, worst] = ratings([("a", "b", 1.0)] * 5)
    assert (best.model, best.num_votes) == ("a", 5)
    assert MEAN < best.elo < 2000
    assert worst.elo == pytest.approx(2 * MEAN - best.elo)
