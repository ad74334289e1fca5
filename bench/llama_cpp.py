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
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bobot.errors import NotFoundError
from bobot.layers.context import PackedAttention
from bobot.ops.rope import inverse_frequencies
from bobot.text import load_tokenizer
from bobot.weights.export_gguf import export_gguf
from bobot.weights.load import load_model
from bobot.weights.source import open_model

VERSION = "llama-cpp-python==0.3.36"
LENGTHS = (8, 20, 200)

READER = """
import sys, json, numpy as np, llama_cpp as L
path, ids, out = sys.argv[1], json.load(open(sys.argv[2])), sys.argv[3]
L.llama_backend_init()
settings = L.llama_model_default_params()
settings.n_gpu_layers, settings.use_mmap = 0, False
model = L.llama_model_load_from_file(path.encode(), settings)
assert model, "llama.cpp does not load it"
settings = L.llama_context_default_params()
settings.n_ctx = settings.n_batch = settings.n_ubatch = 1024
settings.n_threads = settings.n_threads_batch = 1
settings.type_k = settings.type_v = 0  # F32
settings.flash_attn_type, settings.swa_full = 0, True
context = L.llama_init_from_model(model, settings)
size = L.llama_vocab_n_tokens(L.llama_model_get_vocab(model))
found = []
for sequence in ids:
    L.llama_memory_clear(L.llama_get_memory(context), True)
    batch = L.llama_batch_init(len(sequence), 0, 1)
    batch.n_tokens = len(sequence)
    for place, token in enumerate(sequence):
        batch.token[place], batch.pos[place], batch.n_seq_id[place] = token, place, 1
        batch.seq_id[place][0], batch.logits[place] = 0, 1
    assert L.llama_decode(context, batch) == 0
    logits = L.llama_get_logits(context)
    found.append(np.ctypeslib.as_array(logits, shape=(len(sequence), size)).copy())
np.savez(out, *found)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--python", type=Path, help="a Python that has llama-cpp-python")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    python = args.python or installed(Path("build/llama-cpp"))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, widen, change in CASES:
            row = compare(args.shared / name, widen, change, python, Path(folder))
            rows.append({"model": name, **row})
            if not args.json:
                print(line(rows[-1]), flush=True)
    if args.json:
        print(json.dumps(rows, indent=2))


def installed(folder: Path) -> Path:
    """The Python of a virtual environment of its own, made now if it is not there."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", VERSION], check=True)
    return python


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
    (folder / "ids.json").write_text(json.dumps(ids))
    (folder / "read.py").write_text(READER)
    command = [python, folder / "read.py", file, folder / "ids.json", folder / "out.npz"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1]}
    theirs = np.load(folder / "out.npz")
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
    if "error" in row:
        return f"{row['model']:48} {row['error']}"
    numbers = f"max {row['max']:.1e}  median {row['median']:.1e}"
    return f"{row['model']:48} {numbers}  {row['weights']:10} {row['variant']}"


if __name__ == "__main__":
    main()
