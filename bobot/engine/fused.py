"""A step of a few tokens in one C++ call, from ids to logits.

Decoding in torch is bound by the cost of its some 60 operations a layer where the model is small,
and by its attention where the context is long. What is computed is models/llama.py, mixtral.py and
gpt_oss.py, in float32; the tests hold the two together.
"""

from __future__ import annotations

from collections.abc import Sequence as Rows
from typing import Any

import torch
from torch import Tensor

from bobot import kernels
from bobot.engine.fused_layers import (
    CACHE_DTYPES,
    LAYERS,
    TILE_PARTS,
    Arguments,
    NoKernelError,
    floats,
    matrix,
)
from bobot.engine.kv_cache import KVCache
from bobot.engine.request import Chunk
from bobot.quant.tiles import Activations, TileFormat, kernel_activations, takes_integers
from bobot.quant.weight import QuantWeight

MAX_TOKENS = 16
"""For more tokens torch's products of whole matrices are faster."""
MAX_TOKENS_OF_TILES = 32
"""The same where every matrix is tiles, whose products are as fast here as there."""
BYTES_PER_THREAD = 1 << 15
"""Of the weights of a layer: with less to do, threads lose more by waiting for each other."""


class FusedDecoder:
    """A model and its cache, for batches of at most `max_tokens` tokens."""

    def __init__(self, model: Any, cache: KVCache, layers: list[Arguments]) -> None:
        decoder, spec = model.model, model.kv_specs()[0]
        self.vocab_size: int = model.config.vocab_size
        self.max_tokens = MAX_TOKENS_OF_TILES if _has_only_tiles(layers) else MAX_TOKENS
        self.native = kernels.decoder(
            num_heads=spec.num_heads,
            num_kv_heads=spec.num_kv_heads,
            head_dim=spec.head_dim,
            block_size=cache.block_size,
            eps=model.config.rms_norm_eps,
            frequencies=decoder.frequencies,
            rope_factor=decoder.rope_factor,
            embedding=matrix(decoder.embed_tokens.weight),
            lm_head=matrix(model.lm_head.weight),
            norm_D=floats(decoder.norm.weight),
            activations=_activations(model, cache),
            num_threads=_num_threads(layers),
        )
        for layer, keys, values in zip(layers, cache.keys, cache.values, strict=True):
            self.native.add_layer(keys=keys, values=values, **layer)

    def run(self, chunks: Rows[Chunk]) -> tuple[Tensor, list[Chunk]]:
        """As Runner.run: logits (R, V) float32, and the chunks that have caught up."""
        tokens, rows, caught_up = [], [], []
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
        self.native.step(tokens, rows, logits_RV.numpy())
        return logits_RV, caught_up


def _num_threads(layers: list[Arguments]) -> int:
    """All, or one where a layer is too little work to share. Nothing between: OpenMP ends the
    threads that it is not asked for, and torch would start them again.
    """
    matrices = _matrices(layers)
    arrays = [part for matrix in matrices for part in matrix if isinstance(part, Tensor)]
    num_bytes = sum(array.nbytes for array in arrays) // len(layers)
    num_threads = torch.get_num_threads()
    return num_threads if num_bytes >= num_threads * BYTES_PER_THREAD else 1


def _activations(model: Any, cache: KVCache) -> str:
    """What tiles are multiplied with; their own products see activations in the cache's dtype."""
    values = (value for module in model.modules() for value in vars(module).values())
    found = [value for value in values if isinstance(value, QuantWeight) and takes_integers(value)]
    chosen: list[Activations] = [
        value.format.activations for value in found if isinstance(value.format, TileFormat)
    ]
    return kernel_activations(cache.keys[0].dtype, chosen[0] if chosen else None)


def _has_only_tiles(layers: list[Arguments]) -> bool:
    return all(len(matrix) == TILE_PARTS for matrix in _matrices(layers))


def _matrices(layers: list[Arguments]) -> list[tuple[Any, ...]]:
    """Every matrix of the layers but routers, as the kernels take it."""
    names = ("q", "k", "v", "o", "gate", "up", "down")
    linears = (layer[name] for layer in layers for name in names)
    return [linear[0] for linear in linears if linear is not None]


def fused_decoder(model: Any, cache: KVCache) -> FusedDecoder | None:
    """The decoder of a model that it can compute: one of its families, on the CPU, whose matrices
    have kernels. None for any other.
    """
    arguments_of = LAYERS.get(type(model))
    if arguments_of is None or not kernels.available or cache.device.type != "cpu":
        return None
    if cache.keys[0].dtype not in CACHE_DTYPES:
        return None
    try:
        layers = [arguments_of(layer) for layer in model.model.layers]
        return FusedDecoder(model, cache, layers)
    except NoKernelError:
        return None
