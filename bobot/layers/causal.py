"""The outside of every family's model: a decoder and the matrix that turns its output into scores.

Axes: T packed tokens, R chosen rows, D hidden, V vocabulary.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from bobot.layers.context import AttentionContext
from bobot.layers.linear import Linear


class CausalLM(nn.Module):
    """Ids of packed sequences in, hidden states out; `logits` turns chosen rows into scores.

    `config` has hidden_size, vocab_size and tie_word_embeddings; the decoder has embed_tokens.
    """

    def __init__(self, config: Any, decoder: Any) -> None:
        super().__init__()
        self.config = config
        self.model = decoder
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = decoder.embed_tokens.weight

    def forward(self, ids_T: Tensor, positions_T: Tensor, attn: AttentionContext) -> Tensor:
        """Hidden states (T, D) after the final norm. `positions_T` counts within each sequence."""
        return self.model(ids_T, positions_T, attn)

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """Scores of the next token for the given rows: float32 (R, V)."""
        return self.lm_head(hidden_RD).float()
