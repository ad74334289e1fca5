"""Tiles with every instruction set this machine has: the published values in another order, and
products that agree with those of the unpacked weights.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from packed_blocks import random_rows, random_scales

from bobot import kernels

pytestmark = pytest.mark.skipif(not kernels.available, reason="the extension is not built")

ISAS = [name for name, usable in kernels.features().items() if usable] if kernels.available else []
EACH_ISA = pytest.mark.parametrize("isa", ISAS)
APART = {
    "mxfp4": ("uint8", 32),
    "int4": ("bfloat16", 64),
    "int8": ("float32", 96),
    "nf4": ("float32", 64),
    "fp4": ("float32", 128),
    "float8_e4m3fn": ("float32", 128),
}
"""Formats whose scales lie apart: their dtype here, and how many inputs share one."""
WITH_TILES = [name for name in kernels.FORMATS if kernels.available and kernels.has_tiles(name)]
EACH_FORMAT = pytest.mark.parametrize("name", WITH_TILES)


class Case(NamedTuple):
    layout: tuple[str, str, int, int, int]
    tiles: torch.Tensor
    weights: torch.Tensor
    """float32, unpacked from the rows by the kernels that are tested in test_packed.py."""


def case(name: str, num_outputs: int, num_inputs: int) -> Case:
    block_values, block_bytes = kernels.FORMATS[name]
    per_block = block_values if block_bytes > 1 else 1
    values = random_rows(name, num_outputs, num_inputs // per_block, block_bytes)
    kind, group = APART.get(name, ("", 32))
    scales = random_scales(name, num_outputs, num_inputs // group)
    if scales is not None:
        scales = scales.to(getattr(torch, kind))
    weights = torch.full((num_outputs, num_inputs), torch.nan)
    kernels.dequantize(name, values, weights, scales, values_per_scale=group, num_threads=1)
    layout = (name, kind, num_outputs, num_inputs, 0 if scales is None else group)
    tiles = torch.full((kernels.tiles_bytes(*layout),), 0xAA, dtype=torch.uint8)
    kernels.pack_tiles(*layout, values, scales, tiles, num_threads=2)
    return Case(layout, tiles, weights)


def test_the_formats_of_the_models_have_tiles():
    assert set(WITH_TILES) >= {"Q4_0", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "MXFP4", "IQ4_NL", "IQ4_XS"}
    assert set(WITH_TILES) >= APART.keys()


@EACH_ISA
@EACH_FORMAT
def test_tiles_hold_the_published_values_bit_for_bit(isa: str, name: str):
    layout, tiles, weights = case(name, 37, 768)
    rows = torch.tensor([36, 0, 15, 16, 16, 31, 2])
    out = torch.full((len(rows), weights.shape[1]), torch.nan)
    kernels.tiles_rows(*layout, tiles, rows, out, num_threads=2, force=isa)
    assert torch.equal(out, weights[rows])


@EACH_FORMAT
def test_tiles_take_the_bytes_of_the_rows(name: str):
    num_outputs, num_inputs = 512, 1536
    layout, tiles, _ = case(name, num_outputs, num_inputs)
    block_values, block_bytes = kernels.FORMATS[name]
    per_block = block_values if block_bytes > 1 else 1
    published = num_outputs * num_inputs // per_block * block_bytes
    if layout[1]:
        published += num_outputs * num_inputs // layout[4] * getattr(torch, layout[1]).itemsize
    assert len(tiles) <= 1.04 * published, f"{len(tiles) / published:.3f} times the bytes"


@EACH_ISA
@EACH_FORMAT
@pytest.mark.parametrize("num_rows", [1, 2, 3, 5, 8, 19])
def test_products_agree_with_those_of_the_unpacked_weights(isa: str, name: str, num_rows: int):
    layout, tiles, weights = case(name, 53, 768)
    x = torch.randn(num_rows, weights.shape[1], generator=torch.manual_seed(num_rows))
    exact = x.double() @ weights.double().T
    sizes = x.abs().double() @ weights.abs().double().T
    errors = {}
    for is_integer in (False, True):
        out = torch.full((num_rows, layout[2]), torch.nan)
        kernels.tiles_linear(
            *layout, tiles, x, out, is_integer=is_integer, num_threads=3, force=isa
        )
        errors[is_integer] = ((out - exact).abs() / sizes).max().item()
    assert errors[False] < 1e-6, f"floats: relative error {errors[False]:.1e}"
    bfloat16 = ((x.bfloat16().double() @ weights.double().T - exact).abs() / sizes).max().item()
    assert errors[True] < 5e-5, f"integers: relative error {errors[True]:.1e}"
    assert errors[True] < bfloat16 / 10, f"integers {errors[True]:.1e}, bfloat16 {bfloat16:.1e}"


@EACH_ISA
@pytest.mark.parametrize("is_integer", [False, True])
def test_activations_of_any_size_keep_their_meaning(isa: str, is_integer: bool):
    """Zeros, a single large value, tiny values, infinities and what is no number."""
    layout, tiles, weights = case("Q8_0", 16, 64)
    x = torch.zeros(5, 64)
    x[1, 3], x[1, 40] = 1e6, 1.0
    x[2] = 1e-20
    x[3, 5], x[4, 60] = torch.inf, torch.nan
    out = torch.full((5, 16), 7.0)
    kernels.tiles_linear(*layout, tiles, x, out, is_integer=is_integer, num_threads=1, force=isa)
    exact = x[:3].double() @ weights.double().T
    sizes = x[:3].abs().double() @ weights.abs().double().T + 1e-30
    assert ((out[:3] - exact).abs() / sizes).max() < 5e-5
    assert not out[3:].isfinite().any()


@EACH_ISA
def test_no_rows_give_no_products(isa: str):
    layout, tiles, _ = case("Q4_0", 16, 64)
    out = torch.empty(0, 16)
    x = torch.empty(0, 64)
    kernels.tiles_linear(*layout, tiles, x, out, is_integer=True, num_threads=2, force=isa)


def test_shapes_that_do_not_fit_are_refused():
    layout, tiles, _ = case("Q4_0", 20, 64)
    x, out = torch.zeros(2, 64), torch.zeros(2, 20)
    settings = {"is_integer": True, "num_threads": 1}
    with pytest.raises(ValueError, match="the tiles have 64 bytes, not 1152"):
        kernels.tiles_linear(*layout, tiles[:64], x, out, **settings)
    with pytest.raises(ValueError, match="does not fit the weight"):
        kernels.tiles_linear(*layout, tiles, x[:, :32].contiguous(), out, **settings)
    with pytest.raises(ValueError, match="differ in their rows"):
        kernels.tiles_linear(*layout, tiles, x[:1], out, **settings)
    with pytest.raises(TypeError):
        kernels.tiles_linear(*layout, tiles, x.double(), out, **settings)
    with pytest.raises(ValueError, match="there is no row 20"):
        kernels.tiles_rows(*layout, tiles, torch.tensor([20]), x[:1], num_threads=1)
    with pytest.raises(ValueError, match="multiple of 256 inputs, not 64"):
        kernels.tiles_bytes("Q4_K", "", 16, 64, 0)
    with pytest.raises(ValueError, match="no tiles of the format Q2_K"):
        kernels.tiles_bytes("Q2_K", "", 16, 256, 0)
    with pytest.raises(ValueError, match="not for 48"):
        kernels.tiles_bytes("int4", "bfloat16", 16, 96, 48)
    with pytest.raises(ValueError, match="do not have that dtype"):
        kernels.tiles_bytes("int4", "uint8", 16, 96, 32)
    with pytest.raises(ValueError, match="one number for each group"):
        kernels.pack_tiles(
            *("int4", "bfloat16", 16, 64, 32),
            torch.zeros(16, 32, dtype=torch.uint8),
            torch.zeros(16, 1, dtype=torch.bfloat16),
            torch.zeros(kernels.tiles_bytes("int4", "bfloat16", 16, 64, 32), dtype=torch.uint8),
            num_threads=1,
        )
