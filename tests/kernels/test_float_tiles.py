"""Tiles whose codes are no integers: every code, what is no number, and activations of 16 bits,
with every instruction set this machine has. What all tiles have in common is in test_tiles.py.
"""

from __future__ import annotations

import pytest
import torch
from packed_blocks import random_rows, random_scales
from test_tiles import EACH_ISA

from bobot import kernels
from bobot.quant.tiles import FLOAT_KERNELS

pytestmark = pytest.mark.skipif(not kernels.available, reason="the extension is not built")

FORMATS = {
    "float8_e4m3fn": ("float32", 128, 1),
    "bfloat16": ("", 0, 2),
    "float16": ("", 0, 2),
    "nf4": ("float32", 64, 0.5),
    "fp4": ("bfloat16", 96, 0.5),
}
"""Name -> the dtype of scales, the inputs that share one, and the bytes of a number."""
EACH_FORMAT = pytest.mark.parametrize("name", FORMATS)

Layout = tuple[str, str, int, int, int]


def test_formats_of_floats_are_known_to_round_no_activations():
    assert set(FORMATS) == FLOAT_KERNELS


def packed(
    name: str, values: torch.Tensor, scales: torch.Tensor | None
) -> tuple[Layout, torch.Tensor, torch.Tensor]:
    """Tiles of these rows, and the values that the kernels for rows give."""
    kind, group, size = FORMATS[name]
    num_outputs, num_inputs = values.shape[0], int(values.shape[1] / size)
    weights = torch.full((num_outputs, num_inputs), 7.0)
    kernels.dequantize(name, values, weights, scales, values_per_scale=group or 1, num_threads=1)
    layout = (name, kind, num_outputs, num_inputs, group)
    tiles = torch.full((kernels.tiles_bytes(*layout),), 0xAA, dtype=torch.uint8)
    kernels.pack_tiles(*layout, values, scales, tiles, num_threads=2)
    return layout, tiles, weights


def case(name: str, num_outputs: int, num_inputs: int):
    kind, group, _ = FORMATS[name]
    block_values, block_bytes = kernels.FORMATS[name]
    values = random_rows(name, num_outputs, num_inputs // block_values, block_bytes)
    scales = random_scales(name, num_outputs, num_inputs // group) if group else None
    return packed(name, values, None if scales is None else scales.to(getattr(torch, kind)))


def product(layout: Layout, tiles: torch.Tensor, x: torch.Tensor, isa: str) -> torch.Tensor:
    out = torch.full((len(x), layout[2]), 7.0)
    kernels.tiles_linear(*layout, tiles, x, out, activations="int16", num_threads=3, force=isa)
    return out


@EACH_ISA
@EACH_FORMAT
@pytest.mark.parametrize("num_rows", [1, 2, 4, 8, 21])
def test_products_with_16_bit_activations_round_nothing_but_sums(
    isa: str, name: str, num_rows: int
):
    """A row of K inputs has K sums, each rounded by 2**-24 of the sum of magnitudes at most, and
    four more for scales and chains. Activations rounded to integers, or weights rounded to
    bfloat16, would be seen: they differ by 2**-9 in each input.
    """
    num_inputs = 2304  # more than is widened at a time
    layout, tiles, weights = case(name, 83, num_inputs)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        x = torch.randn(num_rows, num_inputs, generator=torch.manual_seed(num_rows)).to(dtype)
        exact = x.double() @ weights.double().T
        sizes = x.abs().double() @ weights.abs().double().T
        error = ((product(layout, tiles, x.float(), isa) - exact).abs() / sizes).max().item()
        assert error < 1e-6, f"{dtype}: relative error {error:.1e}"
        assert error < (num_inputs + 4) * 2**-24


@EACH_ISA
def test_every_number_of_8_bits_keeps_its_value_and_what_is_none_stays_none(isa: str):
    codes = torch.arange(256, dtype=torch.uint8)
    values = codes.view(1, 256).repeat(18, 1).contiguous()
    scales = torch.tensor([0.75, 2.0**-20]).repeat(18, 1)
    layout, tiles, _ = packed("float8_e4m3fn", values, scales)
    out = torch.empty(18, 256)
    kernels.tiles_rows(*layout, tiles, torch.arange(18), out, num_threads=2, force=isa)
    expected = codes.view(torch.float8_e4m3fn).float() * scales[0].repeat_interleave(128)
    assert expected.isnan().sum() == 2
    for row in out:
        assert torch.equal(row.isnan(), expected.isnan())
        wrong = row.view(torch.int32) != expected.view(torch.int32)
        assert not (wrong & ~expected.isnan()).any(), codes[wrong].tolist()


@EACH_ISA
@pytest.mark.parametrize("is_bfloat", [False, True])
@pytest.mark.parametrize("num_rows", [1, 8, 20])
def test_a_weight_that_is_no_number_spoils_its_output_alone(
    isa: str, is_bfloat: bool, num_rows: int
):
    values = torch.full((40, 128), 0x38, dtype=torch.uint8)  # ones
    values[5, 77], values[39, 0] = 0x7F, 0xFF
    layout, tiles, _ = packed("float8_e4m3fn", values, torch.ones(40, 1))
    x = torch.full((num_rows, 128), 0.5 if is_bfloat else 0.1)
    out = product(layout, tiles, x, isa)
    bad = torch.zeros(40, dtype=torch.bool)
    bad[[5, 39]] = True
    assert torch.equal(out.isnan(), bad.expand(num_rows, -1))
    assert torch.allclose(out[:, ~bad], x.sum(1, keepdim=True).expand(-1, 38))


@EACH_ISA
@EACH_FORMAT
def test_activations_that_are_infinite_or_no_number_are_seen(isa: str, name: str):
    layout, tiles, _ = case(name, 16, 384)
    x = torch.ones(9, 384)
    x[2, 300], x[4, 7] = torch.inf, torch.nan
    out = product(layout, tiles, x, isa)
    assert out[[0, 1, 3, 5, 8]].isfinite().all()
    assert out[4].isnan().all() and not out[2].isfinite().any()


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (("bfloat16", "float32", 16, 64, 32), "do not have that dtype"),
        (("bfloat16", "", 16, 48, 0), "multiple of 32 inputs, not 48"),
        (("float8_e4m3fn", "uint8", 16, 64, 32), "do not have that dtype"),
        (("nf4", "float32", 16, 128, 48), "not for 48"),
        (("float32", "", 16, 64, 0), "no tiles of the format float32"),
    ],
)
def test_what_has_no_such_tiles_is_refused(layout: Layout, message: str):
    with pytest.raises(ValueError, match=message):
        kernels.tiles_bytes(*layout)
