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

ISAS = [
    name
    for name, usable in (kernels.features().items() if kernels.available else [])
    if usable and name != "amx"
]
"""Not AMX, whose products of many rows are of bfloat16: test_amx.py."""
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
FLOATS = ("nf4", "fp4", "float8_e4m3fn", "bfloat16", "float16")
"""Whose codes are no integers: they take activations as they are (test_float_tiles.py)."""


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


def errors_of(made: Case, x: torch.Tensor, activations: str, isa: str) -> torch.Tensor:
    """Of each product, in units of the sum of the sizes of what it adds up."""
    out = torch.full((len(x), made.layout[2]), torch.nan)
    settings = {"activations": activations, "num_threads": 3, "force": isa}
    kernels.tiles_linear(*made.layout, made.tiles, x, out, **settings)
    exact = x.double() @ made.weights.double().T
    return (out - exact).abs() / (x.abs().double() @ made.weights.abs().double().T)


@EACH_ISA
@EACH_FORMAT
@pytest.mark.parametrize("num_rows", [1, 2, 3, 5, 8, 19])
def test_products_agree_with_those_of_the_unpacked_weights(isa: str, name: str, num_rows: int):
    made = case(name, 53, 768)
    x = torch.randn(num_rows, 768, generator=torch.manual_seed(num_rows))
    error = errors_of(made, x, "float32", isa).max().item()
    assert error < 1e-6, f"floats: relative error {error:.1e}"
    error = errors_of(made, x, "int16", isa).max().item()
    exact = x.double() @ made.weights.double().T
    rounded = x.bfloat16().double() @ made.weights.double().T
    sizes = x.abs().double() @ made.weights.abs().double().T
    bfloat16 = ((rounded - exact).abs() / sizes).max().item()
    assert error < 5e-5, f"integers: relative error {error:.1e}"
    assert error < bfloat16 / 10, f"integers {error:.1e}, bfloat16 {bfloat16:.1e}"


def rounded_to_8_bits(x: torch.Tensor) -> torch.Tensor:
    """Multiples of a 127th of the largest of every 32 inputs: what 8-bit activations say."""
    groups = x.view(len(x), -1, 32)
    scales = groups.abs().amax(-1, keepdim=True) / 127
    return ((groups / scales).round() * scales).nan_to_num().view(x.shape)


@EACH_ISA
@pytest.mark.parametrize("name", [name for name in WITH_TILES if name not in FLOATS])
@pytest.mark.parametrize("num_rows", [1, 2, 3, 5, 8, 19, 33])
def test_8_bit_activations_are_rounded_once_and_multiplied_exactly(
    isa: str, name: str, num_rows: int
):
    """One step is 1/127 of the largest of 32 inputs, whose sizes are far apart here."""
    made = case(name, 53, 768)
    x = torch.randn(num_rows, 768, generator=torch.manual_seed(num_rows))
    x *= torch.logspace(-3, 3, 768)
    rounded = rounded_to_8_bits(x)
    out = torch.full((num_rows, 53), torch.nan)
    settings = {"activations": "int8", "num_threads": 3, "force": isa}
    kernels.tiles_linear(*made.layout, made.tiles, x, out, **settings)
    exact = rounded.double() @ made.weights.double().T
    sizes = rounded.abs().double() @ made.weights.abs().double().T
    error = ((out - exact).abs() / sizes).max().item()
    assert error < 1e-5, f"relative error {error:.1e}"


@EACH_ISA
@pytest.mark.parametrize("name", ["Q4_0", "Q4_K", "Q6_K", "Q8_0", "IQ4_NL"])
@pytest.mark.parametrize("activations", ["int16", "int8"])
def test_a_row_gives_the_same_in_any_company(isa: str, name: str, activations: str):
    made = case(name, 53, 1280)
    x = torch.randn(35, 1280, generator=torch.manual_seed(1))
    settings = {"activations": activations, "num_threads": 2, "force": isa}
    together = torch.full((35, 53), torch.nan)
    kernels.tiles_linear(*made.layout, made.tiles, x, together, **settings)
    for num_rows in (1, 2, 4, 7, 9, 20):
        out = torch.full((num_rows, 53), torch.nan)
        kernels.tiles_linear(*made.layout, made.tiles, x[:num_rows], out, **settings)
        assert torch.equal(out, together[:num_rows]), f"{num_rows} rows"


