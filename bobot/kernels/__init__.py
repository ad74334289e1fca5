"""The C++ kernels and the choice of the instruction set they run with.

Knows nothing of models. Where the extension is missing, `available` is False and callers use torch;
every kernel has a torch reference that it is tested against.

    out_MN = torch.empty(x_MK.shape[0], weight_bytes.shape[0])
    kernels.linear_q8_0(x_MK, weight_bytes, out_MN, num_threads=2)

Arrays are NumPy arrays or torch tensors on the CPU, contiguous, used in place without a copy.
Letters: M rows, N output features, K input features.
"""

from __future__ import annotations

import os
from typing import Any

from bobot.errors import NotFoundError, UsageError

try:
    from bobot.kernels import _native
except ImportError:
    _native = None

Array = Any
"""A NumPy array or a torch tensor on the CPU."""

available: bool = _native is not None


def features() -> dict[str, bool]:
    """Whether this machine can run each instruction set that has kernels, fastest first."""
    return _extension().features()


def isa() -> str:
    """The instruction set the kernels use: the one that BOBOT_ISA names, else the fastest.

    Raises UsageError if BOBOT_ISA names one that is unknown or that this machine lacks.
    """
    usable = [name for name, is_usable in features().items() if is_usable]
    asked = os.environ.get("BOBOT_ISA", usable[0])
    if asked not in usable:
        raise UsageError(
            "BOBOT_ISA is {asked!r}; this machine can run {usable}.",
            hint="Unset it to get the fastest.",
            asked=asked,
            usable=", ".join(usable),
        )
    return asked


def dequantize_q8_0(weight_bytes: Array, out_NK: Array, *, force: str | None = None) -> None:
    """Write the weights of Q8_0 blocks to `out_NK` (float32); exact, each is one product.

    weight_bytes: uint8 (N, K / 32 * 34), as in a GGUF file. `force` names an instruction set.
    Raises ValueError if the shapes do not fit, TypeError for another dtype or layout.
    """
    _extension().dequantize_q8_0(weight_bytes, out_NK, force or isa())


def linear_q8_0(
    x_MK: Array, weight_bytes: Array, out_MN: Array, *, num_threads: int, force: str | None = None
) -> None:
    """Write x @ weight.T to `out_MN` (float32), reading the Q8_0 blocks in place.

    x_MK: float32; weight_bytes: uint8 (N, K / 32 * 34). `force` names an instruction set. Meant for
    decode (few rows): it reads each weight byte once for four rows, and does not block for the
    cache beyond that, so for many rows dequantizing and one torch matmul is faster. Raises
    ValueError if the shapes do not fit, TypeError for another dtype or layout.
    """
    _extension().linear_q8_0(x_MK, weight_bytes, out_MN, num_threads, force or isa())


def _extension() -> Any:
    if _native is None:
        raise NotFoundError(
            "The C++ extension bobot.kernels._native is not built.",
            hint="Run `make chat`, or `pip install --editable .`, in bobot's folder.",
        )
    return _native
