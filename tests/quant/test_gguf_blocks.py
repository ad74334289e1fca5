"""GGUF blocks against ggml's own values (parity fixture) and the gguf package."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bobot.quant import gguf_types
from bobot.quant.gguf_types import BLOCK_TYPES, BlockType, dequantize, quantize_q8_0

KINDS = pytest.mark.parametrize("kind", BLOCK_TYPES.values(), ids=lambda kind: kind.name)


def bits(values: torch.Tensor) -> torch.Tensor:
    return values.view(torch.int32)


@KINDS
def test_values_equal_those_of_ggml_bit_for_bit(kind: BlockType, shared: Path):
    fixture = load_file(shared / "parity" / "gguf" / "block_formats.safetensors")
    expected = fixture[f"{kind.name}.f32"]
    values = dequantize(kind, fixture[f"{kind.name}.raw"].reshape(-1), expected.shape)
    wrong = int((bits(values) != bits(expected)).sum())
    assert wrong == 0, f"{wrong} of {expected.numel()} values differ"


@KINDS
def test_block_sizes_are_those_of_the_gguf_package(kind: BlockType):
    ids = {value.name: key for key, value in BLOCK_TYPES.items()}
    sizes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(ids[kind.name])]
    assert gguf.GGMLQuantizationType[kind.name] == ids[kind.name]
    assert (kind.block_size, kind.block_bytes) == sizes


@KINDS
def test_random_bytes_dequantize_as_in_the_gguf_package(kind: BlockType):
    """Any bytes may stand in a block, infinite and tiny scales included."""
    raw = np.random.default_rng(7).integers(0, 256, (200, kind.block_bytes), np.uint8)
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[kind.name])
    values = dequantize(kind, torch.from_numpy(raw).view(-1), (200, kind.block_size))
    same = (values.numpy() == expected) | (np.isnan(values.numpy()) & np.isnan(expected))
    assert same.all(), f"{(~same).sum()} of {same.size} values differ"


def test_long_tensors_are_dequantized_in_steps(monkeypatch: pytest.MonkeyPatch):
    raw = torch.randint(0, 60, (100 * 34,), dtype=torch.uint8, generator=torch.manual_seed(0))
    whole = dequantize(BLOCK_TYPES[8], raw, (10, 320))
    monkeypatch.setattr(gguf_types, "BLOCKS_AT_ONCE", 7)
    assert torch.equal(dequantize(BLOCK_TYPES[8], raw, (10, 320)), whole)


def test_q8_0_bytes_equal_those_of_the_gguf_package():
    values = torch.randn(64, 96, generator=torch.manual_seed(1))
    values[3] = 0
    values[4] = torch.arange(96) - 63.5  # many ties to round
    expected = gguf.quants.quantize(values.numpy(), gguf.GGMLQuantizationType.Q8_0)
    wrong = int((quantize_q8_0(values).numpy() != expected.reshape(-1)).sum())
    assert wrong == 0, f"{wrong} bytes differ"


def test_q8_0_comes_back_within_half_a_step():
    values = torch.randn(8, 64, generator=torch.manual_seed(2))
    back = dequantize(BLOCK_TYPES[8], quantize_q8_0(values), values.shape)
    step = values.view(-1, 32).abs().amax(1) / 127
    error = (back - values).view(-1, 32).abs().amax(1)
    assert (error <= step * 0.5 + 1e-3 * values.abs().max()).all(), f"largest {error.max():.4f}"
