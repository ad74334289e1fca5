"""Random weights in every format that has kernels, as the kernels take them."""

from __future__ import annotations

import numpy as np
import torch

HALVES = {
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q8_0": [0],
    "Q2_K": [80, 82],
    "Q3_K": [108],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
    "IQ4_NL": [0],
    "IQ4_XS": [0],
    "TQ1_0": [52],
    "TQ2_0": [64],
    "MXFP4": [],
}
"""Where the float16 numbers lie in a block of GGUF."""

DENSE = ("float32", "bfloat16", "float16")
"""Not packed at all."""


def random_rows(name: str, num_rows: int, num_blocks: int, block_bytes: int) -> torch.Tensor:
    """uint8 (num_rows, bytes): any bytes, but scales are finite, of both signs, and vary a lot."""
    rng = np.random.default_rng(0)
    if name in DENSE:
        values = torch.from_numpy(rng.normal(size=(num_rows, num_blocks)))
        return values.to(getattr(torch, name)).view(torch.uint8)
    blocks = rng.integers(0, 256, (num_rows, num_blocks, block_bytes), dtype=np.uint8)
    for start in HALVES.get(name, []):
        sizes = 10.0 ** rng.integers(-6, 1, (num_rows, num_blocks))
        halves = (rng.normal(size=sizes.shape) * sizes).astype("<f2")[..., None].view(np.uint8)
        blocks[..., start : start + 2] = halves
    if name == "MXFP4":
        blocks[..., 0] = rng.integers(100, 140, (num_rows, num_blocks))
    if name == "float8_e4m3fn":
        blocks[(blocks & 127) == 127] = 0
    return torch.from_numpy(blocks.reshape(num_rows, -1))


def random_scales(name: str, num_rows: int, num_scales: int) -> torch.Tensor | None:
    generator = torch.manual_seed(1)
    if name in HALVES or name in DENSE:
        return None
    if name == "mxfp4":
        size = (num_rows, num_scales)
        return torch.randint(100, 140, size, dtype=torch.uint8, generator=generator)
    return torch.randn(num_rows, num_scales, generator=generator).bfloat16()
