"""Weights as tiles, the order in which the C++ kernels multiply them: kernels/csrc/tiles.h.

A weight is turned into tiles once, bit by bit: nothing is rounded, and it takes the bytes it took
before (rows are filled up to a multiple of 16, tiles of a large matrix to a page of 4096 bytes;
scales that several rows share are repeated for each, 3 % of FP8 in blocks of 128 x 128).

Activations are multiplied as floats if they are float32, else as 16-bit integers with one scale per
32 inputs, which is finer than the bfloat16 they come in, or as 8-bit ones where that was chosen.
Weights that are no integers (FP8, NF4, 16 bits) take them as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from math import gcd
from typing import Literal, TypeVar

import torch
from torch import Tensor

from bobot import kernels
from bobot.quant.interleaved import InTurn, rows_in_turn
from bobot.quant.native import Packed, packed_rows
from bobot.quant.weight import Format, Parts, QuantWeight, Weight

W = TypeVar("W", bound=Weight)

Activations = Literal["int8"] | None
"""What activations are rounded to; None: to nothing coarser than their dtype."""
FLOAT_KERNELS = frozenset({"nf4", "fp4", "float8_e4m3fn", "bfloat16", "float16"})
"""Formats whose codes are floats, as the activations they are multiplied with then are."""


@dataclass(frozen=True)
class TileLayout:
    """What the kernels need to know of a matrix besides its bytes."""

    kernel: str
    """The published format, as in kernels.FORMATS."""
    scales: str
    """The dtype of scales that lay apart; empty where they lay among the values."""
    num_rows: int
    num_columns: int
    group: int
    """Inputs that share a scale, of formats that leave it open."""

    def arguments(self) -> tuple[str, str, int, int, int]:
        return self.kernel, self.scales, self.num_rows, self.num_columns, self.group

    @property
    def num_bytes(self) -> int:
        return kernels.tiles_bytes(*self.arguments())


@dataclass(frozen=True, kw_only=True)
class TileFormat(Format):
    """The format of weights whose one part, `tiles` (uint8), has a matrix's bytes in its last
    axis.
    """

    layout: TileLayout
    activations: Activations = None


def tiled(weight: W) -> W | QuantWeight:
    """The weight as tiles (a copy) if it can be, else the weight itself."""
    layout = tile_layout(weight)
    if layout is None:
        return weight
    experts: list[Weight] = (
        [weight] if weight.ndim == 2 else [weight[e] for e in range(weight.shape[0])]
    )
    tiles = torch.empty(len(experts), layout.num_bytes, dtype=torch.uint8)
    for expert, out in zip(experts, tiles, strict=True):
        matrix = _matrix(expert)
        assert matrix is not None
        kernels.pack_tiles(
            *layout.arguments(),
            matrix.values.contiguous(),
            _scales_of_rows(matrix, layout),
            out,
            num_threads=torch.get_num_threads(),
        )
    return weight_from_tiles(layout, tiles if weight.ndim > 2 else tiles[0])


def tile_layout(weight: Weight) -> TileLayout | None:
    """Of the weight, or of each matrix of a stack. None for what has no tiles: a format without
    them, rows that are no whole tiles. None at all where the kernels have no vector instructions:
    there rows are multiplied twice as fast.
    """
    if not kernels.available or kernels.isa() == "portable":
        return None
    matrix = _matrix(weight if weight.ndim == 2 else weight[0])
    if matrix is None or not kernels.has_tiles(matrix.kernel):
        return None
    num_rows, num_columns = weight.shape[-2:]
    group = matrix.values_per_scale
    unit = 256 if kernels.FORMATS[matrix.kernel][0] == 256 else 32
    if not matrix.is_known or num_columns % unit:
        return None
    if matrix.scales is None:
        return TileLayout(matrix.kernel, "", num_rows, num_columns, 0)
    scales = str(matrix.scales.dtype).removeprefix("torch.")
    is_known = scales in ("float32", "float16", "bfloat16", "uint8")
    if not is_known or group % 32:
        return None
    # Where the last scale of a row is for fewer inputs, all are repeated for smaller groups.
    return TileLayout(matrix.kernel, scales, num_rows, num_columns, gcd(group, num_columns))


def weight_from_tiles(layout: TileLayout, tiles: Tensor) -> QuantWeight:
    """The weight of these bytes, uint8 (bytes) or, of a stack, (E, bytes)."""
    shape = (*tiles.shape[:-1], layout.num_rows, layout.num_columns)
    return QuantWeight(tile_format(layout), {"tiles": tiles}, shape)


def takes_integers(weight: Weight) -> bool:
    """Whether these are tiles that meet activations of integers, if so chosen."""
    if not isinstance(weight, QuantWeight) or not isinstance(weight.format, TileFormat):
        return False
    return weight.format.layout.kernel not in FLOAT_KERNELS


def with_activations(weight: QuantWeight, activations: Activations) -> QuantWeight:
    """The same tiles, which take integers, multiplied with such activations."""
    assert takes_integers(weight) and isinstance(weight.format, TileFormat)
    return replace(weight, format=tile_format(weight.format.layout, activations))


def kernel_activations(dtype: torch.dtype, chosen: Activations) -> str:
    """What the kernels multiply activations of that dtype as."""
    return chosen or ("float32" if dtype == torch.float32 else "int16")


@cache
def tile_format(layout: TileLayout, activations: Activations = None) -> TileFormat:
    def rows(parts: Parts, index_R: Tensor) -> Tensor:
        out_RK = torch.empty(len(index_R), layout.num_columns)
        kernels.tiles_rows(
            *layout.arguments(), parts["tiles"], index_R, out_RK, num_threads=_num_threads(layout)
        )
        return out_RK

    def dequantize(parts: Parts) -> Tensor:
        matrices = parts["tiles"].reshape(-1, parts["tiles"].shape[-1])
        every = torch.arange(layout.num_rows)
        values = torch.stack([rows({"tiles": matrix}, every) for matrix in matrices])
        return values.view(*parts["tiles"].shape[:-1], *values.shape[1:])

    def product(x_MK: Tensor, parts: Parts) -> Tensor:
        out_MN = torch.empty(x_MK.shape[0], layout.num_rows)
        kernels.tiles_linear(
            *layout.arguments(),
            parts["tiles"].numpy(),
            x_MK.detach().float().contiguous().numpy(),
            out_MN.numpy(),
            activations=kernel_activations(x_MK.dtype, activations),
            num_threads=_num_threads(layout) if len(x_MK) == 1 else torch.get_num_threads(),
        )
        return out_MN

    return TileFormat(
        name=layout.kernel,
        dequantize=dequantize,
        product=product,
        rows=rows,
        layout=layout,
        activations=activations,
    )


def _num_threads(layout: TileLayout) -> int:
    return min(torch.get_num_threads(), 1 + layout.num_rows * layout.num_columns // (1 << 16))


def _scales_of_rows(matrix: Packed, layout: TileLayout) -> Tensor | None:
    """One number for each row and group of its inputs: (out, in / group)."""
    if matrix.scales is None:
        return None
    scales = matrix.scales.repeat_interleave(matrix.rows_per_scale, dim=0)[: layout.num_rows]
    times = matrix.values_per_scale // layout.group
    num_groups = layout.num_columns // layout.group
    return scales.repeat_interleave(times, dim=1)[:, :num_groups].contiguous()


def _matrix(weight: Weight) -> Packed | None:
    """A matrix as the kernels take it, two in turn as one; None for what they do not know."""
    if isinstance(weight, Tensor):
        return packed_rows(weight) if weight.device.type == "cpu" else None
    if isinstance(weight.format, InTurn):
        first, second = (_matrix(half) for half in rows_in_turn(weight))
        if first is None or second is None or first.kernel != second.kernel:
            return None
        if first.rows_per_scale > 1 or second.rows_per_scale > 1:
            return None
        return _in_turn(first, second)
    if weight.format.native is None or weight.device.type != "cpu":
        return None
    return weight.format.native(weight.parts)


def _in_turn(first: Packed, second: Packed) -> Packed:
    def turns(a: Tensor, b: Tensor) -> Tensor:
        return torch.stack((a, b), dim=1).flatten(0, 1)

    scales = None
    if first.scales is not None and second.scales is not None:
        scales = turns(first.scales, second.scales)
    return Packed(
        first.kernel,
        turns(first.values, second.values),
        scales,
        first.rows_per_scale,
        first.values_per_scale,
    )
