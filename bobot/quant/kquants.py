"""GGUF blocks of 256 values: Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_XS TQ1_0 TQ2_0. Reference dequantization.

Every `dequantize_*` takes blocks (n, block bytes) uint8 and gives (n, 256) float32, with the same
operations in the same order as ggml's `dequantize_row_*` (ggml-quants.c), so that the values are
equal bit for bit. A block is cut into groups of 16 or 32 values, each with its own small integer
scale (and minimum), which the block's float16 d (and dmin) multiplies. G below is the axis of the
groups.
"""

from __future__ import annotations

import numpy as np

from bobot.quant.gguf_blocks import IQ4_VALUES, Bytes, Floats, halves, nibbles


def dequantize_q2_k(blocks: Bytes) -> Floats:
    """16 bytes (low half scale s, high half minimum m), 64 bytes of 2-bit q, d, dmin.

    d * s * q - dmin * m.
    """
    scales, q = blocks[:, :16], _bit_planes(blocks[:, 16:80], 2, 32).reshape(-1, 16, 16)
    d_nG = halves(blocks, 80, 82) * (scales & 15).astype(np.float32)
    m_nG = halves(blocks, 82, 84) * (scales >> 4).astype(np.float32)
    return (d_nG[..., None] * q.astype(np.float32) - m_nG[..., None]).reshape(-1, 256)


def dequantize_q3_k(blocks: Bytes) -> Floats:
    """32 bytes of third bits, 64 bytes of 2-bit q, 12 bytes of sixteen 6-bit scales, d: d * (s -
    32) * q.

    q in [-4, 3]: a third bit that is not set takes 4 away.
    """
    third = np.unpackbits(blocks[:, :32, None], axis=2, bitorder="little").swapaxes(1, 2)
    q = _bit_planes(blocks[:, 32:96], 2, 32).astype(np.int8) - 4 + 4 * third.reshape(-1, 256)
    packed = blocks[:, 96:108]
    low, high = nibbles(packed[:, :8]), packed[:, 8:]
    top = np.concatenate([high >> shift & 3 for shift in (0, 2, 4, 6)], axis=1)
    scales_nG = (low | top << 4).astype(np.float32) - 32
    d_nG = halves(blocks, 108, 110) * scales_nG
    return (d_nG[..., None] * q.reshape(-1, 16, 16).astype(np.float32)).reshape(-1, 256)


def dequantize_q4_k(blocks: Bytes) -> Floats:
    """d, dmin, 12 bytes of eight 6-bit scales and minima, 128 bytes of 4-bit q: d*s*q - dmin*m."""
    return _scale_and_shift(blocks, _half_bytes(blocks[:, 16:144]))


def dequantize_q5_k(blocks: Bytes) -> Floats:
    """As Q4_K, with 32 bytes of fifth bits first; bit g of byte i belongs to value 32g + i."""
    fifth = np.unpackbits(blocks[:, 16:48, None], axis=2, bitorder="little").swapaxes(1, 2)
    return _scale_and_shift(blocks, _half_bytes(blocks[:, 48:176]) | fifth << 4)


def dequantize_q6_k(blocks: Bytes) -> Floats:
    """128 bytes of low 4 bits, 64 of high 2 bits, sixteen int8 scales s, d: d * s * (q - 32)."""
    low = _bit_planes(blocks[:, :128], 4, 64)
    high = _bit_planes(blocks[:, 128:192], 2, 32)
    q = (low | high << 4).reshape(-1, 16, 16).astype(np.float32) - 32
    d_nG = halves(blocks, 208, 210) * blocks[:, 192:208].view(np.int8).astype(np.float32)
    return (d_nG[..., None] * q).reshape(-1, 256)


def dequantize_iq4_xs(blocks: Bytes) -> Floats:
    """d, 2 bytes with the top 2 bits of eight 6-bit scales, 4 bytes with the low 4, 128 bytes of q.

    d * (s - 32) * IQ4_VALUES[q]; within a group of 32 the low halves come first.
    """
    top = np.ascontiguousarray(blocks[:, 2:4]).view("<u2") >> np.arange(0, 16, 2) & 3
    low = np.stack([blocks[:, 4:8] & 15, blocks[:, 4:8] >> 4], axis=2).reshape(-1, 8)
    d_nG = halves(blocks, 0, 2) * ((low | top << 4).astype(np.float32) - 32)
    return (
        d_nG[..., None] * IQ4_VALUES[_bit_planes(blocks[:, 8:], 4, 16).reshape(-1, 8, 32)]
    ).reshape(-1, 256)


def dequantize_tq1_0(blocks: Bytes) -> Floats:
    """Five base-3 digits a byte (32, then 16 bytes), 4 bytes with four digits each, d: d * (digit
    - 1).

    A byte holds its digits as a fraction of 256: times a power of 3, the next digit is the
    overflow of *3.
    """
    digits = [
        _ternary(blocks[:, :32], 5),
        _ternary(blocks[:, 32:48], 5),
        _ternary(blocks[:, 48:52], 4),
    ]
    return halves(blocks, 52, 54) * (np.concatenate(digits, axis=1).astype(np.float32) - 1)


def dequantize_tq2_0(blocks: Bytes) -> Floats:
    """64 bytes of 2-bit q, d: d * (q - 1)."""
    return halves(blocks, 64, 66) * (_bit_planes(blocks[:, :64], 2, 32).astype(np.float32) - 1)


def _bit_planes(packed: Bytes, bits: int, run: int) -> Bytes:
    """Runs of `run` bytes, each run read once per plane of `bits` bits, the lowest plane first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    planes = packed.reshape(len(packed), -1, 1, run) >> shifts & ((1 << bits) - 1)
    return planes.reshape(len(packed), -1)


def _half_bytes(packed: Bytes) -> Bytes:
    return _bit_planes(packed, 4, 32).reshape(-1, 8, 32)


def _scale_and_shift(blocks: Bytes, q_nG: Bytes) -> Floats:
    """d * s * q - dmin * m for (n, 8, 32) integers; the 6-bit s and m of Q4_K and Q5_K in bytes
    4-16.

    Groups 0-3: s and m are the low 6 bits of bytes 0-3 and 4-7. Groups 4-7: their low 4 bits are
    the halves of bytes 8-11, their high 2 bits the top of bytes 0-3 and 4-7.
    """
    first, second, third = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = np.concatenate([first & 63, third & 15 | first >> 6 << 4], axis=1)
    minima = np.concatenate([second & 63, third >> 4 | second >> 6 << 4], axis=1)
    d_nG = halves(blocks, 0, 2) * scales.astype(np.float32)
    m_nG = halves(blocks, 2, 4) * minima.astype(np.float32)
    return (d_nG[..., None] * q_nG.astype(np.float32) - m_nG[..., None]).reshape(-1, 256)


def _ternary(packed: Bytes, num_digits: int) -> Bytes:
    powers = np.array([1, 3, 9, 27, 81], np.uint8)[:num_digits, None]
    shifted = packed[:, None, :] * powers
    return (shifted.astype(np.uint16) * 3 >> 8).astype(np.uint8).reshape(len(packed), -1)
