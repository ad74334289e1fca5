"""llama.cpp in a process of its own, run by the Python that has llama-cpp-python, without bobot.

    echo '{"job": "speed", ...}' | build/llama-cpp/bin/python -P bench/llama_cpp_worker.py

One JSON object comes in, one goes out as the last line. Driven through the C interface as
llama.cpp's own llama-bench does it: fixed ids, logits of the last token alone, no sampler. Jobs:
`speed` (peers.py), `replay` (speculation.py), `logits` (llama_cpp.py), `nll` and `quantize`
(perplexity.py).
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from collections.abc import Iterable
from importlib import import_module
from typing import Any

import numpy as np

api: Any = import_module("llama_cpp")
"""The installed package; -P keeps the llama_cpp.py of this folder out of the way."""

WARM_UP = 32
"""Tokens of the unmeasured prompt."""


class Context:
    """A loaded model with a KV cache for `rows` sequences of `length` tokens."""

    def __init__(
        self,
        path: str,
        *,
        threads: int,
        length: int,
        rows: int = 1,
        flash: bool = False,
        **more: Any,
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

    def every_logit(self, ids: list[int]) -> np.ndarray:
        """Of one text, computed at once: float32 (tokens, vocab_size)."""
        assert len(ids) <= self.n_batch
        self.forget()
        self.compute(((token, p, 0) for p, token in enumerate(ids)), every_logit=True)
        values = api.llama_get_logits(self.context)
        return np.ctypeslib.as_array(values, shape=(len(ids), self.vocab_size)).copy()


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


def replay(job: dict[str, Any]) -> dict[str, Any]:
    """Tokens/s of writing given answers, with drafts from n-grams of the text so far
    (llama-cpp-python's prompt lookup) or without: every token and draft is computed, and a draft is
    right if the answer has it there. As steered in speculation.py.
    """
    length = max(len(prompt) + len(answer) for prompt, answer in job["texts"])
    context = Context(job["path"], threads=job["threads"], length=length + 32, **job["settings"])
    found = []
    for prompt, answer in job["texts"]:
        text = np.array(prompt + answer, dtype=np.intc)
        runs = []
        for _ in range(job["repeat"] + 1):  # the first one is the warm-up
            context.forget()
            context.compute((token, p, 0) for p, token in enumerate(prompt))
            known, steps, start = len(prompt) + 1, 0, time.perf_counter()
            while known < len(text):
                drafts = _lookup(text[:known]) if job["drafts"] else []
                batch = [int(text[known - 1]), *map(int, drafts)]
                positions = enumerate(batch, known - 1)
                context.compute(((token, p, 0) for p, token in positions), every_logit=True)
                right = 0
                while (
                    right < len(drafts) and drafts[right] == text[min(known + right, len(text) - 1)]
                ):
                    right += 1
                known, steps = min(known + right + 1, len(text)), steps + 1
                context.forget(known - 1)
            runs.append((len(answer) - 1) / (time.perf_counter() - start))
        found.append({"tokens_per_s": runs[1:], "tokens_per_step": (len(answer) - 1) / steps})
    return {"cases": found}


def _lookup(ids: np.ndarray) -> np.ndarray:
    speculative = import_module("llama_cpp.llama_speculative")
    return speculative.LlamaPromptLookupDecoding()(ids)


def logits(job: dict[str, Any]) -> dict[str, Any]:
    """Writes every logit of every text to the .npz `job["out"]`, float32 (tokens, vocab_size)."""
    context = _reader(job, type_k=api.GGML_TYPE_F32, type_v=api.GGML_TYPE_F32, swa_full=True)
    np.savez(job["out"], *(context.every_logit(ids) for ids in job["texts"]))
    return {}


def nll(job: dict[str, Any]) -> dict[str, float]:
    """Mean negative log-likelihood per token of the texts, in nats: the mean of their means."""
    context = _reader(job)
    means = []
    for ids in job["texts"]:
        values = context.every_logit(ids)[:-1].astype(np.float64)
        values -= values.max(-1, keepdims=True)
        chosen = values[np.arange(len(values)), ids[1:]]
        means.append(float((np.log(np.exp(values).sum(-1)) - chosen).mean()))
    decoded = means[: job["decoded"]]
    return {"whole": sum(means) / len(means), "whole of decoded": sum(decoded) / len(decoded)}


def _reader(job: dict[str, Any], **settings: Any) -> Context:
    length = max(len(ids) for ids in job["texts"])
    return Context(job["path"], threads=job["threads"], length=length, n_ubatch=2048, **settings)


def quantize(job: dict[str, Any]) -> dict[str, Any]:
    """Writes the GGUF `job["path"]` to `job["out"]` in a type of llama.cpp's, as llama-quantize."""
    settings = api.llama_model_quantize_default_params()
    settings.ftype = getattr(api, f"LLAMA_FTYPE_MOSTLY_{job['form']}")
    settings.allow_requantize = True
    settings.nthread = job["threads"]
    api.llama_log_set(_quiet, ctypes.c_void_p(0))
    failed = api.llama_model_quantize(job["path"].encode(), job["out"].encode(), settings)
    assert not failed, f"llama_model_quantize: {failed}"
    return {}


JOBS = {"speed": speed, "replay": replay, "logits": logits, "nll": nll, "quantize": quantize}

if __name__ == "__main__":
    job = json.load(sys.stdin)
    print(json.dumps(JOBS[job.pop("job")](job)))
