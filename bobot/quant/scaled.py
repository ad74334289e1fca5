"""Small numbers times a scale: one scale per block of rows and columns.

DeepSeek's FP8 (float8_e4m3fn, blocks of 128 x 128, arXiv:2412.19437 section 3.3), int8 with a scale
per row or per group of inputs, and the 8-bit weights of Grok-1 (int8, one scale per column of the
stored matrix or eight of them; xai-org/grok-1 `model.py`, QuantizedWeight8bit).

    values (.., out, in)  int8 or float8_e4m3fn
    scales (.., ceil(out / row_block), ceil(in / col_block))  float32 or bfloat16
    value[o, i] = values[o, i] * scales[o // row_block, i // col_block]
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from bobot import kernels
from bobot.quant.native import Packed, native_format
from bobot.quant.weight import Format, Parts, QuantWeight

LARGEST_INT8 = 127


@cache
def scaled(row_block: int, col_block: int) -> Format:
    """The format with one scale per block of that many rows and columns; the last of each may be
    partial.
    """

    def reference(parts: Parts) -> Tensor:
        values, scales = parts["values"], parts["scales"].float()
        if values.stride(-2) == 1 and row_block == 1:
            return _dequantize_columns(values, scales, col_block)
        rows, columns = values.shape[-2:]
        if row_block > 1:
            scales = scales.repeat_interleave(row_block, dim=-2)[..., :rows, :]
        if scales.shape[-1] > 1:
            scales = scales.repeat_interleave(col_block, dim=-1)[..., :columns]
        return values.float() * scales

    def packed(parts: Parts) -> Packed:
        values = parts["values"]
        kernel = str(values.dtype).removeprefix("torch.")
        return Packed(kernel, values.view(torch.uint8), parts["scales"], row_block, col_block)

    rows_per_entry = {"scales": row_block} if row_block > 1 else {}
    in_rows = native_format(f"scaled {row_block}x{col_block}", reference, packed, rows_per_entry)

    def product(x_MK: Tensor, parts: Parts) -> Tensor | None:
        is_by_inputs = parts["values"].mT.is_contiguous() and not parts["values"].is_contiguous()
        if is_by_inputs and row_block == 1 and _columns_have_kernel(parts, col_block):
            return _product_of_columns(x_MK, parts)
        return None if in_rows.product is None else in_rows.product(x_MK, parts)

    return replace(in_rows, product=product)


def _dequantize_columns(values: Tensor, scales: Tensor, col_block: int) -> Tensor:
    """The values of a weight that lies input by input in memory, worked on and left in that order:
    several times as fast as across it.
    """
    by_input = scales.mT
    if by_input.shape[-2] > 1:
        by_input = by_input.repeat_interleave(col_block, dim=-2)[..., : values.shape[-1], :]
    return (values.mT.float() * by_input).mT


def _columns_have_kernel(parts: Parts, col_block: int) -> bool:
    values = parts["values"]
    is_whole = values.shape[-1] == parts["scales"].shape[-1] * col_block
    is_int8 = values.dtype == torch.int8 and values.device.type == "cpu"
    return kernels.available and is_int8 and is_whole


def _product_of_columns(x_MK: Tensor, parts: Parts) -> Tensor:
    out_MN = torch.empty(x_MK.shape[0], parts["values"].shape[0], device="cpu")
    kernels.linear_columns(
        x_MK.detach().float().contiguous(),
        parts["values"].mT,
        parts["scales"].mT.contiguous(),
        out_MN,
        num_threads=torch.get_num_threads(),
    )
    return out_MN


def weight_from_parts(
    values: Tensor, scales: Tensor, row_block: int, col_block: int
) -> QuantWeight:
    """The weight of these parts. The caller has checked that they fit: see `scales_shape`."""
    return QuantWeight(
        scaled(row_block, col_block), {"values": values, "scales": scales}, tuple(values.shape)
    )


def scales_shape(shape: tuple[int, ...], row_block: int, col_block: int) -> tuple[int, ...]:
    """The shape that the scales of a weight of `shape` have."""
    return (*shape[:-2], -(-shape[-2] // row_block), -(-shape[-1] // col_block))


def pack_int8(values: Tensor) -> Tensor:
    """int8 (.., in) as int32 (.., in / 4), the lowest byte first, each stored as q + 128: how
    compressed-tensors keeps weights of eight bits."""
    return (values.contiguous().view(torch.uint8) ^ 128).view(torch.int32)


def unpack_int8(packed: Tensor) -> Tensor:
    """The inverse of `pack_int8`."""
    return (packed.contiguous().view(torch.uint8) ^ 128).view(torch.int8)
