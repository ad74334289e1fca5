"""Decode speed with n-gram speculation beside plain decode, one model, same run, taking turns.

    python bench/speculation.py                      # Llama 3.2 1B's shape, bf16, ten minutes
    python bench/speculation.py --layers 2 --runs 1  # a quick look
    python bench/speculation.py --gguf llama-1b:Q4_0 # beside llama.cpp with n-gram drafts

The weights are random, so the model cannot write the answers: they are given
(speculation_texts.py). Every step computes the whole model, output matrix included, for the true
tokens and for the drafts; then the logit of the token that the answer has in this place is raised
above all others. What is measured is therefore the speed at which a model that gives this very
answer would give it. The drafts know nothing of the answer: they come from the prompt and from what
was written so far. How often a draft is right depends on the text alone, and real models give
other texts.

Before that the model runs unsteered, greedy and with a seed, and the tokens of both ways are
compared.

llama.cpp is driven through its C interface with the drafts of llama-cpp-python's prompt lookup (10
tokens behind the last 2), which computes as many rows; its own program llama-lookup is not in the
package.

Not measured: draft models, contexts longer than these prompts.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence as Rows
from pathlib import Path
from typing import Any

import torch
from engines import ask_llama_cpp, llama_cpp_python
from machine import describe, summary, table
from peers import file_of
from random_llama import LLAMA_3_2_1B, write_llama
from speculation_texts import cases
from torch import Tensor

import bobot
from bobot.engine import Engine, EngineConfig, SamplingParams
from bobot.engine.request import Chunk
from bobot.hub import resolve

WAYS = ("off", "ngram")


def steer(engine: Engine, text: list[int]) -> None:
    """Makes the engine write `text`: prompt and answer of every request from now on."""
    runner = engine.runner
    plain_run = type(runner).run

    def run(chunks: Rows[Chunk]) -> tuple[Tensor, list[Chunk]]:
        logits_RV, caught_up = plain_run(runner, chunks)
        wanted: list[int] = []
        for chunk in caught_up:
            end = chunk.sequence.num_tokens
            wanted += text[end : end + 1 + len(chunk.draft_ids)]
        if wanted:
            logits_RV[torch.arange(len(wanted)), torch.tensor(wanted)] = 1e4
        return logits_RV, caught_up

    runner.run = run


def decode(engine: Engine, prompt: list[int], num_requests: int, **sampling: Any) -> dict[str, Any]:
    """Some requests at once: the time and what was counted from the first token to the last."""
    params = SamplingParams(**sampling)
    tokens: dict[int, list[int]] = {engine.add(prompt, params): [] for _ in range(num_requests)}
    start, before = 0.0, engine.stats()
    while engine.has_unfinished():
        for output in engine.step():
            tokens[output.request_id].append(output.token_id or 0)
        if not start and all(tokens.values()):
            start, before = time.perf_counter(), engine.stats()
    seconds, after = time.perf_counter() - start, engine.stats()
    num_new = after.num_generated_tokens - before.num_generated_tokens
    num_steps = after.num_steps - before.num_steps
    return {
        "tokens": list(tokens.values()),
        "tokens_per_s": num_new / seconds,
        "tokens_per_step": num_new / num_steps / num_requests,
        "drafted": after.num_drafted_tokens - before.num_drafted_tokens,
        "accepted": after.num_accepted_tokens - before.num_accepted_tokens,
    }


def same_unsteered(engines: dict[str, Engine], num_tokens: int) -> dict[str, bool]:
    """Whether both ways write the same tokens when nobody steers."""
    prompt = list(range(100, 150)) * 2
    settings = {"greedy": {"temperature": 0.0}, "sampled": {"temperature": 0.8, "seed": 1}}
    return {
        name: decode(engines["off"], prompt, 1, max_tokens=num_tokens, **sampling)["tokens"]
        == decode(engines["ngram"], prompt, 1, max_tokens=num_tokens, **sampling)["tokens"]
        for name, sampling in settings.items()
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(args.threads)
    if args.gguf:
        return _measure_model(bobot.load(file_of(args.gguf)).model, args)
    config = LLAMA_3_2_1B | {"num_hidden_layers": args.layers}
    with tempfile.TemporaryDirectory(prefix="bobot-bench-", dir=args.scratch) as folder:
        write_llama(Path(folder), config)
        return _measure_model(bobot.load(folder, quantize=args.quantize).model, args)


def _measure_model(model: Any, args: argparse.Namespace) -> dict[str, Any]:
    tokenizer = bobot.load_tokenizer(args.tokenizer or resolve(None))
    engines = {
        way: Engine(model, EngineConfig(speculation=way, max_model_len=8192)) for way in WAYS
    }
    report: dict[str, Any] = {
        "machine": describe(args.threads),
        "model": args.gguf or f"{args.layers} layers, {args.quantize or 'bfloat16'}",
        "requests": args.requests,
        "same_unsteered": same_unsteered(engines, args.unsteered),
        "cases": {},
    }
    for name, case in cases().items():
        prompt, answer = (tokenizer.encode(text) for text in case)
        answer = answer[: args.new]
        found = _measure_case(engines, prompt, answer, args)
        if args.gguf:
            found["llama.cpp"] = {way: _ask_peer(way, prompt, answer, args) for way in WAYS}
        report["cases"][name] = found
    return report


def _ask_peer(
    way: str, prompt: list[int], answer: list[int], args: argparse.Namespace
) -> dict[str, Any]:
    """llama.cpp's tokens/s for the same answer."""
    job = {
        "job": "replay",
        "path": str(file_of(args.gguf)),
        "threads": args.threads,
        "texts": [[prompt, answer]],
        "drafts": way == "ngram",
        "repeat": args.runs,
        "settings": {},
    }
    (found,) = ask_llama_cpp(job, args.threads, llama_cpp_python(args.python))["cases"]
    return found | {"tokens_per_s": summary(found["tokens_per_s"])}


