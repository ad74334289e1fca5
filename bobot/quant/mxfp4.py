"""MXFP4 (OCP microscaling formats 1.0, section 5.3.3) as gpt-oss is published in.

    blocks (.., out, groups, 16) uint8: a group is 32 consecutive inputs; byte j holds element 2j in
                                 its low half and element 2j + 1 in its high half
    scales (.., out, groups)     uint8: the group's exponent, biased by 127
    value = e2m1[code] * 2 ** (scale - 127)

Source: openai/gpt-oss `gpt_oss/torch/weights.py` 11-114. GGUF lays the same numbers out
differently: gguf_blocks.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bobot.quant.native import Packed, native_format
from bobot.quant.weight import Parts, QuantWeight

GROUP = 32
BYTES_PER_GROUP = 16
BIAS = 127
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""The magnitudes of codes 0 to 7; codes 8 to 15 are the same with a minus sign."""


def reference_values(parts: Parts) -> Tensor:
    blocks, scales = parts["blocks"], parts["scales"]
    table = torch.tensor([*E2M1, *(-value for value in E2M1)], device=blocks.device)
    codes = torch.stack((blocks & 15, blocks >> 4), dim=-1).flatten(-2)
    return torch.ldexp(table[codes.int()], (scales.int() - BIAS).unsqueeze(-1)).flatten(-2)


def _packed(parts: Parts) -> Packed:
    return Packed("mxfp4", parts["blocks"].flatten(-2), parts["scales"], values_per_scale=GROUP)


MXFP4 = native_format("mxfp4", reference_values, _packed)


def weight_from_parts(blocks: Tensor, scales: Tensor) -> QuantWeight:
    shape = (*blocks.shape[:-2], blocks.shape[-2] * GROUP)
    return QuantWeight(MXFP4, {"blocks": blocks, "scales": scales}, shape)


def pack(scaled: Tensor, exponents: Tensor) -> QuantWeight:
    """The weight whose groups (.., groups, 32) are `scaled` times 2 ** exponents (.., groups), each
    value as the nearest of E2M1.
    """
    magnitudes = torch.tensor(E2M1, device=scaled.device)
    halfway = (magnitudes[1:] + magnitudes[:-1]) / 2
    codes = torch.bucketize(scaled.abs().contiguous(), halfway).to(torch.uint8)
    codes |= (scaled < 0).to(torch.uint8) << 3
    blocks = codes[..., 0::2] | codes[..., 1::2] << 4
    return weight_from_parts(blocks, (exponents + BIAS).to(torch.uint8))
