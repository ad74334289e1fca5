"""Llama 2, Llama 3, Llama 3.1, Mistral, and bobot's own model: one decoder.

Pre-norm residual layers of grouped-query attention with rotary positions and a SwiGLU MLP.
Sources: arXiv:2307.09288, arXiv:2407.21783, arXiv:2310.06825; meta-llama/llama-models
`models/llama3/model.py`. Published forms and their names: `llama_dialects.py`.

Axes: T packed tokens, R chosen rows, D hidden, N query heads, K key/value heads, H head_dim, V
vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from bobot.errors import ConfigError
from bobot.layers.attention import GroupedQueryAttention
from bobot.layers.causal import CausalLM
from bobot.layers.context import AttentionContext, AttentionSpec
from bobot.layers.decoder import Decoder
from bobot.layers.mlp import SwiGLU
from bobot.layers.norm import RMSNorm
from bobot.ops.rope import RopeParameters


@dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """The family's settings, under their Hugging Face names. Raises ConfigError if they can't fit
    together.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float = 1e-5
    rope: RopeParameters = field(default_factory=RopeParameters)
    sliding_window: int | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                "num_attention_heads is {heads}; it must be a multiple of num_key_value_heads "
                "({kv_heads}).",
                heads=self.num_attention_heads,
                kv_heads=self.num_key_value_heads,
            )
        if self.head_dim % 2:
            raise ConfigError(
                "head_dim is {head_dim}; rotary positions need an even number.",
                head_dim=self.head_dim,
            )

    def attention_spec(self) -> AttentionSpec:
        """What every layer's attention looks like."""
        return AttentionSpec(
            num_heads=self.num_attention_heads,
            num_kv_heads=self.num_key_value_heads,
            head_dim=self.head_dim,
            v_head_dim=self.head_dim,
            scale=self.head_dim**-0.5,
            sliding_window=self.sliding_window,
        )


class LlamaLayer(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = GroupedQueryAttention(
            config.hidden_size, config.attention_spec(), bias=config.attention_bias
        )
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = SwiGLU(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)

    def forward(
        self, x_TD: Tensor, cos: Tensor, sin: Tensor, layer: int, attn: AttentionContext
    ) -> Tensor:
        x_TD = x_TD + self.self_attn(self.input_layernorm(x_TD), cos, sin, layer, attn)
        return x_TD + self.mlp(self.post_attention_layernorm(x_TD))


class Llama(CausalLM):
    """The model; other families put their own layers in."""

    layer_class: type[nn.Module] = LlamaLayer

    def __init__(self, config: LlamaConfig) -> None:
        layers = (self.layer_class(config) for _ in range(config.num_hidden_layers))
        norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        super().__init__(config, Decoder(config, layers, norm, config.head_dim))

    def kv_specs(self) -> list[AttentionSpec]:
        return [self.config.attention_spec()] * self.config.num_hidden_layers
