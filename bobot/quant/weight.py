"""A weight kept in the form it was published in, from the file to the matrix product.

Not a torch.Tensor: what a caller may do with it is what is written here. Whoever wants numbers
calls `dequantize`, for the rows needed; the reference product is ops/linear.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

Parts = Mapping[str, Tensor]


@dataclass(frozen=True)
class Format:
    """How a weight is stored. `dequantize` turns its parts into float32, of whatever leading shape.

    A part usually has one row per row of the weight; `rows_per_entry` says where it has one per so
    many. `product(x_MK, parts)` is a faster x @ weight.T in float32, of a floating x; None where
    there is none for these parts.
    """

    name: str
    dequantize: Callable[[Parts], Tensor]
    rows_per_entry: Mapping[str, int] = field(default_factory=dict)
    product: Callable[[Tensor, Parts], Tensor | None] | None = None
    native: Callable[[Parts], Any] | None = None
    """The weight as the C++ kernels take it, where they know the format: quant/native.py."""
    rows: Callable[[Parts, Tensor], Tensor] | None = None
    """Single rows of a matrix in float32, of a format whose parts do not lie row by row."""


@dataclass(frozen=True)
class QuantWeight:
    """A matrix (out, in), or the matrices of all experts of a layer (E, out, in)."""

    format: Format
    parts: Parts
    shape: tuple[int, ...]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def device(self) -> torch.device:
        return next(iter(self.parts.values())).device

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts.values())

    def numel(self) -> int:
        return math.prod(self.shape)

    def dequantize(self) -> Tensor:
        """The values: float32, `shape`."""
        return self.format.dequantize(self.parts)

    def __getitem__(self, index: int | slice) -> QuantWeight:
        """Expert `index` of a stack, or a run of experts or rows; the parts are views.

        Rows that share an entry stay together: a run must begin at the first of them.
        """
        if isinstance(index, int):
            assert self.ndim == 3
            parts = {name: part[index] for name, part in self.parts.items()}
            return QuantWeight(self.format, parts, self.shape[1:])
        assert self.ndim == 3 or self.format.rows is None
        start, stop, _ = index.indices(self.shape[0])
        parts = {}
        for name, part in self.parts.items():
            rows = self.format.rows_per_entry.get(name, 1) if self.ndim == 2 else 1
            assert start % rows == 0
            parts[name] = part[start // rows : -(-stop // rows)]
        return QuantWeight(self.format, parts, (stop - start, *self.shape[1:]))

    def rows(self, index_R: Tensor) -> Tensor:
        """The values of single rows of a matrix, such as embeddings of ids: float32 (R, in)."""
        if self.format.rows is not None:
            return self.format.rows(self.parts, index_R)
        assert self.ndim == 2 and not self.format.rows_per_entry
        return self.format.dequantize({n: part[index_R] for n, part in self.parts.items()})

    def values(self, start: int, stop: int) -> Tensor:
        """The values of rows start .. stop - 1 of a matrix, or up to its end: float32."""
        if self.format.rows is None:
            return self[start:stop].dequantize()
        return self.rows(torch.arange(start, min(stop, self.shape[0])))

    def to(self, device: str | torch.device) -> QuantWeight:
        return replace(self, parts={name: part.to(device) for name, part in self.parts.items()})


Weight = Tensor | QuantWeight


def values_of(weight: Weight) -> Tensor:
    """A plain weight as it is, a packed one unpacked."""
    return weight.dequantize() if isinstance(weight, QuantWeight) else weight


def stack(weights: Sequence[Weight]) -> Weight:
    """Weights of one shape and format along a new first axis: a copy."""
    first = weights[0]
    if isinstance(first, Tensor):
        return torch.stack([w for w in weights if isinstance(w, Tensor)])
    parts = {
        name: torch.stack([w.parts[name] for w in weights if isinstance(w, QuantWeight)])
        for name in first.parts
    }
    return QuantWeight(first.format, parts, (len(weights), *first.shape))


def change_rows(weight: Weight, change: Callable[[Tensor], Tensor]) -> Weight:
    """The weight with `change` applied to every part; exact, for formats that store row by row.

    `change` moves rows (the first axis of a matrix, the second of a stack) and touches nothing
    behind them.
    """
    if isinstance(weight, Tensor):
        return change(weight)
    assert not weight.format.rows_per_entry
    return replace(weight, parts={name: change(part) for name, part in weight.parts.items()})
