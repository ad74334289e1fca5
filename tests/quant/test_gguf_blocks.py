"""GGUF blocks against ggml's own values (parity fixture) and the gguf package."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bobot.quant import gguf_types
from bobot.quant.gguf_types import (
    BLOCK_TYPES,
    DENSE_TYPES,
    BlockType,
    DenseType,
    dequantize,
    quantize_q8_0,
)

KINDS = pytest.mark.parametrize("kind", BLOCK_TYPES.values(), ids=lambda kind: kind.name)


def bits(values: torch.Tensor) -> torch.Tensor:
    return values.view(torch.int32)


@pytest.fixture(scope="module")
def of_ggml(shared: Path) -> dict[str, torch.Tensor]:
    return load_file(shared / "parity" / "gguf" / "block_formats.safetensors")


def read_as(kind: BlockType | DenseType, raw: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    if isinstance(kind, DenseType):
        return raw.view(kind.dtype).float().view(shape)
    return dequantize(kind, raw.view(shape[0], -1))


def test_all_24_types_of_the_fixture_equal_ggml_bit_for_bit(of_ggml: dict[str, torch.Tensor]):
    kinds = {kind.name: kind for kind in (*DENSE_TYPES.values(), *BLOCK_TYPES.values())}
    names = sorted(key.removesuffix(".f32") for key in of_ggml if key.endswith(".f32"))
    wrong = {}
    for name in names:
        expected = of_ggml[f"{name}.f32"]
        values = read_as(kinds[name], of_ggml[f"{name}.raw"], expected.shape)
        wrong[name] = int((bits(values) != bits(expected)).sum())
    assert len(names) == 24 and not any(wrong.values()), f"values that differ: {wrong}"


def test_every_block_type_is_in_the_fixture(of_ggml: dict[str, torch.Tensor]):
    missing = [k.name for k in BLOCK_TYPES.values() if f"{k.name}.f32" not in of_ggml]
    assert not missing, f"not compared with ggml: {missing}"


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
    values = dequantize(kind, torch.from_numpy(raw))
    same = (values.numpy() == expected) | (np.isnan(values.numpy()) & np.isnan(expected))
    assert same.all(), f"{(~same).sum()} of {same.size} values differ"


def test_long_tensors_are_dequantized_in_steps(monkeypatch: pytest.MonkeyPatch):
    raw = torch.randint(0, 60, (10, 10 * 54), dtype=torch.uint8, generator=torch.manual_seed(0))
    whole = dequantize(BLOCK_TYPES[34], raw)
    monkeypatch.setattr(gguf_types, "BLOCKS_AT_ONCE", 7)
    assert torch.equal(dequantize(BLOCK_TYPES[34], raw), whole)


def test_q8_0_bytes_equal_those_of_the_gguf_package():
    values = torch.randn(64, 96, generator=torch.manual_seed(1))
    values[3] = 0
    values[4] = torch.arange(96) - 63.5  # many ties to round
    expected = gguf.quants.quantize(values.numpy(), gguf.GGMLQuantizationType.Q8_0)
    wrong = int((quantize_q8_0(values).numpy() != expected.reshape(-1)).sum())
    assert wrong == 0, f"{wrong} bytes differ"


def test_q8_0_comes_back_within_half_a_step():
    values = torch.randn(8, 64, generator=torch.manual_seed(2))
    back = dequantize(BLOCK_TYPES[8], quantize_q8_0(values).view(8, 68))
    step = values.view(-1, 32).abs().amax(1) / 127
    error = (back - values).view(-1, 32).abs().amax(1)
    assert (error <= step * 0.5 + 1e-3 * values.abs().max()).all(), f"largest {error.max():.4f}"
