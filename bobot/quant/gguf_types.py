"""The tensor types of GGUF: ggml type id -> name, values and bytes per block, reference
dequantization.

Adding a block type is one function and one row in BLOCK_TYPES.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from bobot import kernels
from bobot.quant import gguf_blocks, iquants, kquants
from bobot.quant.gguf_blocks import Bytes, Floats
from bobot.quant.native import Packed, native_format
from bobot.quant.weight import Format, Parts, QuantWeight

BLOCKS_AT_ONCE = 1 << 14
"""Blocks dequantized in one step: keeps the temporary arrays below some 50 MB."""


@dataclass(frozen=True)
class DenseType:
    name: str
    dtype: torch.dtype


@dataclass(frozen=True)
class BlockType:
    name: str
    block_size: int
    block_bytes: int
    dequantize: Callable[[Bytes], Floats]


DENSE_TYPES = {
    0: DenseType("F32", torch.float32),
    1: DenseType("F16", torch.float16),
    24: DenseType("I8", torch.int8),
    25: DenseType("I16", torch.int16),
    26: DenseType("I32", torch.int32),
    27: DenseType("I64", torch.int64),
    28: DenseType("F64", torch.float64),
    30: DenseType("BF16", torch.bfloat16),
}

BLOCK_TYPES = {
    2: BlockType("Q4_0", 32, 18, gguf_blocks.dequantize_q4_0),
    3: BlockType("Q4_1", 32, 20, gguf_blocks.dequantize_q4_1),
    6: BlockType("Q5_0", 32, 22, gguf_blocks.dequantize_q5_0),
    7: BlockType("Q5_1", 32, 24, gguf_blocks.dequantize_q5_1),
    8: BlockType("Q8_0", 32, 34, gguf_blocks.dequantize_q8_0),
    10: BlockType("Q2_K", 256, 84, kquants.dequantize_q2_k),
    11: BlockType("Q3_K", 256, 110, kquants.dequantize_q3_k),
    12: BlockType("Q4_K", 256, 144, kquants.dequantize_q4_k),
    13: BlockType("Q5_K", 256, 176, kquants.dequantize_q5_k),
    14: BlockType("Q6_K", 256, 210, kquants.dequantize_q6_k),
    16: BlockType("IQ2_XXS", 256, 66, iquants.dequantize_iq2_xxs),
    17: BlockType("IQ2_XS", 256, 74, iquants.dequantize_iq2_xs),
    18: BlockType("IQ3_XXS", 256, 98, iquants.dequantize_iq3_xxs),
    19: BlockType("IQ1_S", 256, 50, iquants.dequantize_iq1_s),
    20: BlockType("IQ4_NL", 32, 18, gguf_blocks.dequantize_iq4_nl),
    21: BlockType("IQ3_S", 256, 110, iquants.dequantize_iq3_s),
    22: BlockType("IQ2_S", 256, 82, iquants.dequantize_iq2_s),
    23: BlockType("IQ4_XS", 256, 136, kquants.dequantize_iq4_xs),
    29: BlockType("IQ1_M", 256, 56, iquants.dequantize_iq1_m),
    34: BlockType("TQ1_0", 256, 54, kquants.dequantize_tq1_0),
    35: BlockType("TQ2_0", 256, 66, kquants.dequantize_tq2_0),
    39: BlockType("MXFP4", 32, 17, gguf_blocks.dequantize_mxfp4),
}


@cache
def block_format(kind: BlockType) -> Format:
    """Weights whose one part, `blocks`, holds each row's packed bytes: uint8 (.., out, bytes)."""

    def reference(parts: Parts) -> Tensor:
        return reference_values(kind, parts["blocks"])

    if kind.name not in kernels.FORMATS:
        return Format(kind.name, reference)
    return native_format(kind.name, reference, lambda parts: Packed(kind.name, parts["blocks"]))


def weight_from_blocks(kind: BlockType, row_bytes: Tensor) -> QuantWeight:
    """The weight whose rows are packed in the last axis of `row_bytes` (uint8)."""
    num_blocks = row_bytes.shape[-1] // kind.block_bytes
    shape = (*row_bytes.shape[:-1], num_blocks * kind.block_size)
    return QuantWeight(block_format(kind), {"blocks": row_bytes}, shape)


def dequantize(kind: BlockType, row_bytes: Tensor) -> Tensor:
    """float32 values (.., in) of packed rows, uint8 (.., bytes): a whole number of blocks a row."""
    return block_format(kind).dequantize({"blocks": row_bytes})


def reference_values(kind: BlockType, row_bytes: Tensor) -> Tensor:
    """The same in NumPy."""
    blocks = row_bytes.cpu().contiguous().numpy().reshape(-1, kind.block_bytes)
    values = np.empty((len(blocks), kind.block_size), np.float32)
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # an infinite scale is the file's own business
        for start in range(0, len(blocks), BLOCKS_AT_ONCE):
            step = slice(start, start + BLOCKS_AT_ONCE)
            values[step] = kind.dequantize(blocks[step])
    return torch.from_numpy(values).view(*row_bytes.shape[:-1], -1).to(row_bytes.device)


def quantize_q8_0(values: Tensor) -> Tensor:
    """Packed Q8_0 bytes (uint8, 1-D) of a floating tensor whose last axis is a multiple of 32."""
    assert values.shape[-1] % 32 == 0
    groups = values.detach().to(torch.float32).contiguous().view(-1, 32).numpy()
    packed = np.empty((len(groups), 34), np.uint8)
    for start in range(0, len(groups), BLOCKS_AT_ONCE):
        step = slice(start, start + BLOCKS_AT_ONCE)
        packed[step] = gguf_blocks.quantize_q8_0(groups[step])
    return torch.from_numpy(packed).view(-1)
