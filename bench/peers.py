"""Speed beside llama.cpp: the same GGUF file, the same ids, taking turns, one row of figures each.

    python bench/peers.py decode             # 1 row; Llama 3.2 1B and 3 8B shapes; four formats
    python bench/peers.py prefill --vllm     # 512 and 2048 tokens, same files; vLLM too
    python bench/peers.py depth              # prefill of 512 and decode behind 4k, 16k, 32k tokens
    python bench/peers.py batch --vllm       # decode of 8, 16 and 32 rows
    python bench/peers.py moe                # gpt-oss-20b and Qwen3-30B-A3B shapes
    python bench/peers.py embedded           # the model inside the package, decode
    python bench/peers.py decode --quick --only llama-1b:Q4_0

Files with random weights (shapes.py says what is cut) are written to build/bench once, and
llama-cpp-python is installed from the registry into build/llama-cpp. Each engine runs in fresh
processes, taking turns; each loads, computes a short prompt unmeasured, then every case `--repeat`
times. llama.cpp runs with and without flash attention, and its better median counts; it neither
samples nor returns text. vLLM (`--vllm`, installed into build/vllm) runs the same shape with
weights of its own making, in bf16 and in 8-bit integers, eager. Ours is what a user gets:
`bobot.load` and its engine, greedy; speculation is off. A figure is the median of all runs, with
the smallest and the largest.

Limits: what torch reaches on this machine in the same run (machine.py): bytes of weights and cache
that a step reads, over the read bandwidth, or operations over the better matrix product.

Not measured: load time, memory, sampling with a temperature, other thread counts.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ceilings import decode_limit, prefill_limit
from engines import (
    FILES,
    ask_bobot,
    ask_llama_cpp,
    ask_vllm,
    llama_cpp_python,
    vllm_python,
)
from machine import describe, summary, table
from random_model import write_gguf
from shapes import EMBEDDED, SHAPES

from bobot.hub import resolve

LLAMA_CPP = {"llama.cpp -fa 0": {"flash": False}, "llama.cpp -fa 1": {"flash": True}}
"""The settings of llama.cpp that are tried; the better one counts."""
W8A8 = {
    "quant_method": "compressed-tensors", "format": "int-quantized",
    "quantization_status": "compressed", "ignore": ["lm_head"],
    "config_groups": {"group_0": {
        "targets": ["Linear"],
        "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"},
        "input_activations": {
            "num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True},
    }},
}  # fmt: skip
VLLM = {"vLLM bf16": {}, "vLLM W8A8": {"quantization_config": W8A8}}
"""What is added to a shape's config."""


@dataclass(frozen=True)
class Case:
    """`rows` sequences: `prompt` tokens each behind `depth` others, then `new` tokens."""

    rows: int = 1
    depth: int = 0
    prompt: int = 16
    new: int = 1

    def named(self, figure: str) -> str:
        if figure == "prefill":
            return f"prefill of {self.prompt}" + f" behind {self.depth}" * bool(self.depth)
        rows = f", {self.rows} rows" * (self.rows > 1)
        return f"decode behind {self.depth + self.prompt}{rows}"


@dataclass(frozen=True)
class Row:
    """A row of the table of figures: what is measured on which files."""

    files: tuple[str, ...]
    """shape:form."""
    cases: tuple[Case, ...]
    figures: tuple[str, ...]


