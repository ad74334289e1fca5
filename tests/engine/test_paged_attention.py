"""Paged and packed attention agree for every kind of layer, in any chunks and any blocks."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from bobot.engine.batch import build_batch
from bobot.engine.kv_cache import KVCache, bytes_per_token
from bobot.engine.request import Chunk, Request, Sequence
from bobot.engine.sampling_params import SamplingParams
from bobot.layers.context import AttentionSpec, PackedAttention

BLOCK_SIZE = 4
SPECS = {
    "grouped": AttentionSpec(num_heads=4, num_kv_heads=2, head_dim=8, v_head_dim=8, scale=0.3),
    "one head each": AttentionSpec(
        num_heads=3, num_kv_heads=3, head_dim=8, v_head_dim=8, scale=0.3
    ),
    "window": AttentionSpec(
        num_heads=4, num_kv_heads=2, head_dim=8, v_head_dim=8, scale=0.3, sliding_window=5
    ),
    "softcap": AttentionSpec(
        num_heads=4, num_kv_heads=1, head_dim=8, v_head_dim=8, scale=0.3, logit_softcap=2.0
    ),
    "latent": AttentionSpec(
        num_heads=4, num_kv_heads=1, head_dim=12, v_head_dim=8, scale=0.3, v_is_k_prefix=True
    ),
    "window and softcap": AttentionSpec(
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        v_head_dim=6,
        scale=0.3,
        sliding_window=3,
        logit_softcap=2.0,
    ),
}


def sequence_with_blocks(num_tokens: int, blocks: list[int]) -> Sequence:
    sequence = Request(0, [0] * num_tokens, SamplingParams(), seed=0, max_len=999).sequences[0]
    sequence.block_table = blocks
    return sequence


def paged(
    spec: AttentionSpec,
    q_TNH: Tensor,
    k_TKH: Tensor,
    v_TKH: Tensor,
    sinks_N: Tensor | None,
    lengths: list[int],
    tables: list[list[int]],
    rng: random.Random,
) -> Tensor:
    """The same attention in random chunks through a cache that starts full of NaN."""
    num_blocks = 1 + max(block for table in tables for block in table)
    cache = KVCache([spec], num_blocks, BLOCK_SIZE, torch.float32, torch.device("cpu"))
    cache.keys[0].fill_(torch.nan)
    cache.values[0].fill_(torch.nan)
    sequences = [sequence_with_blocks(*pair) for pair in zip(lengths, tables, strict=True)]
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    out = torch.full((q_TNH.shape[0], spec.num_heads, spec.v_head_dim), torch.nan)
    while pending := [s for s in sequences if s.num_new_tokens]:
        some = rng.sample(pending, rng.randint(1, len(pending)))
        chunks = [Chunk(s, rng.randint(1, s.num_new_tokens)) for s in some]
        batch = build_batch(chunks, cache)
        rows = []
        for chunk in chunks:
            first = starts[sequences.index(chunk.sequence)] + chunk.sequence.num_computed_tokens
            rows += range(first, first + chunk.num_tokens)
        out[rows] = batch.attn.attend(0, spec, q_TNH[rows], k_TKH[rows], v_TKH[rows], sinks_N)
        for chunk in chunks:
            chunk.sequence.num_computed_tokens += chunk.num_tokens
    return out


@pytest.mark.parametrize("with_sinks", [False, True], ids=["plain", "sinks"])
@pytest.mark.parametrize("scattered", [False, True], ids=["one run", "scattered"])
@pytest.mark.parametrize("name", SPECS)
def test_paged_attention_equals_packed(name: str, scattered: bool, with_sinks: bool) -> None:
    spec = SPECS[name]
    rng = random.Random(7)
    torch.manual_seed(7)
    lengths = [13, 1, 8]
    blocks = list(range(9))
    if scattered:
        rng.shuffle(blocks)
    tables = [blocks[:4], blocks[4:5], blocks[5:7]]
    q = torch.randn(22, spec.num_heads, spec.head_dim)
    k = torch.randn(22, spec.num_kv_heads, spec.head_dim)
    v = torch.randn(22, spec.num_kv_heads, spec.v_head_dim)
    if spec.v_is_k_prefix:
        v = k[..., : spec.v_head_dim]
    sinks = torch.randn(spec.num_heads) if with_sinks else None
    expected = PackedAttention([0, 13, 14]).attend(0, spec, q, k, v, sinks)
    got = paged(spec, q, k, v, sinks, lengths, tables, rng)
    worst = (got - expected).abs().max().item()
    assert worst <= 1e-5, f"{name}: max |paged - packed| = {worst:.2e}"


def test_latent_values_are_stored_once() -> None:
    cache = KVCache([SPECS["latent"]], 2, BLOCK_SIZE, torch.float32, torch.device("cpu"))
    assert cache.values[0].data_ptr() == cache.keys[0].data_ptr()
    assert bytes_per_token([SPECS["latent"]], torch.float32) == 12 * 4
    assert bytes_per_token([SPECS["grouped"]] * 2, torch.bfloat16) == 2 * 2 * 16 * 2


def test_one_run_of_blocks_is_read_without_a_copy() -> None:
    cache = KVCache([SPECS["grouped"]], 8, BLOCK_SIZE, torch.float32, torch.device("cpu"))
    batch = build_batch([Chunk(sequence_with_blocks(10, [2, 3, 4]), 10)], cache)
    (span,) = batch.attn.spans
    assert span.slots == slice(8, 18)
