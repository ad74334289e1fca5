"""Where a block type has a kernel, the kernel gives the reference's values bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from bobot import kernels
from bobot.quant.gguf_types import BLOCK_TYPES, BlockType

WITH_KERNEL = [kind for kind in BLOCK_TYPES.values() if kind.kernel is not None]


@pytest.mark.skipif(not kernels.available, reason="the extension is not built")
@pytest.mark.parametrize("kind", WITH_KERNEL, ids=lambda kind: kind.name)
def test_the_kernel_equals_the_reference_bit_for_bit(kind: BlockType) -> None:
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (257, kind.block_bytes), dtype=np.uint8)
    scales = rng.standard_normal(257).astype("<f2")  # both signs, so that -0.0 occurs
    blocks[:, :2] = scales.view(np.uint8).reshape(-1, 2)
    blocks[::7, 2:9] = 0
    values = np.empty((257, kind.block_size), np.float32)
    assert kind.kernel is not None
    kind.kernel(blocks, values)
    expected = kind.dequantize(blocks)
    differing = int((values.view(np.int32) != expected.view(np.int32)).sum())
    assert differing == 0, f"{differing} of {values.size} values differ"
