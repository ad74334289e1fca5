"""The product in float32 is the 16-bit product, up to one rounding."""

from __future__ import annotations

import pytest
import torch

from bobot.layers.linear import Linear
from bobot.ops.linear import WEIGHT_ROWS_AT_ONCE, linear, linear_in_pieces


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("has_bias", [True, False])
def test_both_products_agree_with_float64_to_one_rounding(
    dtype: torch.dtype, has_bias: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    num_features = WEIGHT_ROWS_AT_ONCE + 5
    x, weight, bias = (
        torch.randn(*shape, generator=generator).to(dtype)
        for shape in ((40, 64), (num_features, 64), (num_features,))
    )
    exact = x.double() @ weight.double().T + (bias.double() if has_bias else 0)
    unit = torch.finfo(dtype).eps * exact.abs().clamp(min=1e-2)
    with torch.no_grad():
        given = bias if has_bias else None
        outputs = {
            "linear": linear(x, weight, given),
            "in float32": linear_in_pieces(x, weight, given, torch.float32),
        }
        for name, out in outputs.items():
            assert out.dtype == dtype
            error = ((out.double() - exact).abs() / unit).max().item()
            assert error <= 1.0, f"{name}: {error:.2f} roundings"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("num_rows", [1, 2, 5, 31])
def test_few_rows_agree_with_float64_to_one_rounding(dtype: torch.dtype, num_rows: int) -> None:
    generator = torch.Generator().manual_seed(num_rows)
    x, weight, bias = (
        torch.randn(*shape, generator=generator).to(dtype)
        for shape in ((num_rows, 75), (70, 75), (70,))
    )
    exact = x.double() @ weight.double().T + bias.double()
    with torch.no_grad():
        error = (linear(x, weight, bias).double() - exact).abs()
    unit = torch.finfo(dtype).eps * exact.abs().clamp(min=1e-2)
    assert (error <= unit).all(), f"{(error / unit).max():.2f} roundings"


def test_a_layer_in_training_keeps_its_gradients() -> None:
    layer = Linear(8, 4).to(torch.bfloat16)
    layer(torch.randn(64, 8, dtype=torch.bfloat16)).sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.abs().sum() > 0