def _measure_case(
    engines: dict[str, Engine], prompt: list[int], answer: list[int], args: argparse.Namespace
) -> dict[str, Any]:
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for _ in range(args.runs):
        for way, engine in engines.items():
            steer(engine, prompt + answer)
            settings: dict[str, Any] = {"temperature": 0.0, "max_tokens": len(answer)}
            runs[way].append(decode(engine, prompt, args.requests, **settings))
    speeds = {way: summary([run["tokens_per_s"] for run in runs[way]]) for way in WAYS}
    last = runs["ngram"][-1]
    return {
        "prompt": len(prompt),
        "new": len(answer),
        "tokens_per_s": speeds,
        "ratio": speeds["ngram"]["median"] / speeds["off"]["median"],
        "tokens_per_step": last["tokens_per_step"],
        "drafted": last["drafted"],
        "accepted": last["accepted"],
        "same_tokens": all(
            tokens == answer for way in WAYS for run in runs[way] for tokens in run["tokens"]
        ),
    }


def show(report: dict[str, Any]) -> str:
    """The report as text: the machine, then one line for each case."""
    head = ["", "prompt", "new", "plain, tokens/s", "n-gram, tokens/s", "ratio", "tokens a step"]
    rows = [[*head, "drafts right", "same tokens"]]
    for name, case in report["cases"].items():
        speeds = [_spread(case["tokens_per_s"][way]) for way in WAYS]
        rows.append(
            [
                *(name, str(case["prompt"]), str(case["new"]), *speeds, f"{case['ratio']:.2f}x"),
                *(f"{case['tokens_per_step']:.2f}", f"{case['accepted']} of {case['drafted']}"),
                str(case["same_tokens"]),
            ]
        )
        for way, found in case.get("llama.cpp", {}).items():
            rows.append([f"  llama.cpp, {way}", "", "", _spread(found["tokens_per_s"])])
            rows[-1] += ["", "", f"{found['tokens_per_step']:.2f}", "", ""]
    lines = [
        ", ".join(f"{name} {value}" for name, value in report["machine"].items()),
        f"{report['model']}, {report['requests']} at once; median (smallest - largest);"
        f" unsteered the same: {report['same_unsteered']}",
    ]
    return "\n".join(lines) + "\n\n" + table(rows)


def _spread(value: dict[str, Any]) -> str:
    return f"{value['median']:.1f} ({value['min']:.1f} - {value['max']:.1f})"


def main() -> None:
    """Parses the command line and prints the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gguf", metavar="SHAPE:FORM", help="as in peers.py; llama.cpp beside it")
    parser.add_argument("--python", type=Path, help="a Python that has llama-cpp-python")
    parser.add_argument("--layers", type=int, default=LLAMA_3_2_1B["num_hidden_layers"])
    parser.add_argument("--quantize", choices=["int8", "int4", "mxfp4"], help="default: bfloat16")
    parser.add_argument("--tokenizer", help="a folder; default: the embedded model's")
    parser.add_argument("--new", type=int, default=400, help="tokens of each answer, at most")
    parser.add_argument("--unsteered", type=int, default=64, help="tokens that are compared")
    parser.add_argument("--requests", type=int, default=1, help="equal requests at once")
    parser.add_argument("--runs", type=int, default=3, help="of each way and case")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--scratch", help="where the weights go for the time of the run")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    report = measure(args)
    print(json.dumps(report, indent=2) if args.json else show(report))


if __name__ == "__main__":
    main()
