"""Root mean square layer normalization (arXiv:1910.07467)."""

from __future__ import annotations

import torch
from torch import Tensor


def rms_norm(x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, in x's dtype.

    The statistics are float32; the product with the weight is taken after the cast back, as in the
    Llama reference (meta-llama/llama-models `models/llama3/model.py`).
    """
    x32_TD = x_TD.float()
    scale_T1 = torch.rsqrt(x32_TD.square().mean(-1, keepdim=True) + eps)
    return (x32_TD * scale_T1).to(x_TD.dtype) * weight_D
