"""Writes a trained model as one GGUF file (Q8_0) with its tokenizer and chat template inside.

llama.cpp reads it as `general.architecture = llama`, which wants the rows of the query and key
projections in adjacent pairs; the model here keeps them in halves.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from tokenizers import Tokenizer
from torch import Tensor

from bobot.checkpoints.gguf_write import write_gguf
from bobot.models.llama import Llama
from bobot.models.llama_dialects import GGUF_NAMES, PAIRS
from bobot.ops.rope import pairs_from_halves
from bobot.training.chatml import END_OF_TEXT, IM_END, SPECIAL_TOKENS, TEMPLATE
from bobot.training.recipe import Recipe

_NORMAL, _CONTROL = 1, 3
_MOSTLY_Q8_0 = 7


def export_gguf(model: Llama, tokenizer: Tokenizer, recipe: Recipe, path: Path) -> None:
    """One file at `path`: matrices as Q8_0 (last axis a multiple of 32), norms as float32."""
    tensors: dict[str, Tensor] = {}
    types: dict[str, str] = {}
    for ours, parameter in model.named_parameters():
        theirs, values = gguf_tensor(model, ours, parameter.detach())
        tensors[theirs] = values
        types[theirs] = "Q8_0" if values.ndim == 2 else "F32"
    metadata = {**_model_metadata(model, recipe), **_tokenizer_metadata(tokenizer)}
    write_gguf(path, metadata, tensors, types)


def gguf_tensor(model: Llama, ours: str, values: Tensor) -> tuple[str, Tensor]:
    """The name and the values of one of our parameters in a GGUF file."""
    template = re.sub(r"\.layers\.\d+\.", ".layers.{n}.", ours)
    number = re.search(r"\.layers\.(\d+)\.", ours)
    theirs = GGUF_NAMES[template].replace("{n}", number[1] if number else "")
    if template in PAIRS:
        values = pairs_from_halves(values, PAIRS[template](model.config)).contiguous()
    return theirs, values


def _model_metadata(model: Llama, recipe: Recipe) -> dict[str, object]:
    config = model.config
    return {
        "general.architecture": "llama",
        "general.name": recipe.name,
        "general.license": "apache-2.0",
        "general.languages": ["en", "id"],
        "general.file_type": _MOSTLY_Q8_0,
        "general.quantization_version": 2,
        "general.sampling.temp": recipe.temperature,
        "general.sampling.top_p": recipe.top_p,
        "llama.vocab_size": config.vocab_size,
        "llama.context_length": config.max_position_embeddings,
        "llama.embedding_length": config.hidden_size,
        "llama.block_count": config.num_hidden_layers,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "llama.attention.key_length": config.head_dim,
        "llama.attention.value_length": config.head_dim,
        "llama.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "llama.rope.dimension_count": config.head_dim,
        "llama.rope.freq_base": config.rope.theta,
    }


def _tokenizer_metadata(tokenizer: Tokenizer) -> dict[str, object]:
    by_id = sorted(tokenizer.get_vocab(with_added_tokens=True).items(), key=lambda item: item[1])
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": [token for token, _ in by_id],
        "tokenizer.ggml.token_type": [
            _CONTROL if token in SPECIAL_TOKENS else _NORMAL for token, _ in by_id
        ],
        "tokenizer.ggml.merges": [
            merge if isinstance(merge, str) else " ".join(merge) for merge in merges
        ],
        "tokenizer.ggml.bos_token_id": tokenizer.token_to_id(END_OF_TEXT),
        "tokenizer.ggml.eos_token_id": tokenizer.token_to_id(IM_END),
        "tokenizer.ggml.eot_token_id": tokenizer.token_to_id(IM_END),
        "tokenizer.ggml.eom_token_id": tokenizer.token_to_id(END_OF_TEXT),
        "tokenizer.ggml.padding_token_id": tokenizer.token_to_id(END_OF_TEXT),
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": TEMPLATE,
    }
