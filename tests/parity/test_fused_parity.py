"""Grok-1 and Kimi K2 in every published form through the step in one C++ call, against the
publishers' own code (../shared/parity): prompts whole, in chunks and beside decoding sequences.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import bobot
from bobot import kernels
from bobot.engine.fused import FusedDecoder, fused_decoder
from bobot.engine.kv_cache import KVCache

pytestmark = pytest.mark.skipif(not kernels.available, reason="the extension is not built")

GROK, KIMI = (5e-4, 5e-5), (2e-4, 3e-5)  # largest and median difference, as without the kernels
FORMS = {  # checkpoint -> expectation, tolerance
    "grok1/q8_12layers": ("grok1/q8_12layers/expected.safetensors", GROK),
    "grok1/bf16_2layers": ("grok1/bf16_2layers/expected.safetensors", GROK),
    "grok1/bf16_2layers/hf_hpcai": ("grok1/bf16_2layers/expected.safetensors", GROK),
    "grok1/bf16_2layers/hf_jaxnames": ("grok1/bf16_2layers/expected.safetensors", GROK),
    "grok1/f32_2layers_jaxpickle": ("grok1/f32_2layers_jaxpickle/expected.safetensors", GROK),
    "kimi_k2/hf_bf16": ("kimi_k2/hf_bf16.expected.safetensors", KIMI),
    "kimi_k2/hf_fp8": ("kimi_k2/hf_fp8.expected.safetensors", KIMI),
    "kimi_k2/hf_int4": ("kimi_k2/hf_int4.expected.safetensors", KIMI),
    "gguf/kimi_k2/hf": ("gguf/kimi_k2/expected.safetensors", KIMI),
    "gguf/kimi_k2/model-bf16.gguf": ("gguf/kimi_k2/expected.safetensors", KIMI),
}
ISAS = [name for name, usable in kernels.features().items() if usable] if kernels.available else []
CASES = [(form, isa) for form in FORMS for isa in ISAS]
if "portable" in ISAS:  # without tiles: scales of 128 rows would belong to two experts of 64
    CASES.remove(("kimi_k2/hf_fp8", "portable"))
BLOCK_SIZE, ANSWER = 16, 32
CHUNKS = [(4, 0, 0), (1, 20, 0), (1, 1, 60), (0, 500, 1), (0, 0, 500)]
"""Tokens of each of three prompts in a step, as far as it has so many."""


class Batch:
    """Sequences in a cache of their own."""

    def __init__(self, model: Any, prompts: list[list[int]]) -> None:
        self.ids = [list(ids) for ids in prompts]
        self.done = [0] * len(prompts)
        sizes = [-(-(len(ids) + ANSWER) // BLOCK_SIZE) for ids in prompts]
        cache = KVCache(
            model.kv_specs(), sum(sizes), BLOCK_SIZE, torch.float32, torch.device("cpu")
        )
        blocks = iter(range(sum(sizes)))
        self.tables = [[next(blocks) for _ in range(size)] for size in sizes]
        decoder = fused_decoder(model, cache)
        assert decoder is not None
        self.decoder: FusedDecoder = decoder

    def step(self, counts: tuple[int, ...]) -> list[Tensor]:
        """The logits (count, V) of the next tokens of each sequence."""
        chunks, sizes = [], []
        for n, count in enumerate(counts):
            ids = self.ids[n][self.done[n] : self.done[n] + count]
            chunks.append((self.done[n], ids, self.tables[n]))
            sizes.append(len(ids))
            self.done[n] += len(ids)
        logits = torch.empty(sum(sizes), self.decoder.vocab_size)
        self.decoder.native.step(chunks, list(range(sum(sizes))), logits.numpy(), 2)
        return list(logits.split(sizes))


@pytest.mark.parametrize(("form", "isa"), CASES)
@torch.inference_mode()
def test_logits_and_greedy_tokens_equal_the_publishers(
    shared: Path, form: str, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOBOT_ISA", isa)
    name, (most, median) = FORMS[form]
    expected = load_file(shared / "parity" / name)
    model: Any = bobot.load(shared / "parity" / form, dtype="float32").model
    batch = Batch(model, [expected[f"prompt{i}.ids"].tolist() for i in range(3)])
    steps = [batch.step(counts) for counts in CHUNKS]
    assert batch.done == [len(ids) for ids in batch.ids]
    last = []
    for i in range(3):
        logits_TV = torch.cat([step[i] for step in steps])
        found = logits_TV[expected[f"prompt{i}.positions"].long()]
        difference = (found - expected[f"prompt{i}.logits"]).abs().amax(-1)
        assert difference.max() <= most and difference.median() <= median, (
            f"prompt {i}: max {difference.max():.2e}, median {difference.median():.2e}"
        )
        last.append(logits_TV[-1:])
    for _ in range(ANSWER):
        for ids, logits in zip(batch.ids, last, strict=True):
            ids.append(int(logits[-1].argmax()))
        last = batch.step((1, 1, 1))
    for i, ids in enumerate(batch.ids):
        assert ids[-ANSWER:] == expected[f"prompt{i}.greedy"].tolist(), f"prompt {i}"
