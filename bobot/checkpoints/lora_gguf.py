"""LoRA adapters in a GGUF file, as llama.cpp's convert_lora_to_gguf.py writes them: the names of
the model's tensors with .lora_a (rank, in) and .lora_b (out, rank) behind, and one alpha for all.

The scale is alpha / rank, or 1 where alpha is 0 (llama.cpp src/llama-adapter.h, get_scale).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from bobot.checkpoints.gguf import read_gguf
from bobot.checkpoints.lora_tensors import LoraFile, StoredLora, paired
from bobot.checkpoints.stored import shown
from bobot.errors import CheckpointError

ENDINGS = (".weight.lora_a", ".weight.lora_b")
ALPHA = "adapter.lora.alpha"
EXPECTED = {"general.type": "adapter", "adapter.type": "lora"}


def read_lora_gguf(path: Path) -> LoraFile:
    """The adapter in a file; of its tensors only the directory is read. Raises CheckpointError."""
    metadata, tensors = read_gguf(path)
    for key, wanted in EXPECTED.items():
        if metadata.get(key) != wanted:
            raise _refused(path, key, metadata.get(key), wanted)
    for key, value in metadata.items():
        if key.startswith("adapter.") and key not in (ALPHA, *EXPECTED):
            raise _refused(path, key, value, "no such setting")
    alpha = metadata.get(ALPHA)
    if not isinstance(alpha, float) or not math.isfinite(alpha):
        raise _refused(path, ALPHA, alpha, "a number")
    pairs = paired(path, tensors, "", ENDINGS)
    layers = {
        name: StoredLora(a, b, alpha / a.shape[0] if alpha else 1.0)
        for name, (a, b) in pairs.items()
    }
    return LoraFile(path, "gguf", layers)


def _refused(path: Path, key: str, found: Any, allowed: str) -> CheckpointError:
    return CheckpointError(
        "{file}: {key} is {found}; allowed: {allowed}.",
        hint="Make the file with llama.cpp's convert_lora_to_gguf.py.",
        file=path,
        key=shown(key),
        found=shown(found),
        allowed=allowed,
    )
