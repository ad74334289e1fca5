"""vLLM on the CPU in a process of its own, run by the Python that has it, without bobot.

Job `speed` as in bobot_worker.py; `path` is a folder with nothing but a config.json, as the weights
are vLLM's own dummies: the speed of dense matrices does not depend on what is in them.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib import import_module
from typing import Any

WARM_UP = 32
"""Tokens of the unmeasured prompt."""


def speed(job: dict[str, Any]) -> dict[str, Any]:
    """Tokens/s of each case in each run: prefill, and decode of vLLM's own tokens."""
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    vllm: Any = import_module("vllm")
    engine = vllm.LLM(
        job["path"],
        load_format="dummy",
        skip_tokenizer_init=True,
        dtype="bfloat16",
        max_model_len=job["length"] + 1,
        max_num_seqs=max(len(job["prompts"][0]), 2),
        enable_prefix_caching=False,
        enforce_eager=True,
    ).llm_engine
    warm_up, *prompts = job["prompts"]
    _timed(vllm, engine, [ids[:WARM_UP] for ids in warm_up], 2)
    found = []
    for case in job["cases"]:
        runs = [
            _timed(vllm, engine, [ids[: case["prompt"]] for ids in prompt], case["new"])
            for prompt in prompts
        ]
        found.append({name: [run[name] for run in runs] for name in runs[0]})
    return {"cases": found}


def _timed(vllm: Any, engine: Any, texts: list[list[int]], new: int) -> dict[str, float]:
    """One prompt and its decode in every row."""
    params = vllm.SamplingParams(temperature=0.0, max_tokens=new, ignore_eos=True, detokenize=False)
    start = time.perf_counter()
    for row, text in enumerate(texts):
        engine.add_request(str(row), {"prompt_token_ids": text}, params)
    lengths = dict.fromkeys(map(str, range(len(texts))), 0)
    times, counts = [], []
    while engine.has_unfinished_requests():
        for output in engine.step():
            lengths[output.request_id] = len(output.outputs[0].token_ids)
        if all(lengths.values()):  # every row has its first token
            times.append(time.perf_counter())
            counts.append(sum(lengths.values()))
    figures = {"prefill": sum(map(len, texts)) / (times[0] - start)}
    if new == 1:
        return figures
    return figures | {"decode": (counts[-1] - counts[0]) / (times[-1] - times[0])}


if __name__ == "__main__":
    job = json.load(sys.stdin)
    assert job.pop("job") == "speed"
    print(json.dumps(speed(job)))
