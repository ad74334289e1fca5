"""Writes a trained model as one GGUF file (Q8_0) with its tokenizer and chat template inside."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from tokenizers import Tokenizer

from bobot.checkpoints.gguf_write import stream_gguf
from bobot.checkpoints.writing import PlannedTensor
from bobot.models.llama import Llama
from bobot.models.llama_dialects import DIALECTS, settings_to_gguf
from bobot.training.chatml import END_OF_TEXT, IM_END, SPECIAL_TOKENS, TEMPLATE
from bobot.training.recipe import Recipe
from bobot.weights.export import LoadedWeights, target_tensors, unpacked

_NORMAL, _CONTROL = 1, 3
_MOSTLY_Q8_0 = 7


def export_gguf(model: Llama, tokenizer: Tokenizer, recipe: Recipe, path: Path) -> None:
    """One file at `path`: matrices as Q8_0 (last axis a multiple of 32), norms as float32."""
    plan = {
        tensor.name: PlannedTensor(
            "Q8_0" if len(tensor.shape) == 2 else "F32",
            tensor.shape,
            partial(unpacked, tensor.read),
        )
        for tensor in target_tensors(LoadedWeights(model), DIALECTS["gguf"])
    }
    metadata = {**_model_metadata(model, recipe), **_tokenizer_metadata(tokenizer)}
    stream_gguf(path, metadata, plan)


def _model_metadata(model: Llama, recipe: Recipe) -> dict[str, object]:
    return {
        "general.architecture": "llama",
        "general.name": recipe.name,
        "general.license": "apache-2.0",
        "general.languages": ["en", "id"],
        "general.file_type": _MOSTLY_Q8_0,
        "general.quantization_version": 2,
        "general.sampling.temp": recipe.temperature,
        "general.sampling.top_p": recipe.top_p,
        **settings_to_gguf(model.config),
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
