"""Linear layers and embeddings whose weight may be packed: parameters and names are torch's own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bobot.ops.linear import linear
from bobot.quant.weight import QuantWeight, Weight


class Linear(nn.Linear):
    """x @ weight.T + bias, through ops/linear.py."""

    weight: Weight  # pyright: ignore[reportIncompatibleVariableOverride]

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


class Embedding(nn.Embedding):
    """Row `id` of the weight. Rows of a packed weight come in the dtype that `dtype` names."""

    weight: Weight  # pyright: ignore[reportIncompatibleVariableOverride]
    dtype: torch.dtype | None = None
    """Of the values; set by the loader where the weight is packed and can't say it."""

    def forward(self, input: Tensor) -> Tensor:
        if isinstance(self.weight, QuantWeight):
            return self.weight.rows(input).to(self.dtype)
        return super().forward(input)
