"""Shapes of published models, cut to some of their layers where the whole would take too long. The
vocabulary is cut in the same proportion, so that the output keeps its share of the bytes.
"""

from __future__ import annotations

from typing import Any

from random_llama import LLAMA_3_2_1B

LLAMA_3_8B = LLAMA_3_2_1B | {
    "vocab_size": 32064,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 8,
    "head_dim": 128,
    "tie_word_embeddings": False,
}
"""8 of its 32 layers."""

QWEN3_30B_A3B = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "vocab_size": 25344,
    "hidden_size": 2048,
    "intermediate_size": 768,
    "num_hidden_layers": 8,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "num_local_experts": 128,
    "num_experts_per_tok": 8,
    "torch_dtype": "bfloat16",
}
"""8 of its 48 layers, as a Mixtral: without the norms of queries and keys."""

GPT_OSS_20B = {
    "architectures": ["GptOssForCausalLM"],
    "model_type": "gpt_oss",
    "vocab_size": 33536,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_hidden_layers": 4,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "attention_bias": True,
    "max_position_embeddings": 131072,
    "sliding_window": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 150000.0,
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 32.0,
        "truncate": False,
        "original_max_position_embeddings": 4096,
    },
    "num_local_experts": 32,
    "num_experts_per_tok": 4,
    "torch_dtype": "bfloat16",
}
"""4 of its 24 layers."""

BOBOT_MINI = LLAMA_3_2_1B | {
    "vocab_size": 8192,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 1024,
}
"""The embedded model, all of it."""
EMBEDDED = "bobot-mini"

SHAPES: dict[str, dict[str, Any]] = {
    EMBEDDED: BOBOT_MINI,
    "llama-1b": LLAMA_3_2_1B,
    "llama-8b": LLAMA_3_8B,
    "llama-8b-2": LLAMA_3_8B | {"num_hidden_layers": 2, "vocab_size": 8064},
    "qwen3-moe": QWEN3_30B_A3B,
    "gpt-oss": GPT_OSS_20B,
}
"""Name -> Hugging Face config. llama-8b-2 is for long contexts, where the attention counts."""
