"""Limits per minute for each key: requests when they come, tokens when they have been used."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from bobot.server.failures import DoorError
from bobot.server.keys import Key

MINUTE_S = 60.0


@dataclass
class Bucket:
    """Holds up to `capacity`, fills evenly within a minute; what is spent late may leave a debt."""

    capacity: int
    level: float
    filled_s: float

    def fill(self, now_s: float) -> None:
        gained = (now_s - self.filled_s) * self.capacity / MINUTE_S
        self.level = min(self.capacity, self.level + gained)
        self.filled_s = now_s

    def wait_s(self, amount: float) -> float:
        """Seconds until `amount` is there; 0 if it is."""
        return max(0.0, amount - self.level) * MINUTE_S / self.capacity


class Rates:
    """The buckets of every key that has limits."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[tuple[int, str], Bucket] = {}

    def enter(self, key: Key) -> dict[str, str]:
        """Counts a request; the headers that tell what is left. DoorError 429 when a limit is
        reached.
        """
        limits = {"requests": key.requests_per_minute, "tokens": key.tokens_per_minute}
        buckets = {u: self._bucket(key, u, limit) for u, limit in limits.items() if limit}
        waits = ((bucket.wait_s(1.0), unit) for unit, bucket in buckets.items())
        wait_s, unit = max(waits, default=(0.0, ""))
        if wait_s > 0:
            raise DoorError(
                "The key has reached its limit of {limit} {unit} per minute; try again in"
                " {wait_s:.1f} seconds.",
                status=429,
                code="rate_limit_exceeded",
                retry_after_s=wait_s,
                limit=limits[unit],
                unit=unit,
                wait_s=wait_s,
            )
        if "requests" in buckets:
            buckets["requests"].level -= 1
        headers: dict[str, str] = {}
        for unit, bucket in buckets.items():
            headers[f"x-ratelimit-limit-{unit}"] = str(bucket.capacity)
            headers[f"x-ratelimit-remaining-{unit}"] = str(max(0, int(bucket.level)))
            headers[f"x-ratelimit-reset-{unit}"] = f"{bucket.wait_s(bucket.capacity):.1f}s"
        return headers

    def spend(self, key: Key, num_tokens: int) -> None:
        """Counts the tokens of an answer."""
        if key.tokens_per_minute is not None:
            self._bucket(key, "tokens", key.tokens_per_minute).level -= num_tokens

    def _bucket(self, key: Key, unit: str, limit: int) -> Bucket:
        now_s = self._clock()
        bucket = self._buckets.get((key.id, unit))
        if bucket is None or bucket.capacity != limit:
            bucket = self._buckets[key.id, unit] = Bucket(limit, limit, now_s)
        bucket.fill(now_s)
        return bucket
