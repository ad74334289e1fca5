"""GPTQ (arXiv:2210.17323): a matrix rounded so that its products change little, not its values.

Column after column is rounded; what that costs is made up for by the columns that follow, in the
proportions of the inverse of H = X^T X, the inputs seen in calibration. Columns go by falling
diagonal of H (the paper's repository calls it act-order), the scales are chosen before: so the
order leaves no trace in the file.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bobot.quant.grid import GROUP, Grid, divisors, round_to_nearest
from bobot.quant.weight import QuantWeight

DAMPING = 0.01
"""Added to the diagonal of H, as a part of its mean: inputs not seen must not cost nothing."""
COLUMNS_AT_ONCE = 128
"""Corrections of columns further on wait for so many, to come as one product."""


def gptq(weight: Tensor, hessian: Tensor, grid: Grid) -> QuantWeight:
    """The matrix (out, in) in the grid's format, for inputs whose sum of x^T x is `hessian` (in,
    in). Never worse on them than rounding to nearest: if it were, that is returned.
    """
    nearest = round_to_nearest(weight, grid)
    corrected = _corrected(weight.float(), hessian.float(), grid)
    if output_error(weight, corrected, hessian) < output_error(weight, nearest, hessian):
        return corrected
    return nearest


def output_error(weight: Tensor, rounded: QuantWeight, hessian: Tensor) -> float:
    """The sum of (W x - Q x)^2 over all inputs x: trace(E H E^T), E = W - Q."""
    error = weight.float() - rounded.dequantize()
    return float(((error @ hessian.float()) * error).sum())


def _corrected(weight: Tensor, hessian: Tensor, grid: Grid) -> QuantWeight:
    num_columns = weight.shape[1]
    scales = grid.scales(weight.unflatten(-1, (-1, GROUP)))
    diagonal = hessian.diagonal()
    order = diagonal.argsort(descending=True)
    steps = divisors(scales)[:, order // GROUP]
    left = weight[:, order].clone()
    upper = _inverse_factor(hessian[order][:, order])
    levels = torch.empty_like(left)
    for start in range(0, num_columns, COLUMNS_AT_ONCE):
        stop = min(start + COLUMNS_AT_ONCE, num_columns)
        errors = left.new_empty(len(left), stop - start)
        for column in range(start, stop):
            value = left[:, column]
            levels[:, column] = grid.nearest(value / steps[:, column])
            error = (value - levels[:, column] * steps[:, column]) / upper[column, column]
            left[:, column + 1 : stop] -= error[:, None] * upper[column, column + 1 : stop]
            errors[:, column - start] = error
        left[:, stop:] -= errors @ upper[start:stop, stop:]
    return grid.pack(levels[:, order.argsort()], scales)


def _inverse_factor(hessian: Tensor) -> Tensor:
    """Upper triangular U with U^T U = H^-1 (damped): row j holds how an error in column j spreads
    to the columns behind it.
    """
    damped = hessian + torch.eye(len(hessian), device=hessian.device) * (
        DAMPING * hessian.diagonal().mean() + 1e-12
    )
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True)
