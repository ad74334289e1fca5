"""Cold start to first token, and the memory it takes: `bobot run` beside its peers.

    python bench/cold_start.py                    # a random model of 13 M parameters, transformers
    python bench/cold_start.py --gguf             # Llama 3.2 1B's shape in Q4_0, llama.cpp
    python bench/cold_start.py --model PATH       # a folder: transformers; a .gguf file: llama.cpp

Measured from the start of the process to its first byte on standard output, with the same weights,
prompt and greedy choice; then the process is ended. Memory: the most it held until then, pages of
mapped files included. Each round starts every program twice: `disk`, after the model's files were
taken out of the page cache, and `cache`, right afterwards. The first round is not counted: from
then on Python and the libraries of every program are in the page cache in both cases.

llama.cpp is driven from Python through its C interface, a context of 512 tokens, no warm-up run:
as it comes (it repacks 4-bit weights into memory of its own), without repacking (`mapped`), and
past the page cache (`direct`). A C++ program would start some 0.2 s sooner than its Python.
`bobot --help` stands beside them: it shows what the program costs before torch is loaded.

Not measured: the first start after a boot, downloads.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines import llama_cpp_python
from machine import ROOT, describe, summary, table
from random_llama import LLAMA_3_2_1B, SMALL, write_llama
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from bobot.cli.cold_start import Start, first_byte
from bobot.errors import BobotError
from bobot.text import load_tokenizer
from bobot.weights.export_gguf import export_gguf
from bobot.weights.source import open_model
from bobot.weights.speed import file_bytes_per_s, forget_cached

PROMPT = "Halo, apa kabar?"
MADE_GGUF = ROOT / "build" / "bench" / "llama-1b-words-Q4_0.gguf"
"""With a tokenizer; written once, not tracked."""

TRANSFORMERS = """
import sys, time
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, prompt = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
ids = model.generate(**inputs, max_new_tokens=1, do_sample=False)
print(tokenizer.decode(ids[0, inputs["input_ids"].shape[1]:]), flush=True)
time.sleep(60)
"""

LLAMA_CPP = """
import ctypes, sys, time
import llama_cpp as L
path, prompt, mode, threads = sys.argv[1:]
path, prompt = path.encode(), prompt.encode()
quiet = L.llama_log_callback(lambda level, text, data: None)
L.llama_log_set(quiet, ctypes.c_void_p(0))
L.llama_backend_init()
settings = L.llama_model_default_params()
settings.n_gpu_layers = 0
if mode == "mapped":
    settings.load_mode, settings.use_extra_bufts = L.LLAMA_LOAD_MODE_MMAP, False
if mode == "direct":
    settings.load_mode = L.LLAMA_LOAD_MODE_DIRECT_IO
