"""What `bobot fit` says against what a load and a generation then take: memory and speed.

    python bench/fit.py                       # all cases, about ten minutes
    python bench/fit.py --cases llama-bf16 --runs 1

Each case is a checkpoint with made-up weights, written to a temporary folder. A prediction and a
measurement take turns, each in a fresh process, and the medians are compared. Memory: the largest
resident size while the model answers, mapped files included, once every weight has been used (few
tokens choose few experts); `own` is what is not of files. `while loading` also counts pages of
files that were copied and are not needed any more: the system takes them back when it wants to.

Not measured: GPUs, several requests at once, contexts beyond the prompt of 512 tokens.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from machine import describe, peak_memory_bytes, run_worker, table
from random_llama import LLAMA_3_2_1B
from random_model import write_folder, write_gguf

from bobot.quant.weight import QuantWeight

PROMPT, NEW = 512, 24
CONTEXT = PROMPT + NEW

LLAMA = LLAMA_3_2_1B | {"num_hidden_layers": 8}
SMALL = LLAMA | {
    "vocab_size": 32768, "hidden_size": 512, "intermediate_size": 2048,
    "num_attention_heads": 8, "num_key_value_heads": 2,
}  # fmt: skip
MIXTRAL = {
    "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "torch_dtype": "bfloat16",
    "vocab_size": 32000, "hidden_size": 1024, "intermediate_size": 3584, "num_hidden_layers": 6,
    "num_attention_heads": 16, "num_key_value_heads": 4, "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5, "rope_theta": 1e6, "num_local_experts": 8, "num_experts_per_tok": 2,
}  # fmt: skip
GPT_OSS = {
    "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "torch_dtype": "bfloat16",
    "vocab_size": 32000, "hidden_size": 1440, "intermediate_size": 1440, "num_hidden_layers": 6,
    "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 64, "attention_bias": True,
    "num_local_experts": 32, "num_experts_per_tok": 4, "max_position_embeddings": 131072,
    "sliding_window": 128, "rms_norm_eps": 1e-5, "rope_theta": 150000.0,
    "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "truncate": False,
                     "original_max_position_embeddings": 4096},
    "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": []},
}  # fmt: skip
KIMI = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "kimi_k2", "torch_dtype": "bfloat16",
    "vocab_size": 32000, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 5,
    "moe_intermediate_size": 512, "first_k_dense_replace": 1, "num_attention_heads": 16,
    "q_lora_rank": 512, "kv_lora_rank": 256, "qk_nope_head_dim": 64, "qk_rope_head_dim": 32,
    "v_head_dim": 64, "n_routed_experts": 64, "n_shared_experts": 1, "num_experts_per_tok": 8,
    "norm_topk_prob": True, "routed_scaling_factor": 2.8, "scoring_func": "sigmoid",
    "topk_method": "noaux_tc", "max_position_embeddings": 131072, "rope_theta": 50000.0,
    "rms_norm_eps": 1e-6,
}  # fmt: skip
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
INT4 = {
    "quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["lm_head"],
    "config_groups": {"group_0": {"targets": ["Linear"], "weights": {
        "num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}}},
}  # fmt: skip

CASES: dict[str, tuple[dict[str, Any], str]] = {
    "llama-bf16": (LLAMA, "hf"),
    "llama-int4": (LLAMA | {"quantization_config": INT4}, "hf"),
    "llama-q8_0": (LLAMA, "Q8_0"),
    "llama-q4_k_m": (LLAMA, "Q4_K_M"),
    "small-bf16": (SMALL, "hf"),
    "mixtral-bf16": (MIXTRAL, "hf"),
    "mixtral-q4_k_m": (MIXTRAL, "Q4_K_M"),
    "gpt-oss-mxfp4": (GPT_OSS, "hf"),
    "kimi-fp8": (KIMI | {"quantization_config": FP8}, "hf"),
}
"""Name -> config, and how it is written: "hf" or a form of GGUF."""


def write_case(folder: Path, name: str) -> Path:
    config, form = CASES[name]
    if form == "hf":
        write_folder(folder, config)
        return folder
    write_gguf(folder / "model.gguf", config, form)
    return folder / "model.gguf"


def touch_weights(model: torch.nn.Module) -> None:
    """Reads every weight once, as many tokens would: a few choose only some of the experts."""
    for module in model.modules():
        for weight in (*vars(module).values(), *module.parameters(recurse=False)):
            parts = weight.parts.values() if isinstance(weight, QuantWeight) else [weight]
            for part in parts:
                if isinstance(part, torch.Tensor):
                    part.view(torch.uint8).max()


class NoTimes:
    """Stands for a machine whose speed does not matter."""

    def product_s(self, *what: object) -> float:
        return 1e-9

    def call_s(self, *what: object) -> float:
        return 1e-9

    def attention_s(self, *what: object) -> float:
        return 1e-9

    def activation_s(self, *what: object) -> float:
        return 1e-9

    def small_step_s(self) -> float:
        return 1e-9


def predict(path: Path, only_memory: bool) -> dict[str, float]:
    """What `bobot fit` says, with the time that saying it took."""
    from bobot.hardware import detect
    from bobot.weights.fit import estimate
    from bobot.weights.speed import Speeds
    from bobot.weights.subject import subject_of

    start = time.perf_counter()
    published = estimate(subject_of(path), detect(), Speeds(), CONTEXT, only_published=True).forms[
        0
    ]
    return {
        "memory": published.memory_bytes,
        "prefill": published.prefill_tokens_per_s or 0.0,
        "decode": published.decode_tokens_per_s or 0.0,
        "seconds": time.perf_counter() - start,
    }


def forget_file_pages(path: Path) -> None:
    """Takes the pages of the model's files out of this process and starts its peak anew; pages that
    are used come back from the system's cache.
    """
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        if str(path) in line:
            begin, end = (int(address, 16) for address in line.split()[0].split("-"))
            madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_DONTNEED)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def measure(path: Path) -> dict[str, float]:
    """What a load and a generation take."""
    import bobot

    model = bobot.load(path)
    loading = peak_memory_bytes()["peak_bytes"]
    forget_file_pages(path)
    touch_weights(model.model)
    ids = torch.randint(2, 1000, (PROMPT,), generator=torch.Generator().manual_seed(0)).tolist()
    for count, prompt in ((2, ids[::-1][:64]), (NEW, ids)):  # the first is the warm-up
        times = [time.perf_counter()]
        for _ in model.generate(prompt, max_tokens=count, temperature=0.0, ignore_eos=True):
            times.append(time.perf_counter())
    memory = peak_memory_bytes()
    return {
        "memory": memory["peak_bytes"],
        "own": memory["anonymous_bytes"],
        "while loading": loading,
        "prefill": PROMPT / (times[1] - times[0]),
        "decode": (len(times) - 2) / (times[-1] - times[1]),
    }


def compare(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """Medians of predictions and measurements in turn."""
    predicted, measured = [], []
    with tempfile.TemporaryDirectory(prefix="bobot-bench-", dir=args.scratch) as folder:
        path = write_case(Path(folder), name)
        for _ in range(args.runs):
            for worker, results in (("predict", predicted), ("measure", measured)):
                arguments = [f"--worker={worker}", f"--path={path}"]
                arguments += ["--only-memory"] if args.only_memory else []
                results.append(run_worker(__file__, arguments, args.threads))
    return {
        "case": name,
        "predicted": {key: median(run[key] for run in predicted) for key in predicted[0]},
        "measured": {key: median(run[key] for run in measured) for key in measured[0]},
        "runs": {"predicted": predicted, "measured": measured},
    }


def show(results: list[dict[str, Any]]) -> str:
    rows = [
        [
            "case",
            "memory, MiB",
            "",
            "",
            "own",
            "prefill, tokens/s",
            "",
            "",
            "decode, tokens/s",
            "",
            "",
        ]
    ]
    for result in results:
        row = [result["case"]]
        for key, unit in (("memory", 2**20), ("prefill", 1), ("decode", 1)):
            said, found = result["predicted"][key] / unit, result["measured"][key] / unit
            digits = 0 if key == "memory" else 2
            row += [f"{said:.{digits}f}", f"{found:.{digits}f}", f"{said / found - 1:+.0%}"]
            if key == "memory":
                row += [f"{result['measured'][k] / unit:.0f}" for k in ("own", "while loading")]
        rows.append(row)
    return table(rows)


def main() -> None:
    """Parses the command line and prints the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--scratch", help="where the weights go for the time of the run")
    parser.add_argument("--only-memory", action="store_true", help="on a busy machine")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", choices=["predict", "measure"], help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        is_prediction = args.worker == "predict"
        result = predict(args.path, args.only_memory) if is_prediction else measure(args.path)
        print(json.dumps(result))
        return
    machine = describe(args.threads)
    results = [compare(args, name) for name in args.cases]
    if args.json:
        print(json.dumps({"machine": machine, "results": results}, indent=2))
        return
    print(", ".join(f"{name} {value}" for name, value in machine.items()), "\n")
    print(show(results))


if __name__ == "__main__":
    main()
