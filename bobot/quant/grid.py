"""Weights rounded into a packed format: which numbers it has, and which scale each group gets.

A grid is a format seen from the side of whoever fills it. `round_to_nearest` needs nothing but the
weight; gptq.py looks at what the weight is multiplied by.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bobot.quant import int4, mxfp4, scaled
from bobot.quant.weight import QuantWeight

GROUP = 32
"""Inputs that share a scale, in every grid: MXFP4's, and that of GGUF's small blocks."""

VALUES_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Grid:
    """`scales` (.., groups) of a weight cut into groups (.., groups, GROUP), as they will be
    stored; `nearest` level of weight / scale; `pack` levels (.., in) and scales into a weight.
    """

    name: str
    scales: Callable[[Tensor], Tensor]
    nearest: Callable[[Tensor], Tensor]
    pack: Callable[[Tensor, Tensor], QuantWeight]


def round_to_nearest(weight: Tensor, grid: Grid) -> QuantWeight:
    """Each value of a matrix to the nearest its group can say. The last axis is a multiple of
    GROUP. Some rows at a time, so that what is tried for them stays in the cache.
    """
    num_rows = max(1, VALUES_AT_ONCE // weight.shape[-1])
    levels = torch.empty(weight.shape, device=weight.device)
    scales = levels.new_empty(weight.shape[0], weight.shape[1] // GROUP)
    for rows in (slice(start, start + num_rows) for start in range(0, len(weight), num_rows)):
        grouped = weight[rows].float().unflatten(-1, (-1, GROUP))
        scales[rows] = grid.scales(grouped)
        steps = divisors(scales[rows]).unsqueeze(-1)
        levels[rows] = grid.nearest(grouped / steps).flatten(-2)
    return grid.pack(levels, scales)


def packed_shape(shape: tuple[int, ...], grid: Grid) -> QuantWeight:
    """A weight of that shape without values (on the meta device), to see its parts."""
    scales = torch.empty(*shape[:-1], shape[-1] // GROUP, device="meta")
    return grid.pack(torch.empty(shape, device="meta"), scales)


def divisors(scales: Tensor) -> Tensor:
    """The scales to divide by; a group of zeros has none."""
    return scales.where(scales > 0, 1.0)


def best_scales(grouped: Tensor, candidates: list[Tensor], nearest: Callable) -> Tensor:
    """Of several scales for each group the one with the least squared error."""
    best = candidates[0]
    least = torch.full_like(best, float("inf"))
    for scales in candidates:
        step = divisors(scales).unsqueeze(-1)
        error = (nearest(grouped / step).mul_(step).sub_(grouped)).square_().sum(-1)
        best = torch.where(error < least, scales, best)
        least = torch.minimum(error, least)
    return best


INT4_DIVISORS = tuple(7 + 0.5 * number for number in range(7))
"""The largest magnitude of a group comes to lie at 7, or beyond the last level: 7 to 10."""


def int4_scales(grouped: Tensor, tried: tuple[float, ...] = INT4_DIVISORS) -> Tensor:
    """max|w| / d for the best d: cutting off the largest value a little serves all others."""
    largest = grouped.abs().amax(-1)
    candidates = [(largest / divisor).bfloat16().float() for divisor in tried]
    return best_scales(grouped, candidates, _nearest_int4)


def _nearest_int4(values: Tensor) -> Tensor:
    return values.round().clamp_(-int4.OFFSET, int4.OFFSET - 1)


def _pack_int4(levels: Tensor, scales: Tensor) -> QuantWeight:
    return int4.weight_from_parts(int4.pack(levels), scales.bfloat16())


def _int8_scales(grouped: Tensor) -> Tensor:
    return (grouped.abs().amax(-1) / scaled.LARGEST_INT8).bfloat16().float()


def _nearest_int8(values: Tensor) -> Tensor:
    return values.round().clamp(-scaled.LARGEST_INT8, scaled.LARGEST_INT8)


def _pack_int8(levels: Tensor, scales: Tensor) -> QuantWeight:
    return scaled.weight_from_parts(levels.to(torch.int8), scales.bfloat16(), 1, GROUP)


def _mxfp4_scales(grouped: Tensor) -> Tensor:
    """A power of two: the one that just holds the largest magnitude, or half of it."""
    exponents = torch.frexp(grouped.abs().amax(-1)).exponent
    tried = [
        torch.ldexp(torch.ones_like(grouped[..., 0]), (exponents - less).clamp(-126, 126))
        for less in (3, 2)
    ]
    return best_scales(grouped, tried, _nearest_e2m1)


def _nearest_e2m1(values: Tensor) -> Tensor:
    """The levels stand 0.5 apart up to 2, 1 up to 4, 2 up to 6."""
    magnitudes = values.abs()
    steps = 0.5 + 0.5 * (magnitudes >= 2) + (magnitudes >= 4)
    rounded = (magnitudes / steps).round_().mul_(steps).clamp_(max=mxfp4.E2M1[-1])
    return rounded.copysign_(values)


def _pack_mxfp4(levels: Tensor, scales: Tensor) -> QuantWeight:
    return mxfp4.pack(levels.unflatten(-1, (-1, GROUP)), torch.frexp(scales).exponent - 1)


GRIDS = {
    "int8": Grid("int8", _int8_scales, _nearest_int8, _pack_int8),
    "int4": Grid("int4", int4_scales, _nearest_int4, _pack_int4),
    "mxfp4": Grid("mxfp4", _mxfp4_scales, _nearest_e2m1, _pack_mxfp4),
}
