"""The matrix product of every linear layer, and the one place where a faster one is chosen."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from bobot.quant.native import packed_rows
from bobot.quant.weight import QuantWeight, Weight

HALF_DTYPES = (torch.bfloat16, torch.float16)
MIN_ROWS = 32
"""From so many rows on, widening a part of the weights and one large product is faster."""
WEIGHT_ROWS_AT_ONCE = 512
"""Weight rows widened at a time: a few MiB, which stay in the cache until they are used."""


def linear(x_TD: Tensor, weight_FD: Weight, bias_F: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias: (T, F) in x's dtype.

    On a CPU where torch has no fast 16-bit product, 16-bit weights are widened to float32 piece by
    piece and multiplied there: several times as fast, while they stay as published. All ways sum
    in float32 and round once. Packed weights are always multiplied in float32.
    """
    if isinstance(weight_FD, QuantWeight):
        return _linear_of_packed(x_TD, weight_FD, bias_F)
    if product_dtype(x_TD) == x_TD.dtype or torch.is_grad_enabled():
        return F.linear(x_TD, weight_FD, bias_F)
    if x_TD.shape[0] >= MIN_ROWS:
        return linear_in_float32(x_TD, weight_FD, bias_F)
    return _linear_of_few_rows(x_TD, weight_FD, bias_F)


def _linear_of_few_rows(x_TD: Tensor, weight_FD: Tensor, bias_F: Tensor | None) -> Tensor:
    """16-bit weights read once, whatever the number of rows; torch reads them once for each."""
    weight = packed_rows(weight_FD)
    if weight is None or not weight.has_kernel:
        return F.linear(x_TD, weight_FD, bias_F)
    return _with_bias(weight.product(x_TD.float()), bias_F, x_TD.dtype)


def _linear_of_packed(x_TD: Tensor, weight_FD: QuantWeight, bias_F: Tensor | None) -> Tensor:
    """Through the format's own product where it has one that fits, else row by row unpacked."""
    product = weight_FD.format.product
    out_TF = None
    if product is not None and can_use_kernel(x_TD, weight_FD):
        out_TF = product(x_TD.float(), weight_FD.parts)
    if out_TF is None:
        return linear_in_float32(x_TD, weight_FD, bias_F)
    return _with_bias(out_TF, bias_F, x_TD.dtype)


def _with_bias(out_TF: Tensor, bias_F: Tensor | None, dtype: torch.dtype) -> Tensor:
    return (out_TF if bias_F is None else out_TF + bias_F.float()).to(dtype)


def can_use_kernel(x_TD: Tensor, weight_FD: QuantWeight) -> bool:
    """Whether the format's product takes this: few rows, on a CPU, nothing to differentiate."""
    is_on_cpu = x_TD.device.type == "cpu" and weight_FD.device.type == "cpu"
    return is_on_cpu and x_TD.shape[0] < MIN_ROWS and not x_TD.requires_grad


def linear_in_float32(x_TD: Tensor, weight_FD: Weight, bias_F: Tensor | None) -> Tensor:
    """The same product, some weight rows at a time, in float32."""
    x32_TD = x_TD.float()
    out_TF = x_TD.new_empty(x_TD.shape[0], weight_FD.shape[0])
    for start in range(0, weight_FD.shape[0], WEIGHT_ROWS_AT_ONCE):
        rows = slice(start, start + WEIGHT_ROWS_AT_ONCE)
        bias = None if bias_F is None else bias_F[rows].float()
        weight = weight_FD[rows]
        values = weight.dequantize() if isinstance(weight, QuantWeight) else weight.float()
        out_TF[:, rows] = F.linear(x32_TD, values, bias)
    return out_TF


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which torch multiplies x fastest: its own, or float32 for 16 bits on a CPU that
    has no product of them.
    """
    is_half_on_cpu = x.dtype in HALF_DTYPES and x.device.type == "cpu"
    return torch.float32 if is_half_on_cpu and not _has_fast_product(x.dtype) else x.dtype


@cache
def _has_fast_product(dtype: torch.dtype) -> bool:
    """Whether torch's CPU library multiplies matrices of this dtype natively (from AVX-512)."""
    if not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.float16:
        return torch.ops.mkldnn._is_mkldnn_fp16_supported()
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()
