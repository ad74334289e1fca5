"""The matrix product of every linear layer, and the one place where a faster one is chosen."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

HALF_DTYPES = (torch.bfloat16, torch.float16)
MIN_ROWS = 32
"""From so many rows on, widening the weights costs less than it saves."""
WEIGHT_ROWS_AT_ONCE = 512
"""Weight rows widened at a time: a few MiB, which stay in the cache until they are used."""


def linear(x_TD: Tensor, weight_FD: Tensor, bias_F: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias: (T, F) in x's dtype.

    On a CPU where torch has no fast 16-bit product, many rows are multiplied in float32: several
    times as fast, while the weights stay as published. Both ways sum in float32 and round once.
    """
    if (
        x_TD.dtype not in HALF_DTYPES
        or x_TD.device.type != "cpu"
        or x_TD.shape[0] < MIN_ROWS
        or torch.is_grad_enabled()
        or _has_fast_product(x_TD.dtype)
    ):
        return F.linear(x_TD, weight_FD, bias_F)
    return linear_in_float32(x_TD, weight_FD, bias_F)


def linear_in_float32(x_TD: Tensor, weight_FD: Tensor, bias_F: Tensor | None) -> Tensor:
    """The same product, some weight rows at a time, in float32."""
    x32_TD = x_TD.float()
    out_TF = x_TD.new_empty(x_TD.shape[0], weight_FD.shape[0])
    for start in range(0, weight_FD.shape[0], WEIGHT_ROWS_AT_ONCE):
        rows = slice(start, start + WEIGHT_ROWS_AT_ONCE)
        bias = None if bias_F is None else bias_F[rows].float()
        out_TF[:, rows] = F.linear(x32_TD, weight_FD[rows].float(), bias)
    return out_TF


@cache
def _has_fast_product(dtype: torch.dtype) -> bool:
    """Whether torch's CPU library multiplies matrices of this dtype natively (from AVX-512)."""
    if not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.float16:
        return torch.ops.mkldnn._is_mkldnn_fp16_supported()
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()
