"""bobot in a process of its own, as a user gets it: `bobot.load` and its engine, greedy.

One JSON object comes in at the standard input, one goes out as the last line; see
llama_cpp_worker.py, which does the same with the same ids. Jobs: `limits`, `speed` and `nll`.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
from machine import measure_limits

import bobot
from bobot.engine import Engine, EngineConfig, SamplingParams

WARM_UP = 32
"""Tokens of the unmeasured prompt."""
FORCING = 100.0
"""The largest bias of a logit that the sampler takes."""


def limits(job: dict[str, Any]) -> dict[str, float]:
    return measure_limits(job["threads"])


def speed(job: dict[str, Any]) -> dict[str, Any]:
    """Tokens/s of each case in each run: prefill, and decode of our own tokens."""
    rows = len(job["prompts"][0])
    # Room for two sequences a row: the one before must not push the shared depth out of the cache.
    # No speculation: it would find the loops of a model with random weights.
    config = EngineConfig(max_num_seqs=2 * rows, max_model_len=job["length"] + 1, speculation="off")
    options = {"dtype": job["dtype"], "activations": job.get("activations")}
    engine = bobot.load(job["path"], engine_config=config, **options).engine
    warm_up, *prompts = job["prompts"]
    _timed(engine, [ids[:WARM_UP] for ids in warm_up], 2)
    found = []
    for case in job["cases"]:
        before, length, new = job["before"][: case["depth"]], case["prompt"], case["new"]
        if before:
            _timed(engine, [[*before, 0]], 1)
        runs = [
            # The last ids, so that no case begins as another did and finds it in the cache.
            _timed(engine, [before + ids[-length:] for ids in prompt], new, len(before))
            for prompt in prompts
        ]
        found.append({name: [run[name] for run in runs] for name in runs[0]})
    return {"cases": found}


def _timed(
    engine: Engine, texts: list[list[int]], new: int, depth: int | None = None
) -> dict[str, float]:
    """One prompt and its decode in every row; `depth` of its tokens come from the cache."""
    params = SamplingParams(temperature=0.0, max_tokens=new, ignore_eos=True)
    start = time.perf_counter()
    waiting = {engine.add(text, params) for text in texts}
    times, counts = [], []
    while engine.has_unfinished():
        outputs = engine.step()
        assert all(output.num_cached_tokens == (depth or 0) for output in outputs) or depth is None
        waiting -= {output.request_id for output in outputs}
        if outputs and not waiting:  # every row has its first token
            times.append(time.perf_counter())
            counts.append(len(outputs))
    figures = {"prefill": sum(len(text) - (depth or 0) for text in texts) / (times[0] - start)}
    return figures if new == 1 else figures | {"decode": sum(counts[1:]) / (times[-1] - times[0])}


def nll(job: dict[str, Any]) -> dict[str, float]:
    """Mean negative log-likelihood per token, in nats: of whole texts at once, and of the first
    `job["decoded"]` texts token by token through the engine, as a user's tokens come.
    """
    config = EngineConfig(block_size=1, speculation="off")
    options = {"dtype": job["dtype"], "activations": job.get("activations")}
    model = bobot.load(job["path"], engine_config=config, **options)
    whole = [
        -torch.log_softmax(model.logits(ids)[:-1].double(), -1)
        .gather(1, torch.tensor(ids[1:])[:, None])
        .mean()
        .item()
        for ids in job["texts"]
    ]
    texts = job["texts"][: job["decoded"]]
    decoded = [_forced(model.engine, ids) for ids in texts]
    return {
        "whole": sum(whole) / len(whole),
        "whole of decoded": sum(whole[: len(texts)]) / len(texts),
        "decoded": sum(decoded) / len(decoded),
    }


def _forced(engine: Engine, ids: list[int]) -> float:
    """Each token asked for behind the ones before, which are in the cache: one token a step. The
    bias makes the next one sure; the log-probability is told without it.
    """
    total = 0.0
    for place, token in enumerate(ids[1:], 1):
        params = SamplingParams(
            temperature=0.0, max_tokens=1, ignore_eos=True, logprobs=0, logit_bias={token: FORCING}
        )
        engine.add(ids[:place], params)
        (output,) = engine.step()
        assert output.token_id == token and output.logprob is not None
        assert output.num_cached_tokens == place - 1
        total -= output.logprob
    return total / (len(ids) - 1)


JOBS = {"limits": limits, "speed": speed, "nll": nll}

if __name__ == "__main__":
    job = json.load(sys.stdin)
    torch.set_num_threads(job["threads"])
    print(json.dumps(JOBS[job.pop("job")](job)))
