"""Where the published tokenizer files lie under ../shared/parity/tokenizers."""

from __future__ import annotations

import gzip
from pathlib import Path

FILES = {
    "llama2": "llama2/tokenizer.model",
    "llama3": "llama3/tokenizer.model.gz",
    "mistral_v1": "mistral_v1/tokenizer.model.v1",
    "mistral_v3": "mistral_v3/mistral_instruct_tokenizer_240323.model.v3",
    "mistral_tekken": "mistral_tekken/tekken_240718.json.gz",
    "grok1": "grok1/tokenizer.model.gz",
    "o200k_harmony": "o200k/o200k_base.tiktoken.gz",
    "kimi_k2_standin": "kimi_k2_standin/tiktoken.model",
}


def unpacked(path: Path, folder: Path) -> Path:
    """`path` itself, or its content in `folder` when it is gzip-compressed."""
    if path.suffix != ".gz":
        return path
    target = folder / path.name.removesuffix(".gz")
    target.write_bytes(gzip.decompress(path.read_bytes()))
    return target
