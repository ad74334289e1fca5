"""The Q8_0 kernels against float64 NumPy, with every instruction set this machine has."""

import numpy as np
import pytest
import torch

from bobot import kernels

pytestmark = pytest.mark.skipif(not kernels.available, reason="the extension is not built")

ISAS = [name for name, usable in kernels.features().items() if usable] if kernels.available else []


def random_blocks(num_rows: int, num_columns: int, seed: int = 0) -> np.ndarray:
    """Raw Q8_0 bytes (num_rows, num_columns / 32 * 34) with scales of every size, both signs."""
    rng = np.random.default_rng(seed)
    num_blocks = num_columns // 32
    scales = rng.normal(size=(num_rows, num_blocks, 1)) * 10.0 ** rng.integers(
        -6, 1, size=(num_rows, num_blocks, 1)
    )
    values = rng.integers(-128, 128, size=(num_rows, num_blocks, 32)).astype(np.int8)
    blocks = np.concatenate([scales.astype("<f2").view(np.uint8), values.view(np.uint8)], axis=2)
    return np.ascontiguousarray(blocks.reshape(num_rows, num_blocks * 34))


def reference_weights(blocks: np.ndarray) -> np.ndarray:
    """The weights of raw Q8_0 bytes in float64, written from the format's definition."""
    split = blocks.reshape(blocks.shape[0], -1, 34)
    scales = np.ascontiguousarray(split[:, :, :2]).view("<f2").astype(np.float64)
    values = np.ascontiguousarray(split[:, :, 2:]).view(np.int8).astype(np.float64)
    return (scales * values).reshape(blocks.shape[0], -1)


@pytest.mark.parametrize("isa", ISAS)
def test_dequantized_weights_are_the_exact_products(isa):
    blocks = random_blocks(7, 96)
    out = np.empty((7, 96), dtype=np.float32)
    kernels.dequantize_q8_0(blocks, out, force=isa)
    expected = reference_weights(blocks).astype(np.float32)
    assert np.array_equal(out, expected), np.abs(out - expected).max()


@pytest.mark.parametrize("isa", ISAS)
def test_every_half_precision_scale_is_read_like_numpy_reads_it(isa):
    bits = np.arange(1 << 16, dtype=np.uint16)
    blocks = np.zeros((len(bits), 34), dtype=np.uint8)
    blocks[:, :2] = bits.astype("<u2").view(np.uint8).reshape(-1, 2)
    blocks[:, 2:] = 1
    out = np.empty((len(bits), 32), dtype=np.float32)
    kernels.dequantize_q8_0(blocks, out, force=isa)
    expected = bits.view(np.float16).astype(np.float32)
    differ = ~((out[:, 5] == expected) | (np.isnan(out[:, 5]) & np.isnan(expected)))
    assert not differ.any(), [hex(b) for b in bits[differ][:5]]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("num_threads", [1, 2, 5])
@pytest.mark.parametrize("shape", [(1, 3, 32), (4, 1, 64), (6, 37, 160), (9, 64, 256)])
def test_linear_agrees_with_float64(isa, num_threads, shape):
    num_rows, num_outputs, num_inputs = shape
    blocks = random_blocks(num_outputs, num_inputs)
    x = np.random.default_rng(1).normal(size=(num_rows, num_inputs)).astype(np.float32)
    out = np.full((num_rows, num_outputs), np.nan, dtype=np.float32)
    kernels.linear_q8_0(x, blocks, out, num_threads=num_threads, force=isa)
    weights = reference_weights(blocks)
    sizes = np.abs(x).astype(np.float64) @ np.abs(weights).T
    error = np.abs(out - x @ weights.T) / sizes
    assert error.max() < 1e-6, f"relative error {error.max():.2e} with {isa} at {shape}"


def test_torch_tensors_are_used_in_place():
    blocks = random_blocks(5, 64)
    x, out = torch.randn(2, 64), torch.zeros(2, 5)
    kernels.linear_q8_0(x, torch.from_numpy(blocks), out, num_threads=1)
    weights = torch.from_numpy(reference_weights(blocks)).float()
    torch.testing.assert_close(out, x @ weights.T, rtol=1e-4, atol=1e-3)


def test_a_result_does_not_depend_on_the_number_of_threads():
    blocks, x = random_blocks(33, 128), np.ones((3, 128), dtype=np.float32)
    one, three = np.empty((3, 33), np.float32), np.empty((3, 33), np.float32)
    kernels.linear_q8_0(x, blocks, one, num_threads=1)
    kernels.linear_q8_0(x, blocks, three, num_threads=3)
    assert np.array_equal(one, three)


@pytest.mark.parametrize(
    ("x_shape", "weight_shape", "out_shape", "message"),
    [
        ((1, 32), (4, 35), (1, 4), "multiple of 34 bytes, not 35"),
        ((1, 64), (4, 34), (1, 4), "last axis"),
        ((1, 32), (4, 34), (1, 5), "rows of x, rows of weight"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(x_shape, weight_shape, out_shape, message):
    x, weight = np.zeros(x_shape, np.float32), np.zeros(weight_shape, np.uint8)
    with pytest.raises(ValueError, match=message):
        kernels.linear_q8_0(x, weight, np.zeros(out_shape, np.float32), num_threads=1)


def test_a_transposed_or_double_precision_array_is_refused():
    weight, out = np.zeros((32, 34), np.uint8), np.zeros((32, 32), np.float32)
    for x in (np.zeros((32, 32), np.float64), np.zeros((32, 33), np.float32)[:, :32]):
        with pytest.raises(TypeError):
            kernels.linear_q8_0(x, weight, out, num_threads=1)
