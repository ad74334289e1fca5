"""The kernels of packed weights with every instruction set this machine has.

That the values are those of the formats is tested in tests/quant/test_native.py.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from packed_blocks import random_rows, random_scales

from bobot import kernels

pytestmark = pytest.mark.skipif(not kernels.available, reason="the extension is not built")

ISAS = [name for name, usable in kernels.features().items() if usable] if kernels.available else []
EACH_ISA = pytest.mark.parametrize("isa", ISAS)
EACH_FORMAT = pytest.mark.parametrize("name", list(kernels.FORMATS))


def unpacked(name: str, values: torch.Tensor, scales: torch.Tensor | None, group: int, isa: str):
    block_values, block_bytes = kernels.FORMATS[name]
    out = torch.full((len(values), values.shape[1] // block_bytes * block_values), torch.nan)
    kernels.dequantize(name, values, out, scales, values_per_scale=group, num_threads=2, force=isa)
    return out


@EACH_ISA
@EACH_FORMAT
@pytest.mark.parametrize("shape", [(1, 3, 1), (2, 1, 2), (4, 6, 3), (7, 37, 1)])
def test_linear_agrees_with_the_product_of_the_unpacked_weights(isa, name, shape):
    num_rows, num_outputs, num_blocks = shape
    block_values, block_bytes = kernels.FORMATS[name]
    num_blocks *= 45 if block_values == 1 else 1
    values = random_rows(name, num_outputs, num_blocks, block_bytes)
    group = 32 if name in ("mxfp4", "int4") else 20
    scales = random_scales(name, num_outputs, -(-num_blocks * block_values // group))
    weights = unpacked(name, values, scales, group, isa).double()
    x = torch.randn(num_rows, weights.shape[1], generator=torch.manual_seed(2))
    out = torch.full((num_rows, num_outputs), torch.nan)
    kernels.linear(name, x, values, out, scales, values_per_scale=group, num_threads=3, force=isa)
    sizes = x.abs().double() @ weights.abs().T + 1e-30  # a tiny scale may round to zero
    error = ((out - x.double() @ weights.T).abs() / sizes).max()
    assert error < 1e-6, f"relative error {error:.2e} with {isa} at {shape}"


@EACH_ISA
def test_every_half_precision_scale_is_read_like_numpy_reads_it(isa):
    bits = np.arange(1 << 16, dtype=np.uint16)
    blocks = np.ones((len(bits), 34), dtype=np.uint8)
    blocks[:, :2] = bits.astype("<u2").view(np.uint8).reshape(-1, 2)
    out = np.empty((len(bits), 32), dtype=np.float32)
    kernels.dequantize("Q8_0", blocks, out, num_threads=1, force=isa)
    expected = bits.view(np.float16).astype(np.float32)
    differ = ~((out[:, 5] == expected) | (np.isnan(out[:, 5]) & np.isnan(expected)))
    assert not differ.any(), [hex(b) for b in bits[differ][:5]]


@EACH_ISA
def test_every_fp8_number_is_read_like_torch_reads_it(isa):
    codes = torch.arange(256, dtype=torch.uint8)
    values = unpacked("float8_e4m3fn", codes[None], torch.ones(1, 1), 256, isa)[0]
    expected = codes.view(torch.float8_e4m3fn).float()
    assert torch.equal(values.isnan(), expected.isnan())
    finite = ~expected.isnan()
    wrong = values[finite].view(torch.int32) != expected[finite].view(torch.int32)
    assert not wrong.any(), codes[finite][wrong].tolist()


@EACH_FORMAT
def test_a_result_does_not_depend_on_the_number_of_threads(name):
    values = random_rows(name, 33, 2, kernels.FORMATS[name][1])
    num_values = 2 * kernels.FORMATS[name][0]
    scales = random_scales(name, 33, max(1, num_values // 32))
    x, results = torch.ones(3, num_values), []
    for num_threads in (1, 3, 64):
        results.append(torch.empty(3, 33))
        kernels.linear(
            name, x, values, results[-1], scales, values_per_scale=32, num_threads=num_threads
        )
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_rows_share_scales_in_blocks():
    values = torch.arange(-12, 12, dtype=torch.int8).view(6, 4)
    scales = torch.tensor([[1.0, 10.0], [100.0, 1000.0]])
    out = torch.empty(6, 4)
    kernels.dequantize(
        "int8",
        values.view(torch.uint8),
        out,
        scales,
        rows_per_scale=4,
        values_per_scale=3,
        num_threads=2,
    )
    factors = scales.repeat_interleave(4, 0)[:6].repeat_interleave(3, 1)[:, :4]
    assert torch.equal(out, values * factors)


def test_a_weight_without_rows_gives_nothing():
    kernels.linear(
        "Q8_0", torch.ones(2, 32), torch.empty(0, 34, dtype=torch.uint8), torch.empty(2, 0),
        num_threads=2,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("x_shape", "weight_shape", "out_shape", "message"),
    [
        ((1, 32), (4, 35), (1, 4), "Q8_0 has a multiple of 34 bytes, not 35"),
        ((1, 64), (4, 34), (1, 4), "last axis"),
        ((1, 32), (4, 34), (1, 5), "rows of x, rows of weight"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(x_shape, weight_shape, out_shape, message):
    x, weight = np.zeros(x_shape, np.float32), np.zeros(weight_shape, np.uint8)
    with pytest.raises(ValueError, match=message):
        kernels.linear("Q8_0", x, weight, np.zeros(out_shape, np.float32), num_threads=1)


@pytest.mark.parametrize(
    ("name", "num_bytes", "scales", "message"),
    [
        ("Q9_X", 34, None, "no kernel for the format Q9_X"),
        ("Q8_0", 34, torch.ones(4, 1), "has no scales of its own"),
        ("int4", 16, None, "needs scales"),
        ("int4", 16, torch.ones(4, 2), "one number for each block"),
        ("int4", 16, torch.ones(3, 1), "one number for each block"),
        ("int4", 16, torch.ones(4, 1, dtype=torch.uint8), "scales of mxfp4 are uint8"),
        ("int4", 16, torch.ones(4, 1, dtype=torch.float64), "scales are uint8"),
        ("mxfp4", 16, torch.ones(4, 1), "scales of mxfp4 are uint8"),
    ],
)
def test_formats_and_scales_that_do_not_fit_are_refused(name, num_bytes, scales, message):
    weight, out = torch.zeros(4, num_bytes, dtype=torch.uint8), torch.zeros(4, 32)
    with pytest.raises(ValueError, match=message):
        kernels.dequantize(name, weight, out, scales, values_per_scale=32, num_threads=1)


def test_a_transposed_or_double_precision_array_is_refused():
    weight, out = np.zeros((32, 34), np.uint8), np.zeros((32, 32), np.float32)
    for x in (np.zeros((32, 32), np.float64), np.zeros((32, 33), np.float32)[:, :32]):
        with pytest.raises(TypeError):
            kernels.linear("Q8_0", x, weight, out, num_threads=1)


@EACH_ISA
@pytest.mark.parametrize("shape", [(1, 8, 5, 1), (3, 96, 1500, 8), (16, 30, 1024, 3), (2, 7, 1, 1)])
def test_int8_stored_input_by_input_gives_the_same_product(isa, shape):
    num_rows, num_inputs, num_outputs, num_runs = shape
    generator = torch.manual_seed(3)
    values = torch.randint(-128, 128, (num_inputs, num_outputs), generator=generator)
    scales = torch.rand(num_runs, num_outputs, generator=generator).to(torch.bfloat16)
    x = torch.randn(num_rows, num_inputs, generator=generator)
    out = torch.full((num_rows, num_outputs), torch.nan)
    kernels.linear_columns(x, values.to(torch.int8), scales, out, num_threads=3, force=isa)
    each = scales.double().repeat_interleave(num_inputs // num_runs, dim=0)
    wanted = x.double() @ (values * each)
    sizes = x.abs().double() @ (values.abs() * each) + 1e-30
    error = ((out - wanted).abs() / sizes).max()
    assert error < 1e-6, f"relative error {error:.2e} with {isa}"


def test_columns_that_do_not_fit_are_refused():
    x, values = torch.ones(2, 6), torch.ones(6, 4, dtype=torch.int8)
    for scales, out in [
        (torch.ones(4, 4), torch.empty(2, 4)),
        (torch.ones(1, 3), torch.empty(2, 4)),
        (torch.ones(1, 4), torch.empty(2, 5)),
        (torch.ones(1, 4), torch.empty(3, 4)),
        (torch.ones(1, 4, dtype=torch.uint8), torch.empty(2, 4)),
    ]:
        with pytest.raises(ValueError):
            kernels.linear_columns(x, values, scales, out, num_threads=1)
