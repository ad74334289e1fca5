"""The tensor types of GGUF: ggml type id -> name, values and bytes per block, reference
dequantization.

Adding a block type is one function and one row in BLOCK_TYPES. The seven IQ1, IQ2 and IQ3 types,
which need code books, are known by name only, so that a refusal can say which type it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bobot import kernels
from bobot.quant import gguf_blocks, kquants
from bobot.quant.gguf_blocks import Bytes, Floats

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
    kernel: Callable[[Bytes, Floats], None] | None = None
    """The same in C++, writing its second argument; used where the extension is built."""


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
    8: BlockType("Q8_0", 32, 34, gguf_blocks.dequantize_q8_0, kernels.dequantize_q8_0),
    10: BlockType("Q2_K", 256, 84, kquants.dequantize_q2_k),
    11: BlockType("Q3_K", 256, 110, kquants.dequantize_q3_k),
    12: BlockType("Q4_K", 256, 144, kquants.dequantize_q4_k),
    13: BlockType("Q5_K", 256, 176, kquants.dequantize_q5_k),
    14: BlockType("Q6_K", 256, 210, kquants.dequantize_q6_k),
    20: BlockType("IQ4_NL", 32, 18, gguf_blocks.dequantize_iq4_nl),
    23: BlockType("IQ4_XS", 256, 136, kquants.dequantize_iq4_xs),
    34: BlockType("TQ1_0", 256, 54, kquants.dequantize_tq1_0),
    35: BlockType("TQ2_0", 256, 66, kquants.dequantize_tq2_0),
    39: BlockType("MXFP4", 32, 17, gguf_blocks.dequantize_mxfp4),
}

UNREADABLE_TYPES = {
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    21: "IQ3_S",
    22: "IQ2_S",
    29: "IQ1_M",
}


def dequantize(kind: BlockType, data_bytes: Tensor, shape: Sequence[int]) -> Tensor:
    """The float32 tensor of `shape` that the packed uint8 `data_bytes` stand for, rows one after
    another.

    The last axis must be a multiple of kind.block_size.
    """
    blocks = data_bytes.numpy().reshape(-1, kind.block_bytes)
    values = np.empty((len(blocks), kind.block_size), np.float32)
    assert values.size == math.prod(shape) and shape[-1] % kind.block_size == 0
    if kind.kernel is not None and kernels.available:
        kind.kernel(blocks, values)
        return torch.from_numpy(values).view(tuple(shape))
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # an infinite scale is the file's own business
        for start in range(0, len(blocks), BLOCKS_AT_ONCE):
            step = slice(start, start + BLOCKS_AT_ONCE)
            values[step] = kind.dequantize(blocks[step])
    return torch.from_numpy(values).view(tuple(shape))


def quantize_q8_0(values: Tensor) -> Tensor:
    """Packed Q8_0 bytes (uint8, 1-D) of a floating tensor whose last axis is a multiple of 32."""
    assert values.shape[-1] % 32 == 0
    groups = values.detach().to(torch.float32).contiguous().view(-1, 32).numpy()
    packed = np.empty((len(groups), 34), np.uint8)
    for start in range(0, len(groups), BLOCKS_AT_ONCE):
        step = slice(start, start + BLOCKS_AT_ONCE)
        packed[step] = gguf_blocks.quantize_q8_0(groups[step])
    return torch.from_numpy(packed).view(-1)