@EACH_ISA
@pytest.mark.parametrize("name", ["Q8_0", "IQ4_NL", "Q5_0", "mxfp4"])
def test_the_largest_codes_of_8_bits_do_not_saturate(isa: str, name: str):
    """All activations at 127 steps, whatever the weights, with either sign."""
    made = case(name, 48, 384)
    if name == "Q8_0":
        values = torch.full((48, 12, 34), 0x80, dtype=torch.uint8)
        values[24:, :, 2:] = 0x7F
        values[:, :, :2] = torch.ones(1).half().view(torch.uint8)
        values = values.view(48, -1)
        kernels.dequantize(name, values, made.weights, num_threads=1)
        kernels.pack_tiles(*made.layout, values, None, made.tiles, num_threads=1)
        assert made.weights.min() == -128 and made.weights.max() == 127
    for sign in (1.0, -1.0):
        x = torch.full((9, 384), sign)
        x[3, ::2] = -sign
        out = torch.full((9, 48), torch.nan)
        settings = {"activations": "int8", "num_threads": 1, "force": isa}
        kernels.tiles_linear(*made.layout, made.tiles, x, out, **settings)
        exact = x.double() @ made.weights.double().T
        sizes = x.abs().double() @ made.weights.abs().double().T
        assert ((out - exact).abs() <= 1e-6 * sizes).all()


@EACH_ISA
@pytest.mark.parametrize("activations", ["float32", "int16", "int8"])
def test_activations_of_any_size_keep_their_meaning(isa: str, activations: str):
    """Zeros, a single large value, tiny values, infinities and what is no number."""
    layout, tiles, weights = case("Q8_0", 16, 64)
    x = torch.zeros(5, 64)
    x[1, 3], x[1, 40] = 1e6, 1.0
    x[2] = 1e-20
    x[3, 5], x[4, 60] = torch.inf, torch.nan
    out = torch.full((5, 16), 7.0)
    kernels.tiles_linear(*layout, tiles, x, out, activations=activations, num_threads=1, force=isa)
    exact = x[:3].double() @ weights.double().T
    sizes = x[:3].abs().double() @ weights.abs().double().T + 1e-30
    assert ((out[:3] - exact).abs() / sizes).max() < 5e-5
    assert not out[3:].isfinite().any()


@EACH_ISA
def test_no_rows_give_no_products(isa: str):
    layout, tiles, _ = case("Q4_0", 16, 64)
    out = torch.empty(0, 16)
    x = torch.empty(0, 64)
    kernels.tiles_linear(*layout, tiles, x, out, activations="int16", num_threads=2, force=isa)


def test_shapes_that_do_not_fit_are_refused():
    layout, tiles, _ = case("Q4_0", 20, 64)
    x, out = torch.zeros(2, 64), torch.zeros(2, 20)
    settings = {"activations": "int16", "num_threads": 1}
    with pytest.raises(ValueError, match="the tiles have 64 bytes, not 1152"):
        kernels.tiles_linear(*layout, tiles[:64], x, out, **settings)
    with pytest.raises(ValueError, match="does not fit the weight"):
        kernels.tiles_linear(*layout, tiles, x[:, :32].contiguous(), out, **settings)
    with pytest.raises(ValueError, match="differ in their rows"):
        kernels.tiles_linear(*layout, tiles, x[:1], out, **settings)
    with pytest.raises(TypeError):
        kernels.tiles_linear(*layout, tiles, x.double(), out, **settings)
    with pytest.raises(ValueError, match="float32, int16 or int8, not int4"):
        kernels.tiles_linear(*layout, tiles, x, out, activations="int4", num_threads=1)
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
