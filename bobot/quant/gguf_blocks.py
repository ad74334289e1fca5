"""GGUF blocks of 32 values: Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 IQ4_NL MXFP4. Reference dequantization, and
Q8_0 back.

Every `dequantize_*` takes blocks (n, block bytes) uint8 and gives (n, 32) float32, with the same
operations in the same order as ggml's `dequantize_row_*` (ggml-quants.c), so that the values are
equal bit for bit. d is the block's scale, m its minimum, q the stored integers; little-endian.
Where two 4-bit values share a byte, the low halves are values 0-15 and the high halves 16-31.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# uint8 and float32 throughout; numpy's stubs lose the width in shifts and products.
Bytes = NDArray[Any]
Floats = NDArray[Any]

IQ4_VALUES = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)
"""The 16 levels of IQ4_NL and IQ4_XS (ggml-common.h, kvalues_iq4nl)."""

_FP4_DOUBLED = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)
"""Twice E2M1 (OCP microscaling formats 1.0, 5.3.3): sign, two exponent bits, one mantissa bit."""


def halves(blocks: Bytes, start: int, stop: int) -> Floats:
    """float16 numbers in bytes [start, stop) of each block, as float32."""
    return np.ascontiguousarray(blocks[:, start:stop]).view("<f2").astype(np.float32)


def nibbles(packed: Bytes) -> Bytes:
    """(n, k) bytes -> (n, 2k): all low halves, then all high halves."""
    return np.concatenate([packed & 15, packed >> 4], axis=1)


def dequantize_q4_0(blocks: Bytes) -> Floats:
    """d f16, 16 bytes: d * (q - 8)."""
    return halves(blocks, 0, 2) * (nibbles(blocks[:, 2:]).astype(np.float32) - 8)


def dequantize_q4_1(blocks: Bytes) -> Floats:
    """d f16, m f16, 16 bytes: d * q + m."""
    return halves(blocks, 0, 2) * nibbles(blocks[:, 4:]).astype(np.float32) + halves(blocks, 2, 4)


def dequantize_q5_0(blocks: Bytes) -> Floats:
    """d f16, 4 bytes with the fifth bits, 16 bytes: d * (q - 16)."""
    q = nibbles(blocks[:, 6:]) | _fifth_bits(blocks[:, 2:6])
    return halves(blocks, 0, 2) * (q.astype(np.float32) - 16)


def dequantize_q5_1(blocks: Bytes) -> Floats:
    """d f16, m f16, 4 bytes with the fifth bits, 16 bytes: d * q + m."""
    q = nibbles(blocks[:, 8:]) | _fifth_bits(blocks[:, 4:8])
    return halves(blocks, 0, 2) * q.astype(np.float32) + halves(blocks, 2, 4)


def dequantize_q8_0(blocks: Bytes) -> Floats:
    """d f16, 32 int8: d * q."""
    return halves(blocks, 0, 2) * blocks[:, 2:].view(np.int8).astype(np.float32)


def dequantize_iq4_nl(blocks: Bytes) -> Floats:
    """d f16, 16 bytes: d * IQ4_VALUES[q]."""
    return halves(blocks, 0, 2) * IQ4_VALUES[nibbles(blocks[:, 2:])]


def dequantize_mxfp4(blocks: Bytes) -> Floats:
    """One byte e, 16 bytes of E2M1: 2**(e - 127) * value, as 2**(e - 128) * twice the value."""
    scales = np.ldexp(np.float32(1), blocks[:, :1].astype(np.int32) - 128)
    return scales * _FP4_DOUBLED[nibbles(blocks[:, 1:])]


def quantize_q8_0(values: Floats) -> Bytes:
    """(n, 32) float32 -> (n, 34) bytes of Q8_0: d = max|x| / 127, q = x / d rounded half away from
    zero.

    The same bytes as ggml's quantize_row_q8_0_ref.
    """
    d = np.abs(values).max(axis=1, keepdims=True) / np.float32(127)
    inverse = np.divide(np.float32(1), d, out=np.zeros_like(d), where=d != 0)
    scaled = values * inverse
    magnitude = np.floor(np.abs(scaled))
    magnitude += np.floor(2 * (np.abs(scaled) - magnitude))
    q = np.copysign(magnitude, scaled).astype(np.int8)
    return np.concatenate([d.astype("<f2").view(np.uint8), q.view(np.uint8)], axis=1)


def _fifth_bits(packed: Bytes) -> Bytes:
    """(n, 4) bytes, bit i of the 32 belongs to value i -> (n, 32) of 0 or 16."""
    return np.unpackbits(packed, axis=1, bitorder="little") << 4