model = L.llama_model_load_from_file(path, settings)
assert model, "llama.cpp does not load it"
settings = L.llama_context_default_params()
settings.n_ctx = 512
settings.n_threads = settings.n_threads_batch = int(threads)
context = L.llama_init_from_model(model, settings)
vocabulary = L.llama_model_get_vocab(model)
ids = (L.llama_token * 512)()
count = L.llama_tokenize(vocabulary, prompt, len(prompt), ids, 512, True, False)
assert L.llama_decode(context, L.llama_batch_get_one(ids, count)) == 0
logits = L.llama_get_logits_ith(context, -1)
best = max(range(L.llama_vocab_n_tokens(vocabulary)), key=logits.__getitem__)
text = ctypes.create_string_buffer(256)
size = L.llama_token_to_piece(vocabulary, best, text, 256, 0, True)
sys.stdout.buffer.write(text.raw[:size] + bytes([10]))
sys.stdout.flush()
time.sleep(60)
"""

QUANTIZE = """
import sys
import llama_cpp as L
settings = L.llama_model_quantize_default_params()
settings.ftype, settings.nthread = L.LLAMA_FTYPE_MOSTLY_Q4_0, 2
sys.exit(L.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), settings))
"""


def write_tokenizer(folder: Path, vocab_size: int) -> None:
    """Byte-level BPE without merges; ids beyond the bytes are made-up words."""
    names = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    names += [f"w{n}" for n in range(len(names), vocab_size)]
    tokenizer = Tokenizer(models.BPE({name: n for n, name in enumerate(names)}, []))
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def made_gguf(python: Path) -> Path:
    """Random weights at the shape of Llama 3.2 1B, quantized by llama.cpp: 0.8 GB."""
    if MADE_GGUF.exists():
        return MADE_GGUF
    MADE_GGUF.parent.mkdir(parents=True, exist_ok=True)
    config = LLAMA_3_2_1B | {"bos_token_id": 0, "eos_token_id": 1}
    with tempfile.TemporaryDirectory(dir=MADE_GGUF.parent) as scratch:
        folder, wide = Path(scratch), Path(scratch) / "wide.gguf"
        write_llama(folder, config)
        write_tokenizer(folder, config["vocab_size"])
        with open_model(folder) as source:
            export_gguf(source, load_tokenizer(folder), wide, "bench")
        packed = folder / "packed.gguf"
        command = [python, "-P", "-c", QUANTIZE, wide, packed]
        subprocess.run(command, check=True, capture_output=True)
        packed.rename(MADE_GGUF)
    return MADE_GGUF


def commands(model: Path, python: Path | None, num_threads: int) -> dict[str, list[str]]:
    """Name -> command line of each program."""
    bobot = [sys.executable, "-m", "bobot"]
    one_token = ["--raw", "--temperature=0", "--max-tokens=16", f"--model={model}", PROMPT]
    found = {"bobot run": [*bobot, "run", *one_token], "bobot --help": [*bobot, "--help"]}
    if python is None:
        return found | {"transformers": [sys.executable, "-c", TRANSFORMERS, str(model), PROMPT]}
    words = [str(python), "-P", "-c", LLAMA_CPP, str(model), PROMPT]
    for mode in ("", "mapped", "direct"):
        name = f"llama.cpp, {mode}" if mode else "llama.cpp"
        found[name] = [*words, mode, str(num_threads)]
    return found


def measure(
    model: Path, programs: Mapping[str, list[str]], runs: int, num_threads: int
) -> list[dict[str, Any]]:
    """Every program in turn, from the disk and from the page cache."""
    starts: dict[tuple[str, str], list[Start]] = {}
    for _ in range(runs + 1):
        for name, command in programs.items():
            for origin in ("disk", "cache"):
                if origin == "disk" and not forget_cached(model):
                    continue
                starts.setdefault((name, origin), []).append(first_byte(command, num_threads))
    return [
        {
            "program": name,
            "from": origin,
            "first_byte_s": summary([start.first_byte_s for start in found[1:]]),
            "resident_bytes": max((start.resident_bytes or 0) for start in found[1:]),
        }
        for (name, origin), found in starts.items()
    ]


def show(report: dict[str, Any]) -> str:
    """The report as text: the machine, then a table. Ratios are the peer's figure by bobot's."""
    ours = {r["from"]: r for r in report["results"] if r["program"] == "bobot run"}
    rows = [["program", "from", "first byte, s", "this / bobot", "resident, MiB", "of the file"]]
    for row in report["results"]:
        times, own = row["first_byte_s"], ours[row["from"]]["first_byte_s"]["median"]
        cells = [row["program"], row["from"]]
        cells += [f"{times['median']:.2f} ({times['min']:.2f} - {times['max']:.2f})"]
        cells += [f"{times['median'] / own:.2f}x", f"{row['resident_bytes'] / 2**20:.0f}"]
        rows.append([*cells, f"{row['resident_bytes'] / report['file_bytes']:.2f}x"])
    machine = ", ".join(f"{name} {value}" for name, value in report["machine"].items())
    disk = report["disk_bytes_per_s"]
    limit = f"disk {disk / 1e9:.2f} GB/s: {report['file_bytes'] / disk:.2f} s" if disk else "disk ?"
    head = (
        f"model {report['model']}, {report['file_bytes']:,} bytes, {limit}, runs {report['runs']}"
    )
    return f"{machine}\n{head}: median (smallest - largest)\n\n{table(rows)}"


def file_bytes(model: Path) -> int:
    return sum(f.stat().st_size for f in ([model] if model.is_file() else model.iterdir()))


def main() -> None:
    """Parses the command line and prints the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a checkpoint folder or a GGUF file")
    parser.add_argument("--gguf", action="store_true", help="make a GGUF file, once")
    parser.add_argument("--python", type=Path, help="a Python that has llama-cpp-python")
    parser.add_argument("--runs", type=int, default=5, help="rounds that count")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    is_gguf = args.gguf or (args.model is not None and args.model.is_file())
    python = llama_cpp_python(args.python) if is_gguf else None
    with tempfile.TemporaryDirectory(prefix="bobot-bench-") as scratch:
        model = args.model
        if model is None and python is not None:
            model = made_gguf(python)
        elif model is None:
            model = Path(scratch)
            write_llama(model, SMALL)
            write_tokenizer(model, SMALL["vocab_size"])
        programs = commands(model, python, args.threads)
        try:
            results = measure(model, programs, args.runs, args.threads)
        except BobotError as error:
            sys.exit(str(error))
        report = {
            "machine": describe(args.threads),
            "model": model.name if args.model or is_gguf else "random, 13 M parameters, bf16",
            "file_bytes": file_bytes(model),
            "disk_bytes_per_s": file_bytes_per_s(model),
            "runs": args.runs,
            "results": results,
        }
    print(json.dumps(report, indent=2) if args.json else show(report))


if __name__ == "__main__":
    main()
