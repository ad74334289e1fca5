"""Ratings from votes between pairs of models, on Elo's scale, with a confidence interval.

The rating is the maximum of the Bradley-Terry likelihood, which does not depend on the order of
the votes, as Elo's own update does: P(a beats b) = s(x_a - x_b) with s(x) = 1 / (1 + exp(-x)),
rating = 1000 + 400 x / ln 10. Each model also has one imagined tie with a model of rating 1000, so
that one that never lost has a rating too. A tie is half a win for both. The interval is the
bootstrap's: votes drawn anew, with replacement.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

MEAN = 1000.0
SCALE = 400.0 / np.log(10)
MAX_STEPS = 100
MAX_STEP = 2.0
TOLERANCE = 1e-10

Outcome = tuple[str, str, float]
"""Models a and b, and the score of a: 1, 0.5 or 0."""


@dataclass(frozen=True)
class Rating:
    model: str
    elo: float
    low: float
    """Between low and high lie 95 of 100 ratings from votes drawn anew."""
    high: float
    num_votes: int


def ratings(outcomes: Iterable[Outcome], num_draws: int = 300, seed: int = 0) -> list[Rating]:
    """Every model that was voted on, the best first."""
    counts = Counter(vote for vote in outcomes if vote[0] != vote[1])
    if not counts:
        return []
    names = sorted({name for a, b, _ in counts for name in (a, b)})
    place = {name: number for number, name in enumerate(names)}
    first = np.array([place[a] for a, _, _ in counts])
    second = np.array([place[b] for _, b, _ in counts])
    score = np.array([score for _, _, score in counts])
    num = np.array(list(counts.values()))
    draws = np.random.default_rng(seed).multinomial(num.sum(), num / num.sum(), size=num_draws)
    elo = fit(first, second, score, num, len(names))
    drawn = [fit(first, second, score, draw, len(names)) for draw in draws]
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    votes = np.bincount(first, num, len(names)) + np.bincount(second, num, len(names))
    found = [
        Rating(name, float(elo[i]), float(low[i]), float(high[i]), int(votes[i]))
        for i, name in enumerate(names)
    ]
    return sorted(found, key=lambda rating: -rating.elo)


def fit(
    first: np.ndarray, second: np.ndarray, score: np.ndarray, num: np.ndarray, num_models: int
) -> np.ndarray:
    """The rating of each model, by Newton's method; vote k, cast num[k] times, gave the model
    first[k] the score against second[k].
    """
    x = np.zeros(num_models)
    for _ in range(MAX_STEPS):
        win = 1 / (1 + np.exp(x[second] - x[first]))
        surprise, weight = num * (score - win), num * win * (1 - win)
        own = 1 / (1 + np.exp(-x))
        slope = 0.5 - own
        np.add.at(slope, first, surprise)
        np.add.at(slope, second, -surprise)
        curve = np.diag(own * (1 - own))
        np.add.at(curve, (first, first), weight)
        np.add.at(curve, (second, second), weight)
        np.add.at(curve, (first, second), -weight)
        np.add.at(curve, (second, first), -weight)
        step = np.linalg.solve(curve, slope).clip(-MAX_STEP, MAX_STEP)
        x += step
        if np.abs(step).max() < TOLERANCE:
            break
    return MEAN + SCALE * x
