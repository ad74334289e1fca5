"""Many clients of one server: `bobot serve` beside llama-server, same file, same client, in turns.

    python bench/serve_load.py                     # 1, 8 and 32 clients
    python bench/serve_load.py --clients 8 --runs 1

Each client asks one question after the other through /v1/completions, streamed: a shared beginning
of 1024 tokens (a system prompt), 32 tokens of its own, 64 tokens of answer, drawn with llama-
server's own defaults of sampling. A round is unmeasured warm-up: afterwards both have the shared
beginning in their caches (llama-server in each of its slots). The weights are random, the file has
a tokenizer without merges, so that a byte is a token.

Figures: tokens of answers per second from the first request to the last answer; time per token, the
gap between two pieces of one answer, median and 99th percentile; time to the first token. llama-
server runs with one slot a client, with and without flash attention; the better one counts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx2
from cold_start import made_gguf
from engines import llama_cpp_python
from machine import describe, summary, table
from servers import bobot_command, free_port, llama_command, llama_server, running

SHARED_TOKENS, OWN_TOKENS, ANSWER_TOKENS = 1024, 32, 64
CONTEXT = 2048
SAMPLING = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}
LETTERS = "abcdefghijklmnopqrstuvwxyz     "


@dataclass
class Heard:
    """What one client measured, seconds."""

    first: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    num_tokens: int = 0


def text(rng: random.Random, num_tokens: int) -> str:
    return "".join(rng.choice(LETTERS) for _ in range(num_tokens))


async def ask(client: httpx2.AsyncClient, prompt: str, seed: int, heard: Heard) -> None:
    body = {
        "prompt": prompt, "max_tokens": ANSWER_TOKENS, "seed": seed, "ignore_eos": True,
        "stream": True, "stream_options": {"include_usage": True}, **SAMPLING,
    }  # fmt: skip
    asked = last = time.perf_counter()
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        if answer.status_code != 200:
            raise SystemExit(f"{answer.status_code}: {(await answer.aread()).decode()}")
        is_first = True
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            now = time.perf_counter()
            data = json.loads(line.removeprefix("data: "))
            if usage := data.get("usage"):
                heard.num_tokens += usage["completion_tokens"]
            if not data.get("choices") or not data["choices"][0].get("text"):
                continue
            (heard.first if is_first else heard.gaps).append(now - (asked if is_first else last))
            is_first, last = False, now


async def one_round(
    url: str, shared: str, num_clients: int, num_questions: int, seed: int
) -> dict[str, float]:
    heard = [Heard() for _ in range(num_clients)]

    async def one(number: int, client: httpx2.AsyncClient) -> None:
        rng = random.Random(f"{seed} {number}")
        for _ in range(num_questions):
            await ask(client, shared + text(rng, OWN_TOKENS), rng.randrange(1 << 30), heard[number])

    limits = httpx2.Limits(max_connections=num_clients, max_keepalive_connections=0)
    async with httpx2.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        begun = time.perf_counter()
        await asyncio.gather(*(one(number, client) for number in range(num_clients)))
        took = time.perf_counter() - begun
    gaps = [gap for one_heard in heard for gap in one_heard.gaps]
    return {
        "tokens_per_s": sum(one_heard.num_tokens for one_heard in heard) / took,
        "gap_median_s": median(gaps),
        "gap_p99_s": quantiles(gaps, n=100)[98],
        "first_s": median(first for one_heard in heard for first in one_heard.first),
    }


def measure(command: list[str], port: int, num_clients: int, args: Any) -> list[dict[str, float]]:
    """One started server: a round of warm-up, then `repeat` rounds."""
    shared = text(random.Random(0), SHARED_TOKENS)
    questions = args.questions or max(2, 8 // num_clients)
    with (
        tempfile.TemporaryDirectory() as home,
        running(command, port, args.threads, Path(home)) as url,
    ):
        asyncio.run(one_round(url, shared, num_clients, 1, seed=-1))
        return [
            asyncio.run(one_round(url, shared, num_clients, questions, seed))
            for seed in range(args.repeat)
        ]


def compare(model: Path, program: Path, num_clients: int, args: Any) -> dict[str, Any]:
    """Name of a server -> figure -> summary."""
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(args.runs):
        for name in ("bobot", "llama-server -fa off", "llama-server -fa on"):
            port = free_port()
            if name == "bobot":
                command = bobot_command(model, port, CONTEXT)
            else:
                command = llama_command(program, model, port, CONTEXT, num_clients)
                command += ["--flash-attn", name.split()[-1]]
            found.setdefault(name, []).extend(measure(command, port, num_clients, args))
    return {
        name: {figure: summary([run[figure] for run in runs]) for figure in runs[0]}
        for name, runs in found.items()
    }


def rows(found: dict[int, dict[str, Any]]) -> list[list[str]]:
    lines = [["clients", "server", "tokens/s", "ratio", "time per token, ms: median", "p99",
              "first token, ms"]]  # fmt: skip
    for num_clients, servers in found.items():
        peers = [name for name in servers if name != "bobot"]
        best = max(peers, key=lambda name: servers[name]["tokens_per_s"]["median"])
        ours = servers["bobot"]["tokens_per_s"]["median"]
        for name in ("bobot", best):
            figures = servers[name]
            rate = figures["tokens_per_s"]
            spread = f"{rate['median']:.1f} ({rate['min']:.1f} - {rate['max']:.1f})"
            ms = [f"{figures[key]['median'] * 1e3:.1f}" for key in ("gap_median_s", "gap_p99_s",
                                                                   "first_s")]  # fmt: skip
            lines.append([str(num_clients), name, spread, f"{ours / rate['median']:.2f}x", *ms])
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--questions", type=int, help="of each client in a round")
    parser.add_argument("--runs", type=int, default=2, help="starts of each server")
    parser.add_argument("--repeat", type=int, default=2, help="rounds of a start")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--server", type=Path, help="a llama-server; built if not given")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    program = llama_server(args.server)
    model = made_gguf(llama_cpp_python(None))
    about = describe(args.threads)
    found = {number: compare(model, program, number, args) for number in args.clients}
    if args.json:
        print(json.dumps({"machine": about, "clients": found}, indent=2))
    else:
        print(about, table(rows(found)), sep="\n\n")


if __name__ == "__main__":
    main()
