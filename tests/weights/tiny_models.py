"""Tiny models with random weights, made and saved by transformers: one of each family it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
)

VOCAB = 96
SHARED: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "attn_implementation": "eager",
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
}
MLA: dict[str, Any] = {
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 24,
}

CONFIGS = {
    "llama": lambda: LlamaConfig(
        **SHARED, intermediate_size=96, rope_parameters=LLAMA3_ROPE, tie_word_embeddings=True
    ),
    "mistral": lambda: MistralConfig(
        **SHARED, intermediate_size=96, head_dim=32, sliding_window=12
    ),
    "mixtral": lambda: MixtralConfig(
        **SHARED, intermediate_size=96, num_local_experts=4, sliding_window=None
    ),
    "gpt_oss": lambda: GptOssConfig(
        **SHARED,
        intermediate_size=96,
        head_dim=16,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=8,
        rope_parameters=YARN | {"truncate": False},
    ),
    "deepseek_v3": lambda: DeepseekV3Config(
        **SHARED | MLA | {"num_key_value_heads": 4},
        intermediate_size=96,
        moe_intermediate_size=32,
        first_k_dense_replace=1,
        n_routed_experts=6,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        rope_parameters=YARN | {"mscale": 1.0, "mscale_all_dim": 1.0},
    ),
}


def saved(family: str, folder: Path) -> Path:
    """A folder that transformers wrote."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[family](), dtype=torch.float32)
    for name, tensor in model.state_dict().items():
        if not name.endswith("norm.weight"):
            tensor.normal_(std=0.2)
    model.save_pretrained(folder)
    return folder


def transformers_logits(folder: Path, ids: Tensor) -> Tensor:
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        return model.eval()(ids[None]).logits[0]
