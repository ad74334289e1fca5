"""MXFP4 moved between its two layouts, bit for bit: that of safetensors files (mxfp4.py) and GGUF's
blocks (gguf_blocks.py).

A group of 32 values is 17 bytes either way. GGUF puts the scale first, and element j shares a byte
with element j + 16; the other layout keeps scales apart, and element 2j shares a byte with 2j + 1.
"""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor

from bobot.quant import mxfp4
from bobot.quant.gguf_types import BLOCK_TYPES, block_format
from bobot.quant.interleaved import InTurn, rows_in_turn
from bobot.quant.weight import QuantWeight, Weight

GGUF_MXFP4 = next(kind for kind in BLOCK_TYPES.values() if kind.name == "MXFP4")


def is_mxfp4(weight: Weight) -> TypeGuard[QuantWeight]:
    return isinstance(weight, QuantWeight) and weight.format is mxfp4.MXFP4


def mxfp4_to_gguf(weight: QuantWeight) -> Tensor:
    """Packed rows of GGUF's MXFP4, uint8 (.., out, bytes), of a weight in mxfp4.MXFP4."""
    blocks, scales = weight.parts["blocks"], weight.parts["scales"]
    codes = torch.stack((blocks & 15, blocks >> 4), dim=-1).flatten(-2)
    packed = codes[..., :16] | codes[..., 16:] << 4
    return torch.cat((scales.unsqueeze(-1), packed), dim=-1).flatten(-2)


def mxfp4_from_gguf(weight: Weight) -> Weight:
    """The weight in mxfp4.MXFP4 if it is GGUF's MXFP4, or two of them in turn; any other as it
    is.
    """
    if isinstance(weight, QuantWeight) and isinstance(weight.format, InTurn):
        first, second = map(mxfp4_from_gguf, rows_in_turn(weight))
        if not (is_mxfp4(first) and is_mxfp4(second)):
            return weight
        axis = weight.ndim - 1
        blocks, scales = (
            torch.stack((first.parts[part], second.parts[part]), axis).flatten(axis - 1, axis)
            for part in ("blocks", "scales")
        )
        return mxfp4.weight_from_parts(blocks, scales)
    if not isinstance(weight, QuantWeight) or weight.format is not block_format(GGUF_MXFP4):
        return weight
    blocks = weight.parts["blocks"].unflatten(-1, (-1, GGUF_MXFP4.block_bytes))
    packed = blocks[..., 1:]
    codes = torch.cat((packed & 15, packed >> 4), dim=-1)
    return mxfp4.weight_from_parts(codes[..., 0::2] | codes[..., 1::2] << 4, blocks[..., 0])
