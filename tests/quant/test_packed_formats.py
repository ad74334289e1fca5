"""int8, FP8, int4 and MXFP4 weights against their definitions, written out one value at a time."""

from __future__ import annotations

import pytest
import torch

from bobot.ops.linear import linear
from bobot.quant import int4, mxfp4, scaled
from bobot.quant.grid import GRIDS, round_to_nearest
from bobot.quant.weight import QuantWeight, stack

E2M1 = {0: 0.0, 1: 0.5, 2: 1.0, 3: 1.5, 4: 2.0, 5: 3.0, 6: 4.0, 7: 6.0}


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def an_fp8(rows: int, columns: int) -> QuantWeight:
    values = random(rows, columns).to(torch.float8_e4m3fn)
    return scaled.weight_from_parts(
        values, random(-(-rows // 128), -(-columns // 128)).abs(), 128, 128
    )


WEIGHTS = {
    "fp8": an_fp8(300, 160),
    "int8": round_to_nearest(random(70, 96), GRIDS["int8"]),
    "int8 rows": scaled.weight_from_parts(
        torch.randint(-127, 128, (70, 96)).to(torch.int8), random(70, 1), 1, 96
    ),
    "int8 by input": scaled.weight_from_parts(
        torch.randint(-127, 128, (96, 70)).to(torch.int8).mT,
        random(3, 70).to(torch.bfloat16).mT,
        1,
        32,
    ),
    "int4": int4.weight_from_parts(
        int4.pack(torch.randint(-8, 8, (70, 96))), random(70, 3).to(torch.bfloat16)
    ),
    "mxfp4": round_to_nearest(random(70, 96), GRIDS["mxfp4"]),
}


def test_fp8_values_are_multiplied_by_the_scale_of_their_block() -> None:
    weight = an_fp8(300, 160)
    values, scales = weight.parts["values"].float(), weight.parts["scales"]
    found = weight.dequantize()
    for row in (0, 127, 128, 255, 256, 299):
        for column in (0, 127, 128, 159):
            wanted = values[row, column] * scales[row // 128, column // 128]
            assert found[row, column] == wanted, f"at {row}, {column}"


def test_int4_words_hold_eight_values_lowest_bits_first() -> None:
    q = torch.randint(-8, 8, (5, 64), generator=torch.Generator().manual_seed(3))
    packed = int4.pack(q)
    assert packed.shape == (5, 8) and packed.dtype == torch.int32
    for row in range(5):
        for column in range(64):
            word = int(packed[row, column // 8]) & 0xFFFFFFFF
            assert (word >> 4 * (column % 8) & 15) - 8 == q[row, column]
    assert torch.equal(int4.unpack(packed).long(), q)
    scales = random(5, 2).to(torch.bfloat16)
    values = int4.weight_from_parts(packed, scales).dequantize()
    assert values[3, 40] == q[3, 40] * scales[3, 1].float()


def test_mxfp4_bytes_hold_even_elements_low() -> None:
    generator = torch.Generator().manual_seed(4)
    blocks = torch.randint(0, 256, (3, 2, 16), generator=generator).to(torch.uint8)
    scales = torch.tensor([[127, 120], [130, 0], [254, 1]], dtype=torch.uint8)
    found = mxfp4.weight_from_parts(blocks, scales).dequantize()
    for row in range(3):
        for column in range(64):
            byte = int(blocks[row, column // 32, column % 32 // 2])
            code = byte >> 4 if column % 2 else byte & 15
            value = E2M1[code & 7] * (-1 if code & 8 else 1)
            wanted = value * 2.0 ** (int(scales[row, column // 32]) - 127)
            assert found[row, column] == torch.tensor(wanted), f"at {row}, {column}"


def test_mxfp4_values_survive_packing_again() -> None:
    values = round_to_nearest(random(40, 64), GRIDS["mxfp4"]).dequantize()
    assert torch.equal(round_to_nearest(values, GRIDS["mxfp4"]).dequantize(), values)


@pytest.mark.parametrize("name", GRIDS)
def test_each_value_goes_to_the_nearest_that_its_scale_allows(name: str) -> None:
    weight = random(16, 64)
    packed = round_to_nearest(weight, GRIDS[name])
    found = packed.dequantize().view(16, 2, 32)
    scales = packed.parts["scales"].float()
    if name == "mxfp4":
        steps = torch.tensor([*E2M1.values(), *(-value for value in E2M1.values())])
        scales = torch.exp2(scales - 127)
    else:
        steps = torch.arange(-127, 128) if name == "int8" else torch.arange(-8, 8)
    allowed = steps * scales.unsqueeze(-1)
    distances = (weight.view(16, 2, 32, 1) - allowed.unsqueeze(2)).abs()
    error = (weight.view(16, 2, 32) - found).abs()
    assert torch.allclose(error, distances.amin(-1)), "a nearer value exists"


@pytest.mark.parametrize("name", GRIDS)
def test_a_group_of_zeros_stays_zero(name: str) -> None:
    zeros = torch.zeros(2, 64)
    assert torch.equal(round_to_nearest(zeros, GRIDS[name]).dequantize(), zeros)


@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("name", WEIGHTS)
def test_a_product_with_packed_weights_is_the_product_with_their_values(
    name: str, rows: int
) -> None:
    weight = WEIGHTS[name]
    x = random(rows, weight.shape[1])
    bias = random(weight.shape[0])
    wanted = x @ weight.dequantize().T + bias
    difference = (linear(x, weight, bias) - wanted).abs().max().item()
    assert difference <= 1e-5 * wanted.abs().max().item(), f"differs by {difference:.2e}"


@pytest.mark.parametrize("name", WEIGHTS)
def test_experts_and_rows_are_cut_out_exactly(name: str) -> None:
    weight = WEIGHTS[name]
    values = weight.dequantize()
    pair = stack([weight, weight])
    assert isinstance(pair, QuantWeight)
    assert pair.shape == (2, *weight.shape) and pair.nbytes == 2 * weight.nbytes
    assert torch.equal(pair.dequantize(), torch.stack([values, values]))
    assert torch.equal(pair[1].dequantize(), values)
    start = 128 if name == "fp8" else 7
    assert torch.equal(weight[start : start + 9].dequantize(), values[start : start + 9])
    if name != "fp8":
        ids = torch.tensor([5, 0, 5])
        assert torch.equal(weight.rows(ids), values[ids])


def test_gradients_pass_through_a_packed_product() -> None:
    weight = WEIGHTS["int4"]
    x = random(4, 96).requires_grad_()
    linear(x, weight).sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, weight.dequantize().sum(0).expand(4, -1), atol=1e-5)
