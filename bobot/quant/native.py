"""Formats whose weights the C++ kernels take: unpacked and multiplied by them where they are built,
by the reference in torch or NumPy elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bobot import kernels
from bobot.quant.weight import Format, Parts, Weight

BYTES_PER_THREAD = 1 << 15
"""Some 10 us of work; to wake a thread for less costs more than it saves."""


@dataclass(frozen=True)
class Packed:
    """A weight as the kernels take it. They are handed NumPy's views of the tensors: that costs
    2 us a call, torch's own DLPack more than 10.

    values: uint8 (.., out, bytes). scales: (.., ceil(out / rows_per_scale),
    ceil(in / values_per_scale)), or None where they lie among the values.
    """

    kernel: str
    values: Tensor
    scales: Tensor | None = None
    rows_per_scale: int = 1
    values_per_scale: int = 1

    @property
    def has_kernel(self) -> bool:
        """Whether the kernels take it as it lies: each row in one piece."""
        return self.is_known and self.values.is_contiguous()

    @property
    def is_known(self) -> bool:
        """Whether they know the format, and it is on the CPU in whole blocks."""
        if self.kernel not in kernels.FORMATS or self.values.device.type != "cpu":
            return False
        return self.values.shape[-1] % kernels.FORMATS[self.kernel][1] == 0

    def dequantize(self) -> Tensor:
        """The values: float32 (.., out, in)."""
        if self.values.ndim > 2 and self.rows_per_scale > 1:
            return torch.stack([self._matrix(i).dequantize() for i in range(len(self.values))])
        block_values, block_bytes = kernels.FORMATS[self.kernel]
        num_values = self.values.shape[-1] // block_bytes * block_values
        shape = (*self.values.shape[:-1], num_values)
        out = torch.empty(shape, dtype=torch.float32, device="cpu")
        values, scales = self._flat()
        kernels.dequantize(
            self.kernel,
            values.numpy(),
            out.view(-1, num_values).numpy(),
            scales,
            rows_per_scale=self.rows_per_scale,
            values_per_scale=self.values_per_scale,
            num_threads=self._num_threads(),
        )
        return out

    def product(self, x_MK: Tensor) -> Tensor:
        """x @ weight.T of a matrix, in float32: (M, out)."""
        values, scales = self._flat()
        shape = (x_MK.shape[0], values.shape[0])
        out_MN = torch.empty(shape, dtype=torch.float32, device="cpu")
        kernels.linear(
            self.kernel,
            x_MK.detach().float().contiguous().numpy(),
            values.numpy(),
            out_MN.numpy(),
            scales,
            rows_per_scale=self.rows_per_scale,
            values_per_scale=self.values_per_scale,
            num_threads=self._num_threads(),
        )
        return out_MN

    def arguments(self) -> tuple[str, Any, Any, int, int]:
        """Format, values, scales, rows and values per scale, of a matrix."""
        values, scales = self._flat()
        return self.kernel, values, scales, self.rows_per_scale, self.values_per_scale

    def _num_threads(self) -> int:
        return min(torch.get_num_threads(), 1 + self.values.nbytes // BYTES_PER_THREAD)

    def _matrix(self, index: int) -> Packed:
        scales = None if self.scales is None else self.scales[index]
        return Packed(
            self.kernel, self.values[index], scales, self.rows_per_scale, self.values_per_scale
        )

    def _flat(self) -> tuple[Tensor, Tensor | None]:
        """Values and scales as matrices, in a dtype that the kernels read."""
        values = self.values.reshape(-1, self.values.shape[-1])
        if self.scales is None:
            return values, None
        scales = self.scales.reshape(-1, self.scales.shape[-1]).contiguous()
        is_read = scales.dtype in (torch.uint8, torch.float32, torch.bfloat16)
        return values, scales if is_read else scales.float()


def native_format(
    name: str,
    reference: Callable[[Parts], Tensor],
    packed: Callable[[Parts], Packed],
    rows_per_entry: Mapping[str, int] | None = None,
) -> Format:
    """The format whose values are those of `reference`, and `packed` tells the kernels how."""

    def dequantize(parts: Parts) -> Tensor:
        weight = packed(parts)
        return weight.dequantize() if weight.has_kernel else reference(parts)

    def product(x_MK: Tensor, parts: Parts) -> Tensor | None:
        weight = packed(parts)
        return weight.product(x_MK) if weight.has_kernel else None

    return Format(name, dequantize, rows_per_entry or {}, product, packed)


def packed_rows(weight: Weight) -> Packed | None:
    """A matrix as the kernels take it, plain ones too; None for a format that they do not know, or
    a plain matrix that lies across its rows.
    """
    if isinstance(weight, Tensor):
        if not weight.is_contiguous():
            return None
        kernel = str(weight.dtype).removeprefix("torch.")
        return Packed(kernel, weight.detach().view(torch.uint8))
    return None if weight.format.native is None else weight.format.native(weight.parts)
