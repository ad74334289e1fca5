"""The layer stack of a Llama for a few tokens in one C++ call.

Decoding a small model in torch is bound by the cost of its some 60 operations a layer, not by their
arithmetic. What is computed is models/llama.py, in float32; the tests hold the two together.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bobot import kernels
from bobot.engine.batch import Batch
from bobot.engine.kv_cache import KVCache
from bobot.models.llama import Llama
from bobot.ops.rope import rotation
from bobot.quant.native import Packed, packed_rows

MAX_TOKENS = 16
"""For more tokens torch's products of whole matrices are faster."""

_MATRICES = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)


class FusedDecoder:
    """Hidden states of a batch of at most MAX_TOKENS tokens, through the paged cache."""

    def __init__(self, model: Llama, cache: KVCache, layers: list[list[Packed]]) -> None:
        spec = model.config.attention_spec()
        decoder = model.model
        self.embed, self.frequencies = decoder.embed_tokens, decoder.frequencies
        self.rope_factor = decoder.rope_factor
        self.native = kernels.decoder(
            num_heads=spec.num_heads,
            num_kv_heads=spec.num_kv_heads,
            head_dim=spec.head_dim,
            eps=model.config.rms_norm_eps,
            scale=spec.scale,
            window=spec.sliding_window or 0,
            norm_D=decoder.norm.weight.detach(),
            num_threads=torch.get_num_threads(),
        )
        for layer, matrices, keys, values in zip(
            decoder.layers, layers, cache.keys, cache.values, strict=True
        ):
            self.native.add_layer(
                layer.get_parameter("input_layernorm.weight").detach(),
                layer.get_parameter("post_attention_layernorm.weight").detach(),
                [matrix.arguments() for matrix in matrices],
                keys,
                values,
            )

    def run(self, batch: Batch) -> Tensor:
        """What model(ids, positions, attn) gives: float32 (T, D)."""
        spans = batch.attn.spans
        first_keys, start = [], 0
        for span in spans:
            first_keys += [start] * (span.rows.stop - span.rows.start)
            start += span.num_keys
        cos, sin = rotation(batch.positions_T, self.frequencies, torch.float32, self.rope_factor)
        x_TD = self.embed(batch.ids_T)
        self.native.step(
            x_TD,
            cos[:, 0],
            sin[:, 0],
            torch.cat([_as_tensor(span.slots) for span in spans]),
            torch.tensor(first_keys),
            batch.positions_T + 1,
        )
        return x_TD


def _as_tensor(slots: slice | Tensor) -> Tensor:
    return torch.arange(slots.start, slots.stop) if isinstance(slots, slice) else slots


def fused_decoder(model: Any, cache: KVCache) -> FusedDecoder | None:
    """The decoder of a model that it can compute: a plain Llama in float32 on the CPU, without
    biases, whose matrices have kernels. None for any other.
    """
    if type(model) is not Llama or not kernels.available:
        return None
    config = model.config
    is_plain = not config.attention_bias and not config.mlp_bias
    if not is_plain or cache.device.type != "cpu" or cache.keys[0].dtype != torch.float32:
        return None
    layers = []
    for layer in model.model.layers:
        modules: list[Any] = [layer.get_submodule(name) for name in _MATRICES]
        matrices = [packed_rows(module.weight) for module in modules]
        if not all(matrix is not None and matrix.has_kernel for matrix in matrices):
            return None
        layers.append(matrices)
    return FusedDecoder(model, cache, layers)
