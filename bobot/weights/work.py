"""What one step of a model has to do at least, whoever computes it: bytes to read from memory and
operations. With the limits of a machine this gives the least time of the step.

Counted as read: every weight that a token of the step passes, once and as it is stored (all but the
embedding; of a mixture the experts that so many tokens choose when all are equally likely), and
keys and values of the cache. Counted as operations: two for each weight of a matrix and token that
passes it, and those of attention. Not counted, being small: embeddings, norms, rotations, softmax,
sampling, and writing the cache. Attention is counted as the family defines it: a latent
cache (MLA) with its absorbed form, to which a prompt has a cheaper way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from bobot.layers.context import AttentionSpec
from bobot.weights.forms import Form, Role, Stored


@dataclass(frozen=True)
class Work:
    """Of one step."""

    num_bytes: float
    num_operations: float

    def least_s(self, bytes_per_s: float, operations_per_s: float) -> float:
        """Seconds on a machine that reads and computes at the same time."""
        return max(self.num_bytes / bytes_per_s, self.num_operations / operations_per_s)


def step_work(
    form: Form,
    specs: Sequence[AttentionSpec],
    num_active: int,
    *,
    num_rows: int = 1,
    num_new: int = 1,
    depth: int = 0,
) -> Work:
    """The work of `num_rows` sequences of which each computes its next `num_new` tokens behind
    `depth` in the cache, and the scores of the token after them.

    num_active: experts that a token of a mixture passes. A prompt of 512 tokens is num_new=512; one
    token for each of eight conversations is num_rows=8.
    """
    num_tokens = num_rows * num_new
    num_bytes = num_operations = 0.0
    for stored in form.weights:
        if stored.part.role is Role.EMBEDDING:
            continue
        num_bytes += stored.num_bytes * _share_read(stored, num_active, num_tokens)
        if stored.part.role is not Role.SMALL:
            rows = num_rows if stored.part.role is Role.HEAD else num_tokens
            num_operations += 2.0 * rows * stored.part.numel * _share_read(stored, num_active, 1)
    for spec in specs:
        window = spec.sliding_window or inf
        keys = min(depth, window - 1) + num_new
        num_bytes += num_rows * keys * spec.cached_per_token * form.dtype.itemsize
        products = sum(min(depth + i, window) for i in range(1, num_new + 1))
        per_product = 2.0 * spec.num_heads * (spec.head_dim + spec.v_head_dim)
        num_operations += num_rows * products * per_product
    return Work(num_bytes, num_operations)


def _share_read(stored: Stored, num_active: int, num_tokens: int) -> float:
    """The share of a weight that at least one of so many tokens passes."""
    if stored.part.role is not Role.EXPERTS:
        return 1.0
    return 1 - (1 - num_active / stored.part.shape[0]) ** num_tokens
