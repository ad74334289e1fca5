"""Prefill and decode speed and peak memory: bobot beside transformers, same weights, same run.

    python bench/llama.py                       # Llama 3.2 1B's shape, bf16, about ten minutes
    python bench/llama.py --layers 2 --runs 1   # a quick look

The weights are random, at the real shape, written once to a temporary folder. Each measurement is a
fresh process: load, one short unmeasured prompt, then one prompt and its decode. The engines
take turns (bobot, transformers, bobot, ...), so that a change of the machine's speed meets both.
transformers runs its model directly with its cache, without the overhead of generate().

Not measured: load time, batches of several requests, long contexts, other thread counts.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from machine import describe, measure_limits, peak_memory_bytes, run_worker, summary, table
from random_llama import LLAMA_3_2_1B, weight_shapes, write_llama

ENGINES = ("bobot", "transformers")
WARM_UP = 32
"""Tokens of the unmeasured prompt: enough to touch every weight and fill torch's caches."""


def prompt_ids(length: int, seed: int) -> list[int]:
    """Random ids that every vocabulary here has."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, 1000, (length,), generator=generator).tolist()


def time_bobot(folder: Path, prompt: int, new: int) -> tuple[list[float], list[int]]:
    """Times at which the prompt starts and each token comes, and the tokens."""
    import bobot

    model = bobot.load(folder)

    def generate(ids: list[int], count: int) -> tuple[list[float], list[int]]:
        times, tokens = [time.perf_counter()], []
        for piece in model.generate(ids, max_tokens=count, temperature=0.0, ignore_eos=True):
            times.append(time.perf_counter())
            tokens += piece.ids
        return times, tokens

    generate(prompt_ids(WARM_UP, seed=1), 3)
    return generate(prompt_ids(prompt, seed=2), new)


def time_transformers(folder: Path, prompt: int, new: int) -> tuple[list[float], list[int]]:
    """The same for transformers: greedy, its default attention and cache."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()

    @torch.inference_mode()
    def generate(ids: list[int], count: int) -> tuple[list[float], list[int]]:
        times, tokens = [time.perf_counter()], []
        inputs, cache = torch.tensor([ids]), None
        for _ in range(count):
            output = model(inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
            inputs, cache = output.logits[:, -1:].argmax(-1), output.past_key_values
            tokens.append(int(inputs))
            times.append(time.perf_counter())
        return times, tokens

    generate(prompt_ids(WARM_UP, seed=1), 3)
    return generate(prompt_ids(prompt, seed=2), new)


def work(args: argparse.Namespace) -> dict[str, Any]:
    """One measurement, in its own process."""
    if args.worker == "limits":
        return measure_limits(args.threads)
    torch.set_num_threads(args.threads)
    timed = time_bobot if args.worker == "bobot" else time_transformers
    times, tokens = timed(args.folder, args.prompt, args.new)
    return {
        "prefill_tokens_per_s": args.prompt / (times[1] - times[0]),
        "decode_tokens_per_s": (len(times) - 2) / (times[-1] - times[1]),
        "tokens": tokens,
        **peak_memory_bytes(),
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All runs of both engines in turn, between two measurements of the limits."""
    config = LLAMA_3_2_1B | {"num_hidden_layers": args.layers, "torch_dtype": args.dtype}
    shared = [f"--threads={args.threads}", f"--prompt={args.prompt}", f"--new={args.new}"]
    runs: dict[str, list[dict[str, Any]]] = {engine: [] for engine in ENGINES}
    with tempfile.TemporaryDirectory(prefix="bobot-bench-", dir=args.scratch) as folder:
        weight_bytes = write_llama(Path(folder), config)
        limits = [run_worker(__file__, ["--worker=limits", *shared], args.threads)]
        for _ in range(args.runs):
            for engine in ENGINES:
                arguments = [f"--worker={engine}", f"--folder={folder}", *shared]
                runs[engine].append(run_worker(__file__, arguments, args.threads))
        limits.append(run_worker(__file__, ["--worker=limits", *shared], args.threads))
    names = [name for name in runs["bobot"][0] if name != "tokens"]
    return {
        "machine": describe(args.threads),
        "layers": args.layers,
        "dtype": args.dtype,
        "prompt": args.prompt,
        "new": args.new,
        "weight_bytes": weight_bytes,
        "flop_per_token": flop_per_token(config),
        "limits": {name: max(limit[name] for limit in limits) for name in limits[0]},
        "same_first_token": len({run["tokens"][0] for e in ENGINES for run in runs[e]}) == 1,
        "results": {
            engine: {name: summary([run[name] for run in runs[engine]]) for name in names}
            for engine in ENGINES
        },
    }


def flop_per_token(config: dict[str, Any]) -> int:
    """2 per weight of each matrix that every prompt token passes; embeddings and head are not."""
    shapes = weight_shapes(config)
    inside = [s for name, s in shapes.items() if ".layers." in name and len(s) == 2]
    return sum(2 * rows * columns for rows, columns in inside)


def show(report: dict[str, Any]) -> str:
    """The report as text: the machine, then a table with ratios and shares of the limit."""
    ours, peer = (report["results"][engine] for engine in ENGINES)
    prefill_limit = report["limits"]["flop_per_s"] / report["flop_per_token"]
    decode_limit = report["limits"]["bytes_per_s"] / report["weight_bytes"]
    rows = [["", *ENGINES, "ratio", "limit of the machine", "bobot reaches"]]
    for title, name, limit in (
        (f"prefill of {report['prompt']}, tokens/s", "prefill_tokens_per_s", prefill_limit),
        (f"decode of {report['new']}, tokens/s", "decode_tokens_per_s", decode_limit),
    ):
        ratio, share = ours[name]["median"] / peer[name]["median"], ours[name]["median"] / limit
        cells = [_spread(ours[name]), _spread(peer[name]), f"{ratio:.2f}x"]
        rows.append([title, *cells, f"{limit:.1f}", f"{share:.0%}"])
    for title, name in (
        ("peak memory with mapped weights, GiB", "peak_bytes"),
        ("of its own alone at the end, GiB", "anonymous_bytes"),
    ):
        ratio = ours[name]["median"] / peer[name]["median"]
        cells = [_spread(ours[name], 2**30), _spread(peer[name], 2**30), f"{ratio:.2f}x"]
        rows.append([title, *cells, "", ""])
    head = [
        ", ".join(f"{name} {value}" for name, value in report["machine"].items()),
        f"layers {report['layers']}, {report['dtype']}, weights {report['weight_bytes']:,} bytes, "
        f"runs {len(ours['peak_bytes']['runs'])}: median (smallest - largest)",
        f"limits in this run: {report['limits']['bytes_per_s'] / 1e9:.1f} GB/s read, "
        f"{report['limits']['flop_per_s'] / 1e9:.0f} GFLOP/s; "
        f"same first token everywhere: {report['same_first_token']}",
    ]
    return "\n".join(head) + "\n\n" + table(rows)


def _spread(value: dict[str, Any], unit: float = 1.0) -> str:
    median, low, high = (value[name] / unit for name in ("median", "min", "max"))
    return f"{median:.2f} ({low:.2f} - {high:.2f})"


def main() -> None:
    """Parses the command line and prints the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=LLAMA_3_2_1B["num_hidden_layers"])
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--prompt", type=int, default=256, help="tokens in the prompt")
    parser.add_argument("--new", type=int, default=33, help="tokens to generate")
    parser.add_argument("--runs", type=int, default=3, help="processes per engine")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--scratch", help="where the weights go for the time of the run")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", choices=[*ENGINES, "limits"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(work(args)))
        return
    report = measure(args)
    print(json.dumps(report, indent=2) if args.json else show(report))


if __name__ == "__main__":
    main()
