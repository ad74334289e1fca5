"""The model of llama.cpp's suite, for llama_suite.py."""

from __future__ import annotations

import struct
from pathlib import Path

import torch

from bobot.checkpoints.gguf_write import write_gguf
from bobot.text.gguf_metadata import read_header

CONTEXT = 8192
SIZE, FFN, LAYERS, HEADS, KV_HEADS = 64, 172, 5, 8, 4


def random_model(vocabulary: Path, path: Path) -> None:
    """The form of stories260K with random weights, and the vocabulary of a GGUF."""
    header = read_header(vocabulary).metadata
    metadata = {key: value for key, value in header.items() if key.startswith("tokenizer.")}
    metadata |= {
        "general.architecture": "llama",
        "llama.context_length": CONTEXT,
        "llama.embedding_length": SIZE,
        "llama.block_count": LAYERS,
        "llama.feed_forward_length": FFN,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": SIZE // HEADS,
    }
    rng = torch.Generator().manual_seed(1)
    num_kv = SIZE * KV_HEADS // HEADS
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(metadata["tokenizer.ggml.tokens"]), SIZE)
    }
    for layer in range(LAYERS):
        for name, shape in (
            ("attn_q", (SIZE, SIZE)), ("attn_k", (num_kv, SIZE)), ("attn_v", (num_kv, SIZE)),
            ("attn_output", (SIZE, SIZE)), ("ffn_gate", (FFN, SIZE)), ("ffn_up", (FFN, SIZE)),
            ("ffn_down", (SIZE, FFN)), ("attn_norm", (SIZE,)), ("ffn_norm", (SIZE,)),
        ):  # fmt: skip
            shapes[f"blk.{layer}.{name}.weight"] = shape
    shapes["output_norm.weight"] = (SIZE,)
    tensors = {
        name: torch.ones(shape)
        if len(shape) == 1
        else torch.randn(shape, generator=rng) * (0.25 if "embd" in name else 0.125)
        for name, shape in shapes.items()
    }
    write_gguf(path, metadata, tensors)


def longer(weights: Path, path: Path) -> None:
    """A copy whose metadata name a longer context."""
    data = bytearray(weights.read_bytes())
    key = b"llama.context_length" + struct.pack("<I", 4)
    place = data.index(key) + len(key)
    data[place : place + 4] = struct.pack("<I", CONTEXT)
    path.write_bytes(data)
