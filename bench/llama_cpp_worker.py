"""llama.cpp in a process of its own, run by the Python that has llama-cpp-python: no bobot, no torch.

    echo '{"job": "speed", ...}' | build/llama-cpp/bin/python -P bench/llama_cpp_worker.py

One JSON object comes in, one goes out as the last line. (-P: here lies another llama_cpp.py.) Driven through the C
interface as llama.cpp's own llama-bench does it: fixed ids, logits of the last token alone, no
sampler. Jobs: `speed` (see engines.py), `logits`, `nll` and `quantize`.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from collections.abc import Iterable
from typing import Any

import llama_cpp as api
import numpy as np

WARM_UP = 32
"""Tokens of the unmeasured prompt."""


class Context:
    """A loaded model with a KV cache for `rows` sequences of `length` tokens."""

    def __init__(
        self, path: str, *, threads: int, length: int, rows: int = 1, flash: bool = False, **more: Any
    ) -> None:
        api.llama_log_set(_quiet, ctypes.c_void_p(0))
        api.llama_backend_init()
        settings = api.llama_model_default_params()
        settings.n_gpu_layers = 0
        self.model = api.llama_model_load_from_file(path.encode(), settings)
        assert self.model, f"llama.cpp does not load {path}"
        settings = api.llama_context_default_params()
        settings.n_ctx = rows * (length + -length % 256)
        settings.n_batch, settings.n_ubatch = 2048, 512  # its defaults
        settings.n_threads = settings.n_threads_batch = threads
        settings.n_seq_max = rows
        settings.flash_attn_type = int(flash)
        for name, value in more.items():
            setattr(settings, name, value)
        self.context = api.llama_init_from_model(self.model, settings)
        assert self.context, "llama.cpp makes no context"
        self.n_batch = settings.n_batch
        self.memory = api.llama_get_memory(self.context)
        self.vocab_size = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self.model))

    def compute(self, tokens: Iterable[tuple[int, int, int]], every_logit: bool = False) -> None:
        """Runs (id, position, row) in batches of n_batch. Logits: of each row's last token."""
        left = list(tokens)
        while left:
            piece, left = left[: self.n_batch], left[self.n_batch :]
            batch = api.llama_batch_init(len(piece), 0, 1)
            batch.n_tokens = len(piece)
            last = {row: place for place, (_, _, row) in enumerate(piece)}
            for place, (token, position, row) in enumerate(piece):
                batch.token[place], batch.pos[place] = token, position
                batch.n_seq_id[place], batch.seq_id[place][0] = 1, row
                batch.logits[place] = every_logit or last[row] == place
            failed = api.llama_decode(self.context, batch)
            api.llama_synchronize(self.context)
            api.llama_batch_free(batch)
            assert not failed, f"llama_decode: {failed}"

    def forget(self, position: int = 0) -> None:
        """Drops the cache of every row from that position on."""
        api.llama_memory_seq_rm(self.memory, -1, position, -1)

    def logits(self, count: int) -> np.ndarray:
        """Of the last batch: (count, vocab_size)."""
        values = api.llama_get_logits(self.context)
        return np.ctypeslib.as_array(values, shape=(count, self.vocab_size)).copy()


@api.llama_log_callback
def _quiet(level: int, text: bytes, data: Any) -> None:
    """llama.cpp tells a lot while it loads."""


def speed(job: dict[str, Any]) -> dict[str, Any]:
    """Tokens/s of each case in each run: prefill, and decode with the ids after the prompt."""
    rows = len(job["prompts"][0])
    context = Context(
        job["path"],
        threads=job["threads"],
        length=job["length"],
        rows=rows,
        **job["settings"],
    )
    warm_up, *prompts = job["prompts"]
    _timed(context, 0, [ids[:WARM_UP] for ids in warm_up], 2)
    context.forget()
    filled, found = 0, []
    for case in job["cases"]:
        depth, length, new = case["depth"], case["prompt"], case["new"]
        context.compute((job["before"][p], p, 0) for p in range(filled, depth))
        filled, runs = depth, []
        for prompt in prompts:
            runs.append(_timed(context, depth, [ids[: length + new - 1] for ids in prompt], new))
            context.forget(depth)
        found.append({name: [run[name] for run in runs] for name in runs[0]})
    return {"cases": found}


def _timed(context: Context, depth: int, texts: list[list[int]], new: int) -> dict[str, float]:
    """Computes every row's text, the last new - 1 tokens of it one by one: the first new token is
    the one that the prompt gives.
    """
    length, rows = len(texts[0]) - (new - 1), len(texts)
    start = time.perf_counter()
    context.compute((text[p], depth + p, r) for r, text in enumerate(texts) for p in range(length))
    first = time.perf_counter()
    for p in range(length, length + new - 1):
        context.compute((text[p], depth + p, row) for row, text in enumerate(texts))
    end = time.perf_counter()
    figures = {"prefill": rows * length / (first - start)}
    return figures if new == 1 else figures | {"decode": rows * (new - 1) / (end - first)}


JOBS = {"speed": speed}

if __name__ == "__main__":
    job = json.load(sys.stdin)
    print(json.dumps(JOBS[job.pop("job")](job)))
