"""Weights through the C++ kernels and through the references: the same values, bit for bit."""

from __future__ import annotations

import pytest
import torch
from packed_blocks import random_rows, random_scales

from bobot import kernels
from bobot.quant import int4, mxfp4, scaled
from bobot.quant.gguf_types import BLOCK_TYPES, BlockType, reference_values, weight_from_blocks
from bobot.quant.weight import QuantWeight

pytestmark = pytest.mark.skipif(not kernels.available, reason="the extension is not built")

WITH_KERNEL = [kind for kind in BLOCK_TYPES.values() if kind.name in kernels.FORMATS]
KINDS = pytest.mark.parametrize("kind", WITH_KERNEL, ids=lambda kind: kind.name)
ISAS = [name for name, usable in kernels.features().items() if usable] if kernels.available else []
EACH_ISA = pytest.mark.parametrize("isa", ISAS)


def differing(values: torch.Tensor, expected: torch.Tensor) -> str:
    """How many values differ in a bit; those that are no numbers may differ in theirs."""
    same = (values.view(torch.int32) == expected.view(torch.int32)) | (
        values.isnan() & expected.isnan()
    )
    return "" if same.all() else f"{int((~same).sum())} of {same.numel()} values differ"


def test_kernels_and_blocks_have_the_same_sizes():
    sizes = {kind.name: (kind.block_size, kind.block_bytes) for kind in WITH_KERNEL}
    assert sizes == {name: kernels.FORMATS[name] for name in sizes}
    assert len(WITH_KERNEL) == 15, [kind.name for kind in WITH_KERNEL]


@KINDS
@EACH_ISA
def test_any_bytes_in_a_block_give_the_values_of_the_reference(
    kind: BlockType, isa: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("BOBOT_ISA", isa)
    generator = torch.manual_seed(0)
    size = (257, 3 * kind.block_bytes)
    rows = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    rows[::7] = 0
    rows[1::7, 1:] = 0
    values = weight_from_blocks(kind, rows).dequantize()
    assert not differing(values, reference_values(kind, rows))


def mxfp4_weight(rows: int, groups: int) -> tuple[QuantWeight, torch.Tensor]:
    blocks = random_rows("mxfp4", rows, groups, 16).view(rows, groups, 16)
    scales = torch.randint(0, 255, (rows, groups), dtype=torch.uint8)
    weight = mxfp4.weight_from_parts(blocks, scales)
    return weight, mxfp4.reference_values(weight.parts) + 0.0  # the kernel knows no -0.0


def int4_weight(rows: int, groups: int) -> tuple[QuantWeight, torch.Tensor]:
    packed = random_rows("int4", rows, groups, 16).view(torch.int32)
    scales = random_scales("int4", rows, 2 * groups)
    assert scales is not None
    weight = int4.weight_from_parts(packed, scales)
    return weight, int4.reference_values(weight.parts)


def fp8_weight(rows: int, groups: int) -> tuple[QuantWeight, torch.Tensor]:
    values = random_rows("float8_e4m3fn", rows, groups, 32).view(torch.float8_e4m3fn)
    scales = torch.randn(-(-rows // 8), -(-groups * 32 // 24))
    weight = scaled.weight_from_parts(values, scales, 8, 24)
    factors = scales.repeat_interleave(8, 0)[:rows].repeat_interleave(24, 1)[:, : groups * 32]
    return weight, values.float() * factors


def int8_weight(rows: int, groups: int) -> tuple[QuantWeight, torch.Tensor]:
    values = random_rows("int8", rows, groups, 32).view(torch.int8)
    scales = torch.randn(rows, groups).half()
    weight = scaled.weight_from_parts(values, scales, 1, 32)
    return weight, values.float() * scales.float().repeat_interleave(32, 1)


MAKERS = pytest.mark.parametrize("make", [mxfp4_weight, int4_weight, fp8_weight, int8_weight])


@MAKERS
@EACH_ISA
def test_formats_with_scales_apart_give_the_values_of_the_reference(make, isa, monkeypatch):
    monkeypatch.setenv("BOBOT_ISA", isa)
    torch.manual_seed(3)
    weight, expected = make(21, 3)
    assert not differing(weight.dequantize(), expected)


@MAKERS
def test_products_agree_with_the_reference(make):
    torch.manual_seed(4)
    weight, expected = make(19, 2)
    if weight.format is mxfp4.MXFP4:
        weight.parts["scales"].clamp_(100, 140)
        expected = mxfp4.reference_values(weight.parts)
    x = torch.randn(3, 64)
    out = weight.format.product(x, weight.parts)
    error = (out - x @ expected.T).abs().max() / (x.abs() @ expected.abs().T).max()
    assert error < 1e-6, f"relative error {error:.1e}"


@MAKERS
def test_one_expert_of_a_stack_is_multiplied_in_place(make):
    weight, _ = make(16, 2)
    if weight.format is mxfp4.MXFP4:
        weight.parts["scales"].clamp_(100, 140)
    parts = {name: torch.stack([part, part]) for name, part in weight.parts.items()}
    stack = QuantWeight(weight.format, parts, (2, *weight.shape))
    x = torch.randn(2, 64)
    assert torch.equal(
        weight.format.product(x, stack[1].parts), weight.format.product(x, weight.parts)
    )
    assert not differing(stack.dequantize()[1], weight.dequantize())


@KINDS
def test_products_of_gguf_blocks_agree_with_the_reference(kind: BlockType):
    rows = random_rows(kind.name, 23, 2, kind.block_bytes)
    weight = weight_from_blocks(kind, rows)
    x = torch.randn(5, weight.shape[1], generator=torch.manual_seed(5))
    expected = reference_values(kind, rows)
    assert weight.format.product is not None
    out = weight.format.product(x, weight.parts)
    assert out is not None
    error = (out - x @ expected.T).abs().max() / (x.abs() @ expected.abs().T).max()
    assert error < 1e-6, f"relative error {error:.1e}"


def test_fp8_stored_across_its_rows_has_no_product():
    """Nothing may copy a matrix for each token."""
    values = torch.ones(8, 6).to(torch.float8_e4m3fn).T
    weight = scaled.weight_from_parts(values, torch.ones(6, 1), 1, 8)
    assert weight.format.product is not None
    assert weight.format.product(torch.ones(1, 8), weight.parts) is None
    assert torch.equal(weight.dequantize(), torch.ones(6, 8))
