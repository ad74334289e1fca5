"""Two packed weights read as one whose rows take turns: row 2i is row i of the first, row 2i + 1
row i of the second.

Nothing is moved or copied, so that both stay mapped from their file; their formats may differ.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bobot.quant.weight import Format, Parts, QuantWeight


def interleaved(first: QuantWeight, second: QuantWeight) -> QuantWeight:
    """The weight (.., 2 * out, in) of two of shape (.., out, in) that store row by row."""
    assert first.shape == second.shape
    halves = {"first": first, "second": second}
    parts = {
        f"{half}.{name}": part
        for half, weight in halves.items()
        for name, part in weight.parts.items()
    }
    formats = {half: weight.format for half, weight in halves.items()}
    shape = (*first.shape[:-2], 2 * first.shape[-2], first.shape[-1])
    return QuantWeight(_format(formats, parts), parts, shape)


def _format(formats: Mapping[str, Format], names: Parts) -> Format:
    assert not any(kind.rows_per_entry for kind in formats.values())

    def of(half: str, parts: Parts) -> dict[str, Tensor]:
        prefix = half + "."
        return {n.removeprefix(prefix): part for n, part in parts.items() if n.startswith(prefix)}

    def dequantize(parts: Parts) -> Tensor:
        rows = [kind.dequantize(of(half, parts)) for half, kind in formats.items()]
        return torch.stack(rows, dim=-2).flatten(-3, -2)

    def product(x_MK: Tensor, parts: Parts) -> Tensor:
        outputs = [
            kind.product(x_MK, of(half, parts)) for half, kind in formats.items() if kind.product
        ]
        return torch.stack(outputs, dim=-1).flatten(-2)

    has_products = all(kind.product for kind in formats.values())
    return Format(
        name=" and ".join(kind.name for kind in formats.values()) + " in turn",
        dequantize=dequantize,
        rows_per_entry=dict.fromkeys(names, 2),
        product=product if has_products else None,
    )
