"""Cold start to first token: `bobot run` beside a transformers script that does the same.

    python bench/cold_start.py                    # a random model of 13 M parameters
    python bench/cold_start.py --model FOLDER     # a checkpoint folder that transformers reads too

Measured from the start of the process to its first byte on standard output, with the same weights,
prompt and greedy choice, one token. The two take turns; the first round is not counted.
`bobot --help` stands beside them: it shows what the program costs before torch is loaded.

Not measured: files that are not in the page cache yet (the first start after a boot), downloads.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import describe, summary, table
from random_llama import SMALL, write_llama
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

PROMPT = "Halo, apa kabar?"

TRANSFORMERS = """
import sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, prompt = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
ids = model.generate(**inputs, max_new_tokens=1, do_sample=False)
print(tokenizer.decode(ids[0, inputs["input_ids"].shape[1]:]))
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


def first_byte_s(command: list[str]) -> float:
    """Seconds from starting `command` to its first byte on standard output; it must succeed."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
        ) as process:
            assert process.stdout is not None
            os.read(process.stdout.fileno(), 1)
            elapsed = time.perf_counter() - start
            process.communicate()
        if process.returncode != 0:
            errors.seek(0)
            sys.exit(f"{' '.join(command)} failed:\n{errors.read().decode()}")
    return elapsed


def measure(folder: Path, runs: int) -> dict[str, Any]:
    """Seconds to the first byte of each command, the commands in turn."""
    bobot = [sys.executable, "-m", "bobot"]
    one_token = ["--raw", "--temperature=0", "--max-tokens=1", f"--model={folder}", PROMPT]
    commands = {
        "bobot run": [*bobot, "run", *one_token],
        "transformers": [sys.executable, "-c", TRANSFORMERS, str(folder), PROMPT],
        "bobot --help": [*bobot, "--help"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(runs + 1):
        for name, command in commands.items():
            times[name].append(first_byte_s(command))
    return {name: summary(values[1:]) for name, values in times.items()}


def show(report: dict[str, Any]) -> str:
    """The report as text: the machine, then a table."""
    peer = report["results"]["transformers"]["median"]
    rows = [["first byte after", "median s", "smallest - largest", "transformers / this"]]
    for name, value in report["results"].items():
        spread = f"{value['min']:.3f} - {value['max']:.3f}"
        rows.append([name, f"{value['median']:.3f}", spread, f"{peer / value['median']:.2f}x"])
    machine = ", ".join(f"{name} {value}" for name, value in report["machine"].items())
    return f"{machine}\nmodel {report['model']}, runs {report['runs']}\n\n{table(rows)}"


def main() -> None:
    """Parses the command line and prints the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a checkpoint folder; default: random weights")
    parser.add_argument("--runs", type=int, default=7, help="starts of each")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bobot-bench-") as scratch:
        folder = args.model or Path(scratch)
        if args.model is None:
            write_llama(folder, SMALL)
            write_tokenizer(folder, SMALL["vocab_size"])
        report = {
            "machine": describe(os.cpu_count() or 1),
            "model": args.model.name if args.model else "random, 13 M parameters, bf16",
            "runs": args.runs,
            "results": measure(folder, args.runs),
        }
    print(json.dumps(report, indent=2) if args.json else show(report))


if __name__ == "__main__":
    main()
