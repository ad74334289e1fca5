"""RMSNorm as modules: one weight vector, no bias."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bobot.ops.norm import rms_norm


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x_TD: Tensor) -> Tensor:
        return rms_norm(x_TD, self.weight, self.eps)


class Float32RMSNorm(RMSNorm):
    """Its product with the weight is taken in float32, before the cast back: gpt-oss, Grok-1."""

    def forward(self, x_TD: Tensor) -> Tensor:
        return rms_norm(x_TD.float(), self.weight.float(), self.eps).to(x_TD.dtype)
