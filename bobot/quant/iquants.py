"""GGUF blocks of 256 values by code book: IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S IQ1_S IQ1_M. Reference
dequantization.

Every `dequantize_*` takes blocks (n, block bytes) uint8 and gives (n, 256) float32, equal bit for
bit to ggml's `dequantize_row_*` (ggml-quants.c): d has 11 significant bits, scale and vector have
at most 12 together, so every product is exact, whatever the order. An index stands for 8 (IQ3: 4)
values of a book in iquant_grids.py. In IQ2 and IQ3 the values of the book are magnitudes and the
signs are stored; in IQ1 they are -1, 0 or 1, all moved by an eighth up or down. G below is the axis
of the groups of 16 or 32 values that share a scale s.
"""

from __future__ import annotations

import numpy as np

from bobot.quant.gguf_blocks import Bytes, Floats, halves
from bobot.quant.iquant_grids import vectors


def dequantize_iq2_xxs(blocks: Bytes) -> Floats:
    """d, then for each group of 32 values four index bytes and a word of signs and scale.

    d * (s + 1/2) / 4 * vector.
    """
    words = _words(blocks, 2, 66, "<u4").reshape(-1, 8, 2)
    indices = np.ascontiguousarray(words[..., 0]).view(np.uint8)
    signs_nG, scales_nG = _signs_and_scale(words[..., 1])
    d_nG = halves(blocks, 0, 2) * (scales_nG + np.float32(0.5)) * np.float32(0.25)
    return _signed(d_nG, vectors("IQ2_XXS")[indices], signs_nG)


def dequantize_iq2_xs(blocks: Bytes) -> Floats:
    """d, 32 words of 9 bits index and 7 bits signs, sixteen 4-bit s: d * (s + 1/2) / 4 * vector."""
    words = _words(blocks, 2, 66, "<u2")
    d_nG = halves(blocks, 0, 2) * (_low_then_high(blocks[:, 66:74]) + np.float32(0.5))
    signs = _with_parity(words >> 9)
    return _signed(d_nG * np.float32(0.25), vectors("IQ2_XS")[words & 511], signs)


def dequantize_iq2_s(blocks: Bytes) -> Floats:
    """d, 32 low bytes of indices, 32 bytes of signs, 8 bytes of high 2 bits, sixteen 4-bit s.

    d * (s + 1/2) / 4 * vector.
    """
    indices = blocks[:, 2:34] | _planes(blocks[:, 66:74], 2) << 8
    d_nG = halves(blocks, 0, 2) * (_low_then_high(blocks[:, 74:82]) + np.float32(0.5))
    return _signed(d_nG * np.float32(0.25), vectors("IQ2_S")[indices], blocks[:, 34:66])


def dequantize_iq3_xxs(blocks: Bytes) -> Floats:
    """d, 64 indices, for each group of 32 values a word of signs and scale.

    d * (s + 1/2) / 2 * vector.
    """
    signs_nG, scales_nG = _signs_and_scale(_words(blocks, 66, 98, "<u4"))
    d_nG = halves(blocks, 0, 2) * (scales_nG + np.float32(0.5)) * np.float32(0.5)
    return _signed(d_nG, vectors("IQ3_XXS")[blocks[:, 2:66]], signs_nG)


def dequantize_iq3_s(blocks: Bytes) -> Floats:
    """d, 64 low bytes of indices, 8 bytes of ninth bits, 32 bytes of signs, eight 4-bit s.

    d * (2s + 1) * vector.
    """
    indices = blocks[:, 2:66] | _planes(blocks[:, 66:74], 1) << 8
    d_nG = halves(blocks, 0, 2) * (2 * _low_then_high(blocks[:, 106:110]) + 1)
    return _signed(d_nG, vectors("IQ3_S")[indices], blocks[:, 74:106])


