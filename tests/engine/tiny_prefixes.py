"""Tiny models with every form of cache, engines that keep prefixes in a folder, and what one of
them says in a process of its own.

tiny_prefixes.py FAMILY FOLDER      prints the answer to `prompt(300)`, as JSON
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tiny_decoders import filled, gpt_oss, in_dtype, llama, mixtral
from tiny_engine import run

from bobot.engine import Engine, EngineConfig, SamplingParams
from bobot.models.deepseek_v3 import DeepseekV3, DeepseekV3Config
from bobot.models.grok1 import Grok1, Grok1Config

VOCAB = 61
LONG = {"max_position_embeddings": 1024}
MODEL = "the weights"
MAX_BYTES = 1 << 30


def deepseek_v3() -> Any:
    """Latent attention: values are a part of the keys."""
    config = DeepseekV3Config(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=96,
        moe_intermediate_size=32,
        num_hidden_layers=3,
        first_k_dense_replace=1,
        num_attention_heads=4,
        q_lora_rank=32,
        kv_lora_rank=24,
        qk_nope_head_dim=16,
        qk_rope_head_dim=8,
        v_head_dim=12,
        n_routed_experts=4,
        n_shared_experts=1,
        num_experts_per_tok=2,
        **LONG,
    )
    return _random(DeepseekV3(config))


def grok1() -> Any:
    """Hides its padding token wherever it stands."""
    config = Grok1Config(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_experts=4,
        num_experts_per_tok=2,
        embedding_multiplier_scale=2.0,
        output_multiplier_scale=0.5,
        attn_output_multiplier=0.2,
        pad_token_id=7,
        **LONG,
    )
    return _random(Grok1(config))


def _random(model: Any) -> Any:
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
        else:
            torch.nn.init.normal_(parameter, std=0.12)
    return model.eval().requires_grad_(False)


FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": lambda: filled(llama(**LONG)),
    "llama bfloat16": lambda: in_dtype(filled(llama(**LONG)), torch.bfloat16),
    "llama tiles": lambda: filled(llama(**LONG), "Q8_0", is_tiled=True),
    "sliding window": lambda: filled(llama(sliding_window=9, **LONG)),
    "mixtral": lambda: filled(mixtral(**LONG)),
    "gpt_oss": lambda: filled(gpt_oss(**LONG)),
    "deepseek_v3": deepseek_v3,
    "grok1": grok1,
}


def prompt(num_tokens: int, seed: int = 1) -> list[int]:
    return random.Random(seed).choices(range(VOCAB), k=num_tokens)


def engine(model: Any, folder: Path | None, name: str = MODEL, **changes: Any) -> Engine:
    """With a prefix cache in `folder`, unless it is None."""
    settings: dict[str, Any] = {
        "block_size": 16,
        "num_blocks": 64,
        "max_num_batched_tokens": 100,
        "speculation": "off",
    }
    made = Engine(model, EngineConfig(**settings | changes))
    if folder is not None:
        made.keep_prefixes(folder, MAX_BYTES, name)
    return made


@dataclass(frozen=True)
class Said:
    """An answer of 12 tokens, exactly."""

    tokens: list[int]
    logprobs: list[float | None]
    num_cached: int


def ask(made: Engine, ids: list[int], *, is_private: bool = False, n: int = 1) -> Said:
    params = SamplingParams(temperature=0.0, max_tokens=12, logprobs=0, n=n)
    request_id = made.add(ids, params, is_private=is_private)
    tokens, logprobs, num_cached = [], [], 0
    while made.has_unfinished():
        for output in made.step():
            if (output.request_id, output.index) == (request_id, 0):
                tokens.append(output.token_id)
                logprobs.append(output.logprob)
                num_cached = output.num_cached_tokens
    return Said(tokens, logprobs, num_cached)


def blocks_of(made: Engine, ids: list[int]) -> list[bytes]:
    """What the cache in memory holds of a prompt's full blocks."""
    request_id = made.add(ids, SamplingParams(max_tokens=1))
    sequence = made.scheduler.waiting[-1]
    hashes = sequence.block_hashes(len(ids) // 16, 16)
    made.abort(request_id)
    found = made.scheduler.pool.match(hashes)
    return [bytes(made.runner.cache.read_block(block).numpy().data) for block in found]


if __name__ == "__main__":
    torch.set_num_threads(1)
    own = engine(FAMILIES[sys.argv[1]](), Path(sys.argv[2]))
    said = ask(own, prompt(300))
    run(own)
    own.close()
    sys.stdout.write(json.dumps([said.tokens, said.logprobs, said.num_cached]))
