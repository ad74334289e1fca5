"""Integers of four bits with one scale per group of inputs (compressed-tensors, pack-quantized).

    packed (.., out, in / 8)     int32, eight values a word, the lowest bits first, stored as q + 8
    scales (.., out, in / group) bfloat16 (or any float)
    value = q * scale, q from -8 to 7

Source: the compressed-tensors package, `compressors/pack_quantized`; the routed experts of
Kimi-K2-Thinking are published so (group 32).
"""

from __future__ import annotations

import torch
from torch import Tensor

from bobot.quant.native import Packed, native_format
from bobot.quant.weight import Parts, QuantWeight

VALUES_PER_WORD = 8
OFFSET = 8


def reference_values(parts: Parts) -> Tensor:
    packed, scales = parts["packed"], parts["scales"].float()
    values = unpack(packed).float().unflatten(-1, (scales.shape[-1], -1))
    return (values * scales.unsqueeze(-1)).flatten(-2)


def _packed(parts: Parts) -> Packed:
    packed, scales = parts["packed"], parts["scales"]
    group = packed.shape[-1] * VALUES_PER_WORD // scales.shape[-1]
    return Packed("int4", packed.view(torch.uint8), scales, values_per_scale=group)


INT4 = native_format("int4", reference_values, _packed)


def weight_from_parts(packed: Tensor, scales: Tensor) -> QuantWeight:
    shape = (*packed.shape[:-1], packed.shape[-1] * VALUES_PER_WORD)
    return QuantWeight(INT4, {"packed": packed, "scales": scales}, shape)


def unpack(packed: Tensor) -> Tensor:
    """q of every value: int8 (.., in) from int32 (.., in / 8)."""
    nibbles = packed.contiguous().view(torch.uint8)
    pairs = torch.stack((nibbles & 15, nibbles >> 4), dim=-1).flatten(-2)
    return pairs.to(torch.int8) - OFFSET


def pack(q: Tensor) -> Tensor:
    """The inverse of `unpack`: q from -8 to 7, the last axis a multiple of 8."""
    codes = (q.to(torch.int16) + OFFSET).to(torch.uint8).unflatten(-1, (-1, 2))
    return (codes[..., 0] | codes[..., 1] << 4).contiguous().view(torch.int32)
