"""Low-rank adapters (LoRA, arXiv:2106.09685) on the linear layers of a model that knows nothing of
them: for the rows of an adapter y = W x + B A x, for all others y = W x.

Here for the modules of any model on any device; a step in one C++ call adds the same by itself
(engine/fused.py).

Axes: T packed tokens, D inputs and F outputs of a linear layer, R rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

MIN_ROWS = 16
"""Of a product in torch's library: it adds up fewer in another order, so that a token alone would
differ in the last bits from one in a batch (MKL: below 4 rows with one thread, 12 with two)."""


@dataclass(frozen=True)
class LowRank:
    """The change of one linear layer: A, and B with its scale, turned so that outputs lie side by
    side. Both float32 and contiguous.
    """

    a_RD: Tensor
    b_RF: Tensor


@dataclass(frozen=True, eq=False)
class Adapter:
    """The changes of a model's layers, by the names of the modules."""

    layers: Mapping[str, LowRank]
    digest: bytes
    """Of all values: what tells its keys and values in a cache from those of others."""

    @property
    def num_bytes(self) -> int:
        return sum(change.a_RD.nbytes + change.b_RF.nbytes for change in self.layers.values())


Rows = tuple[Adapter, slice]
"""An adapter, and which of the packed tokens are its own."""


@contextmanager
def applied(model: Any, rows: Sequence[Rows]) -> Iterator[None]:
    """Inside the block the model changes these rows by their adapters; no two of them overlap.

    Nothing of the model is replaced and its weights may be packed: the products are added behind
    those of its own, in float32.
    """
    changes: dict[str, list[tuple[LowRank, slice]]] = {}
    for adapter, own in rows:
        for name, change in adapter.layers.items():
            changes.setdefault(name, []).append((change, own))
    hooks = []
    try:
        for name, found in changes.items():
            module = model.get_submodule(name)
            hooks.append(module.register_forward_hook(_adding(found)))
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _adding(changes: list[tuple[LowRank, slice]]) -> Callable[..., Tensor]:
    return partial(_add, changes)


def _add(
    changes: list[tuple[LowRank, slice]], module: nn.Module, given: tuple[Any, ...], out_TF: Tensor
) -> Tensor:
    """What stands in the place of the layer's output."""
    (x_TD,) = given
    for change, own in changes:
        out_TF[own] = (out_TF[own].float() + _product(x_TD[own].float(), change)).to(out_TF.dtype)
    return out_TF


def _product(x_TD: Tensor, change: LowRank) -> Tensor:
    """B A x of each row: (T, F)."""
    num_rows = x_TD.shape[0]
    if num_rows < MIN_ROWS:
        x_TD = F.pad(x_TD, (0, 0, 0, MIN_ROWS - num_rows))
    return (F.linear(x_TD, change.a_RD) @ change.b_RF)[:num_rows]