DENSE = tuple(
    f"{shape}:{form}"
    for shape in ("llama-1b", "llama-8b")
    for form in ("Q4_0", "Q4_K_M", "Q8_0", "BF16")
)
ROWS = {
    "decode": Row(DENSE, (Case(prompt=32, new=65),), ("decode",)),
    "prefill": Row(DENSE, (Case(prompt=512), Case(prompt=2048)), ("prefill",)),
    "depth": Row(
        ("llama-8b-2:Q4_0",),
        tuple(Case(depth=depth, prompt=512, new=33) for depth in (4096, 16384, 32768)),
        ("prefill", "decode"),
    ),
    "batch": Row(
        ("llama-1b:Q4_0", "llama-1b:Q4_K_M", "llama-8b:Q4_0", "llama-8b:Q4_K_M"),
        tuple(Case(rows=rows, new=33) for rows in (8, 16, 32)),
        ("decode",),
    ),
    "moe": Row(
        ("gpt-oss:MXFP4", "qwen3-moe:MXFP4", "qwen3-moe:Q4_0", "qwen3-moe:Q4_K_M"),
        (Case(prompt=512, new=65),),
        ("prefill", "decode"),
    ),
    "embedded": Row((f"{EMBEDDED}:Q8_0",), (Case(prompt=32, new=513),), ("decode",)),
}


def file_of(name: str) -> Path:
    """The GGUF of shape:form, written if it is not there; of the embedded model its own."""
    shape, form = name.split(":")
    if shape == EMBEDDED:
        return resolve(None)
    path = FILES / f"{shape}-{form}.gguf"
    if not path.exists():
        FILES.mkdir(parents=True, exist_ok=True)
        write_gguf(path, SHAPES[shape], form)
    return path


def jobs_of(path: Path, cases: tuple[Case, ...], args: argparse.Namespace) -> list[dict[str, Any]]:
    """What a worker is asked, one job for each number of rows. Prompts: [run][row] -> ids, the
    first run being the warm-up.
    """
    jobs = []
    for rows in sorted({case.rows for case in cases}):
        chosen = [case for case in cases if case.rows == rows]
        length = max(case.prompt + case.new for case in chosen)
        generator = random.Random(0)
        before = [generator.randrange(3, 8000) for _ in range(max(c.depth for c in chosen))]
        prompts = [
            [[generator.randrange(3, 8000) for _ in range(length)] for _ in range(rows)]
            for _ in range(args.repeat + 1)
        ]
        jobs.append(
            {
                "job": "speed",
                "path": str(path),
                "threads": args.threads,
                "length": len(before) + length,
                "before": before,
                "prompts": prompts,
                "cases": [asdict(case) for case in chosen],
            }
        )
    return jobs


def compare(
    name: str, row: Row, peers: dict[str, Path], args: argparse.Namespace
) -> list[dict[str, Any]]:
    """The figures of one file: for each case, figure and peer the runs of both sides."""
    path = file_of(name)
    shape, form = name.split(":")
    found = []
    ours = {"dtype": args.dtype, "activations": args.activations}
    for job in jobs_of(path, row.cases, args):
        asks = {"bobot": partial(ask_bobot, job | ours, args.threads)}
        for setting, values in LLAMA_CPP.items():
            asked = job | {"settings": values}
            asks[setting] = partial(ask_llama_cpp, asked, args.threads, peers["llama.cpp"])
        if "vLLM" in peers and form == "Q4_0":  # it has no GGUF: once a shape is enough
            for setting, added in VLLM.items():
                asked = job | {"path": str(vllm_folder(shape, setting, added))}
                asks[setting] = partial(ask_vllm, asked, args.threads, peers["vLLM"])
        results: dict[str, list[dict[str, Any]]] = {engine: [] for engine in asks}
        for _ in range(args.runs):
            for engine, ask in asks.items():
                results[engine].append(ask())
        for number, case in enumerate(job["cases"]):
            for figure in row.figures:
                runs = {engine: _runs(rs, number, figure) for engine, rs in results.items()}
                best = max(LLAMA_CPP, key=lambda setting: runs[setting]["median"])
                what = {"file": name, "case": case, "figure": figure, "all": runs}
                for peer in [best, *(engine for engine in VLLM if engine in runs)]:
                    found.append(what | {"peer": peer})
    return found


