"""The matrix product of every linear layer, and the one place where a faster one is chosen."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from bobot import kernels
from bobot.quant.native import packed_rows
from bobot.quant.tiles import TileFormat
from bobot.quant.weight import QuantWeight, Weight

HALF_DTYPES = (torch.bfloat16, torch.float16)
MIN_ROWS = 32
"""From so many rows on, widening a part of the weights and one large product is faster."""
MIN_PLAIN_ROWS = 3
"""The same of plain weights of 16 bits where torch multiplies them as they are: 1 row takes twice
the time of the kernels, 4 rows two thirds, 8 rows half."""
WEIGHT_ROWS_AT_ONCE = 512
"""Weight rows widened at a time: a few MiB, which stay in the cache until they are used."""


def linear(x_TD: Tensor, weight_FD: Weight, bias_F: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias: (T, F) in x's dtype.

    Few rows go through the C++ kernels, which read each weight once; so do tiles, whatever the
    number of rows, where the processor has AMX or fast products of 16-bit integers or those of 8
    bits were chosen. Else weights are widened piece by piece, while they stay as published, and
    multiplied by torch: in float32, or in x's 16 bits where torch has a fast product of them. All
    ways sum in float32 and round once; AMX, ours and torch's, rounds the weights to bfloat16 first.
    """
    is_packed = isinstance(weight_FD, QuantWeight)
    if not is_packed and (torch.is_grad_enabled() or weight_FD.device.type != "cpu"):
        return F.linear(x_TD, weight_FD, bias_F)
    if _takes_kernel(x_TD, weight_FD):
        out_TF = _product(x_TD, weight_FD)
        if out_TF is not None:
            return (out_TF if bias_F is None else out_TF + bias_F.float()).to(x_TD.dtype)
    if is_packed or product_dtype(x_TD) != x_TD.dtype:
        return linear_in_pieces(x_TD, weight_FD, bias_F, product_dtype(x_TD))
    return F.linear(x_TD, weight_FD, bias_F)


def _takes_kernel(x_TD: Tensor, weight_FD: Weight) -> bool:
    """Whether the kernels are the fastest way: on a CPU, nothing to differentiate."""
    if x_TD.device.type != "cpu" or weight_FD.device.type != "cpu" or x_TD.requires_grad:
        return False
    if not isinstance(weight_FD, QuantWeight):
        if x_TD.dtype not in HALF_DTYPES:
            return False
        is_fast = weight_FD.dtype == x_TD.dtype and _has_fast_product(x_TD.dtype)
        return x_TD.shape[0] < (MIN_PLAIN_ROWS if is_fast else MIN_ROWS)
    if x_TD.shape[0] < MIN_ROWS:
        return True
    form = weight_FD.format
    if not isinstance(form, TileFormat):
        return False
    return form.activations == "int8" or tiles_beat_torch(x_TD.dtype)


def tiles_beat_torch(dtype: torch.dtype) -> bool:
    """Whether products of many rows by tiles are faster here than torch's by widened weights."""
    isa = kernels.isa()
    if isa in ("amx", kernels.EMULATED_AMX):
        return True
    return isa == "avx512vnni" and not (dtype == torch.bfloat16 and has_amx())


def _product(x_TD: Tensor, weight_FD: Weight) -> Tensor | None:
    """x @ weight.T in float32, or None where the kernels do not take the weight."""
    if isinstance(weight_FD, QuantWeight):
        product = weight_FD.format.product
        return None if product is None else product(x_TD, weight_FD.parts)
    weight = packed_rows(weight_FD)
    return weight.product(x_TD) if weight is not None and weight.has_kernel else None


def linear_in_pieces(
    x_TD: Tensor, weight_FD: Weight, bias_F: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """The same product by torch in `dtype`, some weight rows at a time."""
    wide_TD = x_TD.to(dtype)
    out_TF = x_TD.new_empty(x_TD.shape[0], weight_FD.shape[0])
    for start in range(0, weight_FD.shape[0], WEIGHT_ROWS_AT_ONCE):
        rows = slice(start, start + WEIGHT_ROWS_AT_ONCE)
        bias = None if bias_F is None else bias_F[rows].to(dtype)
        if isinstance(weight_FD, QuantWeight):
            values = weight_FD.values(rows.start, rows.stop)
        else:
            values = weight_FD[rows]
        out_TF[:, rows] = F.linear(wide_TD, values.to(dtype), bias)
    return out_TF


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which torch multiplies x fastest: its own, or float32 for 16 bits on a CPU that
    has no product of them.
    """
    is_half_on_cpu = x.dtype in HALF_DTYPES and x.device.type == "cpu"
    return torch.float32 if is_half_on_cpu and not _has_fast_product(x.dtype) else x.dtype


@cache
def has_amx() -> bool:
    """Whether torch multiplies bfloat16 by AMX, several times as fast as any other unit."""
    return torch.cpu._is_amx_tile_supported()


@cache
def _has_fast_product(dtype: torch.dtype) -> bool:
    """Whether torch's CPU library multiplies matrices of this dtype natively (from AVX-512)."""
    if not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.float16:
        return torch.ops.mkldnn._is_mkldnn_fp16_supported()
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()
