"""A step in one C++ call, from ids to logits.

Decoding in torch is bound by the cost of its some 60 operations a layer where the model is small,
and by its attention where the context is long. What is computed is models/llama.py, mixtral.py,
gpt_oss.py, grok1.py and deepseek_v3.py, in float32, and for the rows of an adapter what
layers/lora.py adds; the tests hold both ways together.
"""

from __future__ import annotations

from collections.abc import Sequence as Rows
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from bobot import kernels
from bobot.engine.fused_layers import (
    CACHE_DTYPES,
    FAMILIES,
    TILE_PARTS,
    Family,
    Layer,
    NoKernelError,
    floats,
    matrix,
    place_of,
)
from bobot.engine.kv_cache import KVCache
from bobot.engine.request import Chunk
from bobot.layers.lora import Adapter
from bobot.ops.linear import tiles_beat_torch
from bobot.quant.tiles import Activations, TileFormat, kernel_activations, takes_integers
from bobot.quant.weight import QuantWeight

MAX_TOKENS = 16
"""For more tokens torch's products of whole matrices are faster, if a matrix is not tiles."""
MAX_TOKENS_OF_TILES = 32
"""The same where every matrix is tiles, on processors where torch multiplies faster than tiles."""
BYTES_PER_THREAD = 1 << 15
"""Of the weights of a layer, once for each token: with less to do, threads lose more by waiting for
each other."""


class FusedDecoder:
    """A model and its cache, for batches of at most `max_tokens` tokens; None: of any size."""

    def __init__(self, model: Any, cache: KVCache, family: Family) -> None:
        decoder, spec, config = model.model, model.kv_specs()[0], model.config
        layers = [family.layer(layer) for layer in decoder.layers]
        hidden_id = family.hidden_id(config)
        self.vocab_size: int = config.vocab_size
        self.max_tokens = _max_tokens(layers, cache.keys[0].dtype)
        self.layer_bytes = _layer_bytes(layers)
        self.adapters: WeakKeyDictionary[Adapter, Any] = WeakKeyDictionary()
        """Those that have been used, as `native` takes them, for as long as somebody keeps them."""
        self.native = kernels.decoder(
            num_heads=spec.num_heads,
            num_kv_heads=spec.num_kv_heads,
            head_dim=spec.head_dim,
            block_size=cache.block_size,
            eps=config.rms_norm_eps,
            frequencies=decoder.frequencies,
            rope_factor=decoder.rope_factor,
            embedding=matrix(decoder.embed_tokens.weight),
            embedding_factor=family.embedding_factor(config),
            lm_head=matrix(model.lm_head.weight),
            norm_D=floats(decoder.norm.weight) * family.logits_factor(config),
            activations=_activations(model, cache),
            hidden=None if hidden_id is None else cache.hidden_P,
            hidden_id=hidden_id or 0,
        )
        for layer, keys, values in zip(layers, cache.keys, cache.values, strict=True):
            cached = {
                "attention": {"keys": keys, "values": values},
                "latent_attention": {"keys": keys},
            }
            for part, arguments in layer.items():
                getattr(self.native, f"add_{part}")(**arguments, **cached.get(part, {}))

    def takes(self, num_tokens: int) -> bool:
        return self.max_tokens is None or num_tokens <= self.max_tokens

    def run(self, chunks: Rows[Chunk]) -> tuple[Tensor, list[Chunk]]:
        """As Runner.run: logits (R, V) float32, and the chunks that have caught up."""
        tokens, rows, caught_up = [], [], []
        adapters = [self.native_adapter(chunk.sequence.adapter) for chunk in chunks]
        num_rows = 0
        for chunk in chunks:
            sequence, num_tokens = chunk.sequence, chunk.num_tokens
            first = sequence.num_computed_tokens
            ids = [*sequence.token_ids[first : first + num_tokens], *chunk.draft_ids]
            tokens.append((first, ids, sequence.block_table))
            if num_tokens == sequence.num_new_tokens:
                rows += range(num_rows + num_tokens - 1, num_rows + len(ids))
                caught_up.append(chunk)
            num_rows += len(ids)
        logits_RV = torch.empty(len(rows), self.vocab_size, dtype=torch.float32, device="cpu")
        num_threads = self._num_threads(num_rows)
        self.native.step(tokens, rows, logits_RV.numpy(), num_threads, adapters)
        return logits_RV, caught_up

    def native_adapter(self, adapter: Adapter | None) -> Any:
        """The adapter as `native` takes it."""
        if adapter is None:
            return None
        if adapter not in self.adapters:
            changes = [
                (*place_of(name), change.a_RD, change.b_RF)
                for name, change in adapter.layers.items()
            ]
            self.adapters[adapter] = self.native.adapter(changes)
        return self.adapters[adapter]

    def _num_threads(self, num_tokens: int) -> int:
        """All, or one where a layer is too little work to share. Nothing between: OpenMP ends the
        threads that it is not asked for, and torch would start them again.
        """
        num_threads = torch.get_num_threads()
        is_enough = num_tokens * self.layer_bytes >= num_threads * BYTES_PER_THREAD
        return num_threads if is_enough else 1


def _layer_bytes(layers: list[Layer]) -> int:
    """Of the matrices of a layer, on average."""
    arrays = [part for matrix in _matrices(layers) for part in matrix if isinstance(part, Tensor)]
    return sum(array.nbytes for array in arrays) // len(layers)


def _activations(model: Any, cache: KVCache) -> str:
    """What tiles are multiplied with; their own products see activations in the cache's dtype."""
    values = (value for module in model.modules() for value in vars(module).values())
    found = [value for value in values if isinstance(value, QuantWeight) and takes_integers(value)]
    chosen: list[Activations] = [
        value.format.activations for value in found if isinstance(value.format, TileFormat)
    ]
    return kernel_activations(cache.keys[0].dtype, chosen[0] if chosen else None)


def _max_tokens(layers: list[Layer], dtype: torch.dtype) -> int | None:
    if any(len(matrix) != TILE_PARTS for matrix in _matrices(layers)):
        return MAX_TOKENS
    return None if tiles_beat_torch(dtype) else MAX_TOKENS_OF_TILES


def _matrices(layers: list[Layer]) -> list[tuple[Any, ...]]:
    """Every matrix of the layers but routers, as the kernels take it."""
    parts = (part for layer in layers for name, part in layer.items() if name != "router")
    values = (value for part in parts for value in part.values())
    return [value[0] for value in values if isinstance(value, tuple)]


def fused_decoder(model: Any, cache: KVCache) -> FusedDecoder | None:
    """The decoder of a model that it can compute: one of its families, on the CPU, whose matrices
    have kernels. None for any other.
    """
    family = FAMILIES.get(type(model))
    if family is None or not kernels.available or cache.device.type != "cpu":
        return None
    if cache.keys[0].dtype not in CACHE_DTYPES:
        return None
    try:
        return FusedDecoder(model, cache, family)
    except NoKernelError:
        return None