def vllm_folder(shape: str, setting: str, added: dict[str, Any]) -> Path:
    """A folder with the config alone: vLLM makes weights up itself."""
    folder = FILES / f"{shape} {setting}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(SHAPES[shape] | added), encoding="utf-8")
    return folder


def _runs(results: list[dict[str, Any]], number: int, figure: str) -> dict[str, Any]:
    return summary([value for result in results for value in result["cases"][number][figure]])


def limit(name: str, case: Case, figure: str, limits: dict[str, float]) -> float:
    """Tokens/s that the machine allows."""
    shape, form = name.split(":")
    config = SHAPES[shape]
    if figure == "prefill":
        return prefill_limit(config, form, case.prompt, case.depth, limits["flop_per_s"])
    length = case.depth + case.prompt + case.new / 2
    return decode_limit(config, form, length, case.rows, limits["bytes_per_s"])


def show(report: dict[str, Any]) -> str:
    """The report as text: the machine and its limits, then the table."""
    head = ["", "bobot", "peer", "", "ratio", "limit", "bobot reaches"]
    rows = [head]
    for result in report["results"]:
        ours, peer = result["all"]["bobot"], result["all"][result["peer"]]
        rows.append(
            [
                f"{result['file']}, {Case(**result['case']).named(result['figure'])}",
                spread(ours),
                spread(peer),
                result["peer"],
                f"{ours['median'] / peer['median']:.2f}x",
                f"{result['limit']:.0f}",
                f"{ours['median'] / result['limit']:.0%}",
            ]
        )
    limits = report["limits"]
    return "\n".join(
        [
            ", ".join(f"{name} {value}" for name, value in report["machine"].items()),
            f"{report['runs']} processes each, {report['repeat']} runs in each, tokens/s: median "
            "(smallest - largest)",
            f"limits: {limits['bytes_per_s'] / 1e9:.1f} GB/s read, "
            f"{limits['flop_per_s'] / 1e9:.0f} GFLOP/s\n",
            table(rows),
        ]
    )


def spread(value: dict[str, Any]) -> str:
    return f"{value['median']:.1f} ({value['min']:.1f} - {value['max']:.1f})"


def main() -> None:
    """Parses the command line and prints the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("row", choices=ROWS)
    parser.add_argument("--only", nargs="*", help="files, as shape:form")
    parser.add_argument("--quick", action="store_true", help="first file and case, one process")
    parser.add_argument("--runs", type=int, default=3, help="processes per engine and setting")
    parser.add_argument("--repeat", type=int, default=3, help="runs in a process")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--dtype", help="of our activations; the file's own if not given")
    parser.add_argument("--activations", choices=["int8"], help="ours in 8 bits, as llama.cpp's")
    parser.add_argument("--vllm", action="store_true", help="also vLLM, beside files in Q4_0")
    parser.add_argument("--python", type=Path, help="a Python that has llama-cpp-python")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    report = measure(args)
    print(json.dumps(report, indent=2) if args.json else show(report))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Every file of the row, between two measurements of the limits."""
    row = ROWS[args.row]
    files = args.only or row.files
    if args.quick:
        row = Row(row.files, row.cases[:1], row.figures)
        files, args.runs, args.repeat = args.only or files[:1], 1, 3
    peers = {"llama.cpp": llama_cpp_python(args.python)}
    if args.vllm:
        peers["vLLM"] = vllm_python()
    asked = {"job": "limits", "threads": args.threads}
    limits = [ask_bobot(asked, args.threads)]
    results = [found for name in files for found in compare(name, row, peers, args)]
    limits.append(ask_bobot(asked, args.threads))
    best = {name: max(limit[name] for limit in limits) for name in limits[0]}
    for result in results:
        case = Case(**result["case"])
        result["limit"] = limit(result["file"], case, result["figure"], best)
    return {
        "machine": describe(args.threads),
        "row": args.row,
        "runs": args.runs,
        "repeat": args.repeat,
        "limits": best,
        "results": results,
    }


if __name__ == "__main__":
    main()
