"""Time to the first token behind a shared prefix: bobot serve beside llama-server, over a restart.

    python bench/prefix.py
    python bench/prefix.py --model model.gguf --prefix 4096 --runs 5 --json

In each run a server starts, reads a prompt that it has never seen (cold), then the same beginning
with other ends, each from a connection of its own (warm); it is ended by SIGTERM, started again,
and asked for other ends once more: the first of them (restarted) is what a restart costs, the
others are warm again. The servers take turns. A prompt is `--prefix` random ids and `--suffix`
others, sent to /v1/completions for one token; the time is that of the whole answer. Medians, with
the smallest and the largest.

llama-server keeps prompts in memory and none over a restart, unless a client saves and restores
slots by name (--slot-save-path), which is not measured.

Not measured: several clients at once, the time until a server is ready, other bounds of the cache.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cold_start import MADE_GGUF, made_gguf
from engines import llama_cpp_python
from machine import ROOT, describe, summary, table
from servers import bobot_command, free_port, llama_command, llama_server, running

PHASES = ("cold", "warm", "restarted", "warm again")
READY_S, ANSWER_S = 300.0, 3600.0
CACHE = ROOT / "build" / "bench" / "prefix"
"""Where bobot keeps its files meanwhile, tiles and prefixes among them."""


@dataclass(frozen=True)
class Program:
    """A server and how it is started; it listens on `port`."""

    name: str
    command: list[str]
    port: int


def programs(args: argparse.Namespace) -> list[Program]:
    """bobot, and llama-server, with room for two such prompts."""
    ours, theirs = free_port(), free_port()
    context = args.prefix + args.suffix + 256
    bobot = [*bobot_command(args.model, ours, context), "--prefix-cache", "4"]
    llama = llama_command(args.server, args.model, theirs, context, slots=2)
    return [Program("bobot serve", bobot, ours), Program("llama-server", llama, theirs)]


def first_token(program: Program, ids: list[int]) -> tuple[float, int]:
    """Seconds until one token has come, over a new connection; tokens that were found."""
    body = {"prompt": ids, "max_tokens": 1, "temperature": 0}
    request = urllib.request.Request(
        f"http://127.0.0.1:{program.port}/v1/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    start_s = time.perf_counter()
    with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
        usage = json.load(answer)["usage"]
    taken_s = time.perf_counter() - start_s
    if usage["prompt_tokens"] != len(ids):
        sys.exit(f"{program.name} read {usage['prompt_tokens']} tokens of {len(ids)}")
    return taken_s, (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)


def measure_once(program: Program, args: argparse.Namespace, run: int) -> list[dict[str, Any]]:
    """Every phase, one after the other."""
    draw = random.Random(run)
    prefix = draw.choices(range(300, 30_000), k=args.prefix)
    found = []

    def ask(phase: str) -> None:
        ids = [*prefix, *draw.choices(range(300, 30_000), k=args.suffix)]
        seconds, num_cached = first_token(program, ids)
        found.append({"phase": phase, "seconds": seconds, "num_cached": num_cached})
        told = f"{program.name}, {phase}: {seconds:.3f} s, {num_cached} tokens found"
        print(told, file=sys.stderr, flush=True)

    shutil.rmtree(CACHE / "XDG_CACHE_HOME" / "bobot" / "prefixes", ignore_errors=True)
    for first, others in (PHASES[:2], PHASES[2:]):
        with running(program.command, program.port, args.threads, CACHE):
            # the first request also loads what a server loads late
            first_token(program, draw.choices(range(300, 30_000), k=8))
            ask(first)
            for _ in range(args.warm):
                ask(others)
    return found


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All runs; the programs take turns."""
    chosen = programs(args)
    answers: dict[str, list[dict[str, Any]]] = {program.name: [] for program in chosen}
    for run in range(args.runs):
        for program in chosen:
            answers[program.name] += measure_once(program, args, run)
    return {
        "machine": describe(args.threads),
        "model": args.model.name,
        "prefix": args.prefix,
        "suffix": args.suffix,
        "runs": args.runs,
        "results": [
            {
                "program": name,
                "phase": phase,
                "seconds": summary([a["seconds"] for a in found if a["phase"] == phase]),
                "num_cached": min(a["num_cached"] for a in found if a["phase"] == phase),
            }
            for name, found in answers.items()
            for phase in PHASES
        ],
    }


def show(report: dict[str, Any]) -> str:
    """The report as text: the machine, then a table. Ratios are the peer's figure by bobot's."""
    results = report["results"]
    ours = {r["phase"]: r["seconds"]["median"] for r in results if r["program"] == "bobot serve"}
    rows = [["program", "", "first token, s", "tokens found", "this / bobot"]]
    for result in results:
        seconds = result["seconds"]
        spread = f"{seconds['median']:.3f} ({seconds['min']:.3f} - {seconds['max']:.3f})"
        ratio = f"{seconds['median'] / ours[result['phase']]:.1f}x"
        found = str(result["num_cached"])
        rows.append([result["program"], result["phase"], spread, found, ratio])
    return "\n".join(
        [
            ", ".join(f"{name} {value}" for name, value in report["machine"].items()),
            f"{report['model']}, {report['prefix']} shared tokens and {report['suffix']} others, "
            f"{report['runs']} runs: median (smallest - largest)\n",
            table(rows),
        ]
    )


def main() -> None:
    """Parses the command line and prints the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--server", type=Path, help="a llama-server; built if not given")
    parser.add_argument("--model", type=Path, help="a GGUF; the made-up Llama 3.2 1B if not given")
    parser.add_argument("--prefix", type=int, default=4096, help="tokens that prompts share")
    parser.add_argument("--suffix", type=int, default=64, help="tokens that they do not")
    parser.add_argument("--warm", type=int, default=3, help="warm requests in a phase")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--python", type=Path, help="a Python that has llama-cpp-python")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    args.server = llama_server(args.server)
    if args.model is None:
        args.model = MADE_GGUF if MADE_GGUF.exists() else made_gguf(llama_cpp_python(args.python))
    report = measure(args)
    print(json.dumps(report, indent=2) if args.json else show(report))


if __name__ == "__main__":
    main()
