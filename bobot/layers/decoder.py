"""The part of a model that checkpoints call `model`: embedding, layers, final norm."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from bobot.layers.context import AttentionContext
from bobot.layers.linear import Embedding
from bobot.ops.rope import attention_factor, inverse_frequencies, rotation


class Decoder(nn.Module):
    """Each layer is called with x, cos and sin of the rotary angles, its number and `attn`.

    `config` has vocab_size, hidden_size and rope; `rotary_dim` elements of a head rotate.
    """

    def __init__(
        self, config: Any, layers: Iterable[nn.Module], norm: nn.Module, rotary_dim: int
    ) -> None:
        super().__init__()
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(layers)
        self.norm = norm
        self.frequencies = inverse_frequencies(config.rope, rotary_dim)
        self.rope_factor = attention_factor(config.rope)

    def forward(self, ids_T: Tensor, positions_T: Tensor, attn: AttentionContext) -> Tensor:
        x_TD = self.embed_tokens(ids_T)
        cos, sin = rotation(positions_T, self.frequencies, x_TD.dtype, self.rope_factor)
        for n, layer in enumerate(self.layers):
            x_TD = layer(x_TD, cos, sin, n, attn)
        return self.norm(x_TD)
