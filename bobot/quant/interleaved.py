"""Two packed weights read as one whose rows take turns: row 2i is row i of the first, row 2i + 1
row i of the second.

Nothing is moved or copied, so that both stay mapped from their file; their formats may differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bobot.quant.weight import Format, Parts, QuantWeight


@dataclass(frozen=True)
class InTurn(Format):
    """The format of such a weight, with those of its two halves."""

    formats: Mapping[str, Format] = field(default_factory=dict)


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


def rows_in_turn(weight: QuantWeight) -> tuple[QuantWeight, QuantWeight]:
    """The inverse: the even and the odd rows of a weight, made by `interleaved` or not."""
    rows = weight.shape[-2] // 2
    shape = (*weight.shape[:-2], rows, weight.shape[-1])
    if isinstance(weight.format, InTurn):
        kinds = weight.format.formats
        first, second = (
            QuantWeight(kinds[half], _parts_of(half, weight.parts), shape)
            for half in ("first", "second")
        )
        return first, second
    assert not weight.format.rows_per_entry
    axis = weight.ndim - 2
    even, odd = (
        QuantWeight(
            weight.format,
            {
                name: part.unflatten(axis, (rows, 2)).select(axis + 1, number)
                for name, part in weight.parts.items()
            },
            shape,
        )
        for number in (0, 1)
    )
    return even, odd


def _parts_of(half: str, parts: Parts) -> dict[str, Tensor]:
    prefix = half + "."
    return {n.removeprefix(prefix): part for n, part in parts.items() if n.startswith(prefix)}


def _format(formats: Mapping[str, Format], names: Parts) -> InTurn:
    assert not any(kind.rows_per_entry for kind in formats.values())

    def dequantize(parts: Parts) -> Tensor:
        rows = [kind.dequantize(_parts_of(half, parts)) for half, kind in formats.items()]
        return torch.stack(rows, dim=-2).flatten(-3, -2)

    def product(x_MK: Tensor, parts: Parts) -> Tensor | None:
        outputs: list[Tensor] = []
        for half, kind in formats.items():
            out_MN = kind.product(x_MK, _parts_of(half, parts)) if kind.product else None
            if out_MN is None:
                return None
            outputs.append(out_MN)
        return torch.stack(outputs, dim=-1).flatten(-2)

    return InTurn(
        name=" and ".join(kind.name for kind in formats.values()) + " in turn",
        dequantize=dequantize,
        rows_per_entry=dict.fromkeys(names, 2),
        product=product,
        formats=formats,
    )
