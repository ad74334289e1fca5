"""Four bits that choose one of 16 floats: NF4 (arXiv:2305.14314, section 3) and FP4, as
bitsandbytes publishes them.

    codes  (.., out, in / 2)     uint8: byte j holds input 2j in its high half, 2j + 1 in its low
    scales (.., out, in / block) float32: the largest magnitude of each block
    value = table[code] * scale

Source: bitsandbytes `functional.py` (QuantState, get_4bit_type, dequantize_4bit). There a matrix is
one run of values, cut into blocks without regard to rows; here each row has whole blocks.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from bobot.quant.native import Packed, native_format
from bobot.quant.weight import Parts, QuantWeight

# fmt: off
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)
# fmt: on
FP4_MAGNITUDES = (0.0, 0.0625 / 12, 8 / 12, 1.0, 4 / 12, 6 / 12, 2 / 12, 3 / 12)
TABLES = {"nf4": NF4, "fp4": (*FP4_MAGNITUDES, *(-value for value in FP4_MAGNITUDES))}
"""The tables as in kernels/csrc/packed_formats.h."""


def table(kind: str) -> Tensor:
    """float32 (16); `kind` is nf4 or fp4."""
    return torch.tensor(TABLES[kind], dtype=torch.float32)


def unpacked(kind: str, codes: Tensor, scales: Tensor) -> Tensor:
    """The values (.., n) of codes (.., n / 2) and scales (.., n / block): float32."""
    numbers = torch.stack((codes >> 4, codes & 15), dim=-1).flatten(-2)
    values = table(kind).to(codes.device)[numbers.int()].unflatten(-1, (scales.shape[-1], -1))
    return (values * scales.unsqueeze(-1)).flatten(-2)


def _reference(kind: str, parts: Parts) -> Tensor:
    return unpacked(kind, parts["codes"], parts["scales"])


def _packed(kind: str, parts: Parts) -> Packed:
    codes, scales = parts["codes"], parts["scales"]
    block = 2 * codes.shape[-1] // scales.shape[-1]
    return Packed(kind, codes, scales, values_per_scale=block)


FORMATS = {
    kind: native_format(kind, partial(_reference, kind), partial(_packed, kind)) for kind in TABLES
}


def weight_from_parts(kind: str, codes: Tensor, scales: Tensor) -> QuantWeight:
    """The caller has checked that they fit."""
    shape = (*codes.shape[:-1], 2 * codes.shape[-1])
    return QuantWeight(FORMATS[kind], {"codes": codes, "scales": scales}, shape)
