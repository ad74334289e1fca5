"""A step in one C++ call beside the same step module by module: Grok-1 and DeepSeek-V3, made up.

    python bench/fused_step.py            # both families, Q8_0, six layers of 1024
    python bench/fused_step.py --only grok1 --prompt 512

The models are those of the tests (tests/engine/tiny_decoders.py), made wider, with random weights
in bfloat16 and Q8_0 tiles. Both ways take turns in one process: a prompt, then 15 greedy tokens.
Milliseconds, medians. Not measured: other families, which bench/peers.py puts beside llama.cpp.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from statistics import median
from typing import Any

import torch
from machine import ROOT, describe, table

from bobot.engine import Engine, EngineConfig, SamplingParams

sys.path.insert(0, str(ROOT / "tests" / "engine"))
decoders = importlib.import_module("tiny_decoders")

COMMON = {
    "vocab_size": 8192,
    "hidden_size": 1024,
    "num_hidden_layers": 6,
    "max_position_embeddings": 4096,
}
GROK1 = COMMON | {
    "intermediate_size": 2048,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "num_experts": 8,
}
DEEPSEEK_V3 = COMMON | {
    "intermediate_size": 2816,
    "moe_intermediate_size": 512,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "q_lora_rank": 512,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 32,
    "n_shared_experts": 1,
    "num_experts_per_tok": 4,
    "n_group": 4,
    "topk_group": 2,
}
MODELS = {
    "grok1": lambda: decoders.grok1(**GROK1),
    "deepseek_v3": lambda: decoders.deepseek_v3(**DEEPSEEK_V3),
}
NUM_TOKENS = 16


def engine(model: Any, *, is_fused: bool) -> Engine:
    config = EngineConfig(
        max_num_batched_tokens=4096, num_blocks=400, enable_prefix_caching=False, speculation="off"
    )
    made = Engine(model, config)
    assert made.runner.fused is not None, "this model has no fused step here"
    if not is_fused:
        made.runner.fused = None
    return made


def times_of(made: Engine, prompt: list[int]) -> tuple[float, float]:
    """Milliseconds of the prompt's step and of a token's."""
    made.add(prompt, SamplingParams(max_tokens=NUM_TOKENS, temperature=0, ignore_eos=True))
    steps = []
    while made.has_unfinished():
        start = time.perf_counter()
        made.step()
        steps.append(1e3 * (time.perf_counter() - start))
    return steps[0], median(steps[1:])


def measure(name: str, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """way -> figure -> milliseconds."""
    with torch.inference_mode():
        model = decoders.filled(MODELS[name](), "Q8_0", is_tiled=True)
        model = decoders.in_dtype(model, torch.bfloat16)
    prompt = [number * 7919 % 8000 + 1 for number in range(args.prompt)]
    engines = {"one call": engine(model, is_fused=True), "modules": engine(model, is_fused=False)}
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in engines}
    for run in range(args.runs + 1):
        for way, made in engines.items():
            times = times_of(made, prompt)
            if run:  # the first is warm-up
                found[way].append(times)
    return {
        way: {"prompt": median(t for t, _ in runs), "token": median(t for _, t in runs)}
        for way, runs in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=MODELS)
    parser.add_argument("--prompt", type=int, default=256, help="tokens of the prompt")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    found = {name: measure(name, args) for name in MODELS if args.only in (None, name)}
    if args.json:
        print(json.dumps({"machine": describe(args.threads), "families": found}, indent=2))
        return
    rows = [["family", "", "one call, ms", "modules, ms", "ratio"]]
    for name, ways in found.items():
        for figure in ("prompt", "token"):
            ours, theirs = ways["one call"][figure], ways["modules"][figure]
            rows.append([name, figure, f"{ours:.2f}", f"{theirs:.2f}", f"{theirs / ours:.2f}x"])
    print(describe(args.threads), table(rows), sep="\n\n")


if __name__ == "__main__":
    main()
