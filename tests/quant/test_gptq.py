"""Rounding into packed formats: the nearest value, the scale that fits best, and GPTQ."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from bobot.quant import scaled
from bobot.quant.gptq import gptq, output_error
from bobot.quant.grid import GRIDS, GROUP, Grid, int4_scales, packed_shape, round_to_nearest
from bobot.quant.weight import QuantWeight


def weight_and_inputs() -> tuple[Tensor, Tensor]:
    """A matrix (48, 128) and 400 inputs that lie mostly in 40 directions."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(48, 128, generator=generator) * torch.rand(48, 1, generator=generator)
    inputs = torch.randn(400, 40, generator=generator) @ torch.randn(40, 128, generator=generator)
    return weight, inputs + 0.1 * torch.randn(400, 128, generator=generator)


def squared_error(weight: Tensor, packed: QuantWeight) -> float:
    return float((packed.dequantize() - weight).square().sum())


@pytest.mark.parametrize("name", GRIDS)
def test_a_value_that_the_format_has_is_kept(name: str) -> None:
    weight, _ = weight_and_inputs()
    once = round_to_nearest(weight, GRIDS[name])
    again = round_to_nearest(once.dequantize(), GRIDS[name])
    assert squared_error(once.dequantize(), again) <= 1e-3 * squared_error(weight, once)


@pytest.mark.parametrize("name", GRIDS)
def test_zeros_stay_zeros(name: str) -> None:
    weight = torch.zeros(4, 64)
    weight[0, 40] = 3.0
    values = round_to_nearest(weight, GRIDS[name]).dequantize()
    assert torch.equal(values == 0, weight == 0), values[0]


def test_the_scale_search_errs_less_than_the_largest_value_as_scale() -> None:
    weight, _ = weight_and_inputs()
    plain = Grid(
        "plain", partial(int4_scales, tried=(7,)), GRIDS["int4"].nearest, GRIDS["int4"].pack
    )
    found, first = (
        squared_error(weight, round_to_nearest(weight, g)) for g in (GRIDS["int4"], plain)
    )
    assert found < 0.9 * first, f"{found} against {first}"


@pytest.mark.parametrize("name", GRIDS)
def test_gptq_changes_products_less_than_rounding_to_nearest(name: str) -> None:
    weight, inputs = weight_and_inputs()
    hessian = inputs.T @ inputs
    nearest = output_error(weight, round_to_nearest(weight, GRIDS[name]), hessian)
    packed = gptq(weight, hessian, GRIDS[name])
    corrected = output_error(weight, packed, hessian)
    assert corrected < 0.5 * nearest, f"{name}: {corrected} against {nearest}"
    by_hand = float((inputs @ (weight - packed.dequantize()).T).square().sum())
    assert by_hand == pytest.approx(corrected, rel=1e-2)


@pytest.mark.parametrize("num_inputs", [0, 1, 5])
def test_gptq_with_few_inputs_is_never_worse_and_finite(num_inputs: int) -> None:
    weight, inputs = weight_and_inputs()
    few = inputs[:num_inputs]
    packed = gptq(weight, few.T @ few, GRIDS["int4"])
    nearest = round_to_nearest(weight, GRIDS["int4"])
    assert packed.dequantize().isfinite().all()
    errors = [float((few @ (weight - w.dequantize()).T).square().sum()) for w in (packed, nearest)]
    assert errors[0] <= errors[1] * 1.0001, errors


@pytest.mark.parametrize("name", GRIDS)
def test_the_shapes_are_known_before_the_values(name: str) -> None:
    weight, _ = weight_and_inputs()
    expected, known = round_to_nearest(weight, GRIDS[name]), packed_shape((48, 128), GRIDS[name])
    for part, tensor in expected.parts.items():
        assert (known.parts[part].shape, known.parts[part].dtype) == (tensor.shape, tensor.dtype)


def test_int8_words_hold_four_values_plus_128_lowest_first() -> None:
    values = torch.tensor([[-128, -1, 0, 127]], dtype=torch.int8)
    word = int(scaled.pack_int8(values)[0, 0])
    assert word & 0xFFFFFFFF == 0x00 | 0x7F << 8 | 0x80 << 16 | 0xFF << 24, hex(word)
    assert torch.equal(scaled.unpack_int8(scaled.pack_int8(values)), values)


def test_a_group_is_32_inputs_in_every_grid() -> None:
    weight, _ = weight_and_inputs()
    for grid in GRIDS.values():
        assert grid.scales(weight.unflatten(-1, (-1, GROUP))).shape == (48, 128 // 32)
