"""Round trips with llama.cpp: our GGUF files, its logits, next to ours.

    .venv/bin/python bench/llama_cpp.py            # makes build/llama-cpp the first time (minutes)
    .venv/bin/python bench/llama_cpp.py --shared ../shared

Each reference checkpoint of ../shared/parity is widened to float32 first, so that llama.cpp does
not round activations to 16 bits and only real differences are left; quantized files keep their
types.
Where llama.cpp leaves the publisher's mathematics, the row names the variant compared with: our
model with its setting changed to what llama.cpp does. Not measured: speed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engines import ask_llama_cpp, llama_cpp_python

from bobot.errors import NotFoundError
from bobot.layers.context import PackedAttention
from bobot.ops.rope import inverse_frequencies
from bobot.text import load_tokenizer
from bobot.weights.export_gguf import export_gguf
from bobot.weights.load import load_model
from bobot.weights.source import open_model

LENGTHS = (8, 20, 200)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--python", type=Path, help="a Python that has llama-cpp-python")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    python = llama_cpp_python(args.python)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, widen, change in CASES:
            row = compare(args.shared / name, widen, change, python, Path(folder))
            rows.append({"model": name, **row})
            if not args.json:
                print(line(rows[-1]), flush=True)
    if args.json:
        print(json.dumps(rows, indent=2))


def without_window(model: Any) -> str:
    """llama.cpp's architecture `llama` reads the window and does not apply it."""
    for layer in model.model.layers:
        layer.self_attn.spec = replace(layer.self_attn.spec, sliding_window=None)
    return "no sliding window"


def rounded_bounds(model: Any) -> str:
    set_rope(model, replace(model.config.rope, truncate=True))
    return "YaRN bounds rounded"


def beta_fast_32(model: Any) -> str:
    set_rope(model, replace(model.config.rope, beta_fast=32.0))
    return "beta_fast 32"


def as_published(model: Any) -> str:
    return ""


def set_rope(model: Any, rope: Any) -> None:
    size = getattr(model.config, "qk_rope_head_dim", None) or model.config.head_dim
    model.model.frequencies = inverse_frequencies(rope, size)


CASES = [
    ("weights/stories260K", False, as_published),
    ("parity/llama3/meta_mp2", True, as_published),
    ("parity/llama3_short/hf", True, as_published),
    ("parity/llama2/meta", True, as_published),
    ("parity/mistral_v3/native", True, as_published),
    ("parity/mistral/hf", True, without_window),
    ("parity/mixtral/native", True, as_published),
    ("parity/gptoss/hf_bf16", True, rounded_bounds),
    ("parity/gptoss/hf", False, rounded_bounds),
    ("parity/kimi_k2/hf_bf16", True, beta_fast_32),
    ("parity/kimi_k2/hf_fp8", False, beta_fast_32),
    ("parity/grok1/bf16_2layers/hf_hpcai", True, as_published),
    ("parity/gguf/llama3_quantised/model-Q4_K_M.gguf", False, as_published),
]


def compare(path: Path, widen: bool, change: Any, python: Path, folder: Path) -> dict[str, Any]:
    """The largest and the median difference of logits over prompts without token 0."""
    file = folder / "model.gguf"
    file.unlink(missing_ok=True)
    with open_model(path) as source:
        weights: Any = Widened(source) if widen else source
        export_gguf(weights, tokenizer_of(path), file, "bench")
    model, _ = load_model(file, dtype="float32")
    variant = change(model)
    generator = torch.Generator().manual_seed(0)
    size = model.config.vocab_size
    ids = [torch.randint(3, size, (n,), generator=generator).tolist() for n in LENGTHS]
    out = folder / "logits.npz"
    job = {"job": "logits", "path": str(file), "texts": ids, "out": str(out), "threads": 1}
    ask_llama_cpp(job, 1, python)
    theirs = np.load(out)
    worst = []
    for number, sequence in enumerate(ids):
        ids_T = torch.tensor(sequence)
        with torch.no_grad():
            hidden = model(ids_T, torch.arange(len(ids_T)), PackedAttention())
            ours = model.logits(hidden)
        worst.append((ours - torch.from_numpy(theirs[f"arr_{number}"])).abs().amax(-1))
    every = torch.cat(worst)
    return {
        "max": float(every.max()),
        "median": float(every.median()),
        "weights": "float32" if widen else "as stored",
        "variant": variant,
    }


def tokenizer_of(path: Path) -> Any:
    try:
        return load_tokenizer(path)
    except NotFoundError:
        return None


class Widened:
    """A source whose plain weights are float32."""

    def __init__(self, source: Any) -> None:
        self.source = source

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)

    def read(self, name: str) -> Any:
        return wide(self.source.read(name))

    def sample(self, name: str) -> Any:
        return wide(self.source.sample(name))

    def read_expert(self, name: str, e: int) -> Any:
        return wide(self.source.read_expert(name, e))


def wide(weight: Any) -> Any:
    return weight.float() if isinstance(weight, torch.Tensor) else weight


def line(row: dict[str, Any]) -> str:
    numbers = f"max {row['max']:.1e}  median {row['median']:.1e}"
    return f"{row['model']:48} {numbers}  {row['weights']:10} {row['variant']}"


if __name__ == "__main__":
    main()
