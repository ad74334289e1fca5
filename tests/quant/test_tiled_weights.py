"""Weights turned into tiles are the same weights: values, rows, experts, products."""

from __future__ import annotations

import pytest
import torch
from packed_blocks import random_rows, random_scales

from bobot import kernels
from bobot.ops.linear import MIN_ROWS, linear, tiles_beat_torch
from bobot.quant import four_bit_floats, int4, mxfp4, scaled
from bobot.quant.gguf_types import BLOCK_TYPES, weight_from_blocks
from bobot.quant.interleaved import interleaved
from bobot.quant.tiles import TileFormat, takes_integers, tile_layout, tiled, with_activations
from bobot.quant.weight import QuantWeight

pytestmark = pytest.mark.skipif(
    not kernels.available or kernels.isa() == "portable", reason="weights stay in rows here"
)

BY_NAME = {kind.name: kind for kind in BLOCK_TYPES.values()}


def gguf(name: str, *shape: int) -> QuantWeight:
    kind = BY_NAME[name]
    *rows, columns = shape
    num_rows = torch.Size(rows).numel()
    blocks = random_rows(name, num_rows, columns // kind.block_size, kind.block_bytes)
    return weight_from_blocks(kind, blocks.view(*rows, -1))


def packed_int4(*shape: int, dtype: torch.dtype) -> QuantWeight:
    *rows, columns = shape
    num_rows = torch.Size(rows).numel()
    packed = random_rows("int4", num_rows, columns // 32, 16).view(torch.int32)
    scales = random_scales("int4", num_rows, columns // 32)
    assert scales is not None
    return int4.weight_from_parts(packed.view(*rows, -1), scales.to(dtype).view(*rows, -1))


def packed_mxfp4(*shape: int) -> QuantWeight:
    *rows, columns = shape
    num_rows = torch.Size(rows).numel()
    blocks = random_rows("mxfp4", num_rows, columns // 32, 16)
    scales = random_scales("mxfp4", num_rows, columns // 32)
    assert scales is not None
    groups = (*rows, columns // 32)
    return mxfp4.weight_from_parts(blocks.view(*groups, 16), scales.view(groups))


def eight_bits(rows: int, columns: int, group: int) -> QuantWeight:
    values = torch.randint(-128, 128, (rows, columns), dtype=torch.int8)
    return scaled.weight_from_parts(values, torch.rand(rows, columns // group), 1, group)


def fp8(rows: int, columns: int, row_block: int, col_block: int) -> QuantWeight:
    values = random_rows("float8_e4m3fn", rows, columns, 1).view(torch.float8_e4m3fn)
    scales = torch.rand(-(-rows // row_block), -(-columns // col_block)) + 0.5
    return scaled.weight_from_parts(values, scales, row_block, col_block)


def four_bits(kind: str, rows: int, columns: int, block: int) -> QuantWeight:
    codes = random_rows(kind, rows, columns // 32, 16)
    return four_bit_floats.weight_from_parts(kind, codes, torch.rand(rows, columns // block))


MATRICES = {
    "Q4_0": lambda: gguf("Q4_0", 40, 96),
    "Q6_K": lambda: gguf("Q6_K", 40, 512),
    "int4 with bfloat16 scales": lambda: packed_int4(40, 96, dtype=torch.bfloat16),
    "int4 with float16 scales": lambda: packed_int4(40, 96, dtype=torch.float16),
    "int4 with float32 scales": lambda: packed_int4(40, 96, dtype=torch.float32),
    "mxfp4": lambda: packed_mxfp4(40, 96),
    "int8, a scale per row": lambda: eight_bits(40, 96, 96),
    "int8, a scale per block": lambda: scaled.weight_from_parts(
        torch.randint(-128, 128, (40, 96), dtype=torch.int8), torch.rand(3, 3), 16, 32
    ),
    "FP8, blocks that end before": lambda: fp8(150, 256, 128, 128),
    "FP8, rows that end before": lambda: fp8(40, 160, 128, 128),
    "FP8, a scale per row": lambda: fp8(40, 96, 1, 96),
    "FP8, one scale": lambda: fp8(40, 96, 40, 96),
    "NF4": lambda: four_bits("nf4", 40, 192, 64),
    "FP4": lambda: four_bits("fp4", 40, 128, 32),
    "two in turn": lambda: interleaved(gguf("MXFP4", 20, 96), gguf("MXFP4", 20, 96)),
}


@pytest.mark.parametrize("make", MATRICES.values(), ids=MATRICES.keys())
def test_a_matrix_keeps_its_values(make):
    weight = make()
    tiles = tiled(weight)
    assert isinstance(tiles.format, TileFormat) and tiles.shape == weight.shape
    expected = weight.dequantize()
    assert torch.equal(tiles.dequantize(), expected)
    assert torch.equal(tiles.values(16, 999), expected[16:])
    assert torch.equal(tiles.rows(torch.tensor([39, 0, 7])), expected[[39, 0, 7]])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_plain_matrix_of_16_bits_keeps_its_values(dtype: torch.dtype):
    weight = torch.randn(40, 96).to(dtype)
    tiles = tiled(weight)
    assert isinstance(tiles, QuantWeight) and tiles.shape == weight.shape
    assert torch.equal(tiles.dequantize(), weight.float())
    for num_rows in (1, 40):
        x = torch.randn(num_rows, 96).to(dtype)
        exact = x.double() @ weight.double().T
        sizes = x.abs().double() @ weight.abs().double().T
        assert ((linear(x, tiles) - exact).abs() / sizes).max() < 2**-8


def test_a_plain_matrix_of_32_bits_has_no_tiles():
    weight = torch.randn(40, 96)
    assert tile_layout(weight) is None and tiled(weight) is weight


@pytest.mark.parametrize("experts", [(), (3,)])
def test_a_matrix_that_lies_input_by_input_becomes_the_same_tiles(experts: tuple[int, ...]):
    """As xAI stores Grok-1: values and scales of all outputs behind one another."""
    values = torch.randint(-127, 128, (*experts, 40, 256), dtype=torch.int8)
    scales = torch.rand(*experts, 40, 8).bfloat16()
    by_input = [part.mT.contiguous().mT for part in (values, scales)]
    assert not any(part.is_contiguous() for part in by_input)
    found, expected = (
        tiled(scaled.weight_from_parts(*parts, 1, 32)) for parts in (by_input, (values, scales))
    )
    assert isinstance(found.format, TileFormat) and found.format == expected.format
    assert torch.equal(found.parts["tiles"], expected.parts["tiles"])
    exact = values.float() * scales.float().repeat_interleave(32, -1)
    assert torch.equal(found.dequantize(), exact)


def test_experts_in_blocks_of_rows_keep_their_values():
    values = random_rows("float8_e4m3fn", 3 * 150, 256, 1).view(3, 150, 256)
    scales = torch.rand(3, 2, 2)
    weight = scaled.weight_from_parts(values.view(torch.float8_e4m3fn), scales, 128, 128)
    tiles = tiled(weight)
    assert isinstance(tiles.format, TileFormat)
    assert torch.equal(tiles.dequantize(), weight.dequantize())


@pytest.mark.parametrize("num_rows", [1, 6, 40])
@pytest.mark.parametrize("make", MATRICES.values(), ids=MATRICES.keys())
def test_products_are_those_of_the_values(make, num_rows: int):
    weight = make()
    x = torch.randn(num_rows, weight.shape[1])
    bias = torch.randn(weight.shape[0])
    exact = x.double() @ weight.dequantize().double().T + bias
    sizes = x.abs().double() @ weight.dequantize().abs().double().T + bias.abs()
    out = linear(x, tiled(weight), bias)
    assert ((out - exact).abs() / sizes).max() < 1e-6
    half = x.bfloat16()
    out = linear(half, tiled(weight), bias)
    assert out.dtype == torch.bfloat16
    exact = half.double() @ weight.dequantize().double().T + bias
    # Where torch multiplies, it rounds the weights, the product, and the sum with the bias.
    is_ours = num_rows < MIN_ROWS or tiles_beat_torch(half.dtype)
    assert ((out - exact).abs() / sizes).max() < (2**-8 if is_ours else 3 * 2**-9)


@pytest.mark.parametrize("num_rows", [1, 6, 40])
@pytest.mark.parametrize("make", MATRICES.values(), ids=MATRICES.keys())
def test_products_with_8_bits_err_by_half_a_step_at_most(make, num_rows: int):
    """Of each activation: 1/254 of the largest of its 32 neighbours; and bfloat16 of the result."""
    weight = make()
    half = (
        torch.randn(num_rows, weight.shape[1]) * torch.logspace(-2, 2, weight.shape[1])
    ).bfloat16()
    values = weight.dequantize().double()
    largest = half.double().view(num_rows, -1, 32).abs().amax(-1).repeat_interleave(32, dim=1)
    exact = half.double() @ values.T
    if not takes_integers(tiled(weight)):
        pytest.skip("codes of floats round no activations")
    tiles = with_activations(tiled(weight), "int8")
    error = (linear(half, tiles) - exact).abs()
    assert (error <= 1.001 * (largest / 254) @ values.abs().T + 2**-8 * exact.abs()).all()
    finer = (linear(half, tiled(weight)) - exact).abs()
    if num_rows < 32:  # more go another way on processors with AMX
        assert error.mean() > 1.2 * finer.mean(), "they are not rounded to 8 bits"


def test_a_stack_keeps_its_experts():
    weight = packed_mxfp4(3, 24, 64)
    tiles = tiled(weight)
    assert isinstance(tiles.format, TileFormat)
    assert torch.equal(tiles.dequantize(), weight.dequantize())
    assert torch.equal(tiles[2].dequantize(), weight[2].dequantize())
    assert torch.equal(tiles[1:].dequantize(), weight[1:].dequantize())


def test_a_large_matrix_of_a_stack_begins_at_a_page():
    tiles = tiled(gguf("Q4_0", 2, 256, 1024))
    assert tiles.parts["tiles"].shape[1] % 4096 == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: gguf("Q2_K", 32, 256),
        lambda: packed_int4(32, 96, dtype=torch.float64),
        lambda: eight_bits(32, 96, 48),
        lambda: fp8(40, 130, 128, 128),
        lambda: interleaved(gguf("Q4_0", 16, 96), gguf("MXFP4", 16, 96)),
    ],
    ids=[
        "no tiles",
        "float64 scales",
        "groups of 48",
        "rows that are no tiles",
        "two formats in turn",
    ],
)
def test_what_has_no_tiles_stays_as_it_is(make):
    weight = make()
    assert tile_layout(weight) is None and tiled(weight) is weight