def dequantize_iq1_s(blocks: Bytes) -> Floats:
    """d, 32 low bytes of indices, for each group of 32 values a word: the high 3 bits of its four
    indices, s, and whether the eighth is taken away.

    d * (2s + 1) * (vector +- 1/8).
    """
    words_nG = _words(blocks, 34, 50, "<u2")
    high = words_nG[..., None] >> np.array([0, 3, 6, 9], np.uint16) & 7
    indices = blocks[:, 2:34] | high.reshape(-1, 32) << 8
    shift_nG = np.where(words_nG >> 15, np.float32(-0.125), np.float32(0.125))
    d_nG = halves(blocks, 0, 2) * ((words_nG >> 12 & 7) * np.float32(2) + 1)
    moved = vectors("IQ1")[indices].reshape(-1, 8, 32) + shift_nG[..., None]
    return (d_nG[..., None] * moved).reshape(-1, 256)


def dequantize_iq1_m(blocks: Bytes) -> Floats:
    """32 low bytes of indices; for each vector 4 bits, the high 3 of its index and whether the
    eighth is taken away; 4 words of four 3-bit s, whose top 4 bits together are d, lowest first.

    d * (2s + 1) * (vector +- 1/8).
    """
    words = _words(blocks, 48, 56, "<u2")
    d = (words >> 12 << np.array([0, 4, 8, 12], np.uint16)).sum(axis=1, keepdims=True)
    scales_nG = (words[..., None] >> np.array([0, 3, 6, 9], np.uint16) & 7).reshape(-1, 16)
    d_nG = d.astype("<u2").view("<f2").astype(np.float32) * (scales_nG * np.float32(2) + 1)
    high = _planes(blocks[:, 32:48], 4)
    indices = blocks[:, :32] | (high & 7) << 8
    shift = np.where(high & 8, np.float32(-0.125), np.float32(0.125))
    moved = vectors("IQ1")[indices] + shift[..., None]
    return (d_nG[..., None] * moved.reshape(-1, 16, 16)).reshape(-1, 256)


def _words(blocks: Bytes, start: int, stop: int, dtype: str) -> Bytes:
    return np.ascontiguousarray(blocks[:, start:stop]).view(dtype)


def _planes(packed: Bytes, bits: int) -> Bytes:
    """(n, k) bytes -> (n, k * 8 / bits) uint16, of each byte its lowest `bits` bits first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint16)
    return (packed[..., None] >> shifts & ((1 << bits) - 1)).reshape(len(packed), -1)


def _low_then_high(packed: Bytes) -> Floats:
    """The two 4-bit numbers of each byte, the low half first."""
    return _planes(packed, 4).astype(np.float32)


def _signs_and_scale(words_nG: Bytes) -> tuple[Bytes, Floats]:
    """Words of four times 7 bits of signs and 4 bits of s: sign bytes (n, 4G), s (n, G)."""
    sevens = words_nG[..., None] >> np.array([0, 7, 14, 21], np.uint32) & 127
    signs = _with_parity(sevens.reshape(len(words_nG), -1))
    return signs, (words_nG >> 28).astype(np.float32)


def _with_parity(sevens: Bytes) -> Bytes:
    """7 signs -> a byte of 8: the number of negative values in a vector is even."""
    folded = sevens ^ sevens >> 4
    folded = folded ^ folded >> 2
    return (sevens | ((folded ^ folded >> 1) & 1) << 7).astype(np.uint8)


def _signed(d_nG: Floats, magnitudes: Floats, signs: Bytes) -> Floats:
    """d of each group times its values; value i is negative if bit i of `signs` (n, 32) is set."""
    negative = np.unpackbits(np.ascontiguousarray(signs), axis=1, bitorder="little").astype(bool)
    values = magnitudes.reshape(-1, 256)
    values = np.where(negative, -values, values).reshape(len(values), d_nG.shape[1], -1)
    return (d_nG[..., None] * values).reshape(-1, 256)
