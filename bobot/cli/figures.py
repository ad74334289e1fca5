"""The figures of `bobot bench`: what is measured of a model, and the least the machine would need.

What each figure's limit is:

    prefill, decode   the larger of two times of a step: the bytes it must read by the memory's
                      speed, and its operations by those of the fastest instructions that do not
                      round activations to 8 bits (weights/work.py says what is counted)
    start from disk   the bytes of the weights by the speed of the disk they lie on
    start from cache  the same bytes by the speed of the memory
    memory            the bytes of the weights

A model that a cache of the processor holds can pass the limit of the memory. The limits are of the
machine, whatever instruction set BOBOT_ISA forces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from bobot.messages import tr

if TYPE_CHECKING:
    from bobot.kernels.limits import Limits
    from bobot.weights.subject import Subject

Name = Literal["prefill", "decode", "start_from_disk", "start_from_cache", "memory"]
Bound = Literal["memory", "operations", "disk", "weights"]
NEW_TOKENS = 32
"""Of each row in a run of decode."""


@dataclass(frozen=True)
class Figure:
    """One row of the table. Rates in tokens per second, starts in seconds, memory in bytes."""

    name: Name
    runs: tuple[float, ...]
    num_rows: int = 1
    num_new: int = 1
    """Tokens that each row computes in the step the limit is for."""
    depth: int = 0

    @property
    def title(self) -> str:
        """As a person reads it."""
        if self.name == "prefill":
            title = tr("prefill, {count} tokens", count=self.num_new)
        elif self.name == "decode":
            is_one = self.num_rows == 1
            title = (
                tr("decode, 1 row") if is_one else tr("decode, {count} rows", count=self.num_rows)
            )
        else:
            return {
                "start_from_disk": tr("cold start, from disk"),
                "start_from_cache": tr("cold start, from page cache"),
                "memory": tr("memory then resident"),
            }[self.name]
        return tr("{title}, depth {depth}", title=title, depth=self.depth) if self.depth else title

    @property
    def median(self) -> float:
        return median(self.runs)

    @property
    def is_rate(self) -> bool:
        return self.name in ("prefill", "decode")


@dataclass(frozen=True)
class Limit:
    """In the unit of its figure, and what sets it."""

    value: float
    bound: Bound

    def share(self, figure: Figure) -> float:
        """Which part of what is possible the figure reaches: 1 is all of it."""
        return figure.median / self.value if figure.is_rate else self.value / figure.median


def limit_of(
    figure: Figure, subject: Subject, limits: Limits, disk_bytes_per_s: float | None
) -> Limit | None:
    """None where the disk could not be measured."""
    from bobot.weights.work import step_work

    weight_bytes = subject.published.num_bytes
    if figure.name == "memory":
        return Limit(weight_bytes, "weights")
    if figure.name == "start_from_cache":
        return Limit(weight_bytes / limits.memory_bytes_per_s, "memory")
    if figure.name == "start_from_disk":
        return Limit(weight_bytes / disk_bytes_per_s, "disk") if disk_bytes_per_s else None
    model: Any = subject.model
    work = step_work(
        subject.published,
        model.kv_specs(),
        getattr(subject.config, "num_experts_per_tok", 0),
        num_rows=figure.num_rows,
        num_new=figure.num_new,
        # decode is timed over a run; in its middle half of the new tokens are there
        depth=figure.depth + (NEW_TOKENS // 2 if figure.name == "decode" else 0),
    )
    rates = (limits.memory_bytes_per_s, limits.precise_operations_per_s)
    is_read = work.num_bytes / rates[0] >= work.num_operations / rates[1]
    num_tokens = figure.num_rows * figure.num_new
    return Limit(num_tokens / work.least_s(*rates), "memory" if is_read else "operations")


def as_json(figure: Figure, limit: Limit | None) -> dict[str, Any]:
    runs: Sequence[float] = figure.runs
    return {
        "name": figure.name,
        "unit": "tokens/s" if figure.is_rate else "bytes" if figure.name == "memory" else "s",
        "rows": figure.num_rows,
        "new_tokens": figure.num_new,
        "depth": figure.depth,
        "median": figure.median,
        "min": min(runs),
        "max": max(runs),
        "runs": list(runs),
        "limit": limit.value if limit else None,
        "bound": limit.bound if limit else None,
        "share_of_limit": limit.share(figure) if limit else None,
    }
