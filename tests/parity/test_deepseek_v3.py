"""Kimi K2 in every published form against transformers' DeepSeek-V3 (../shared/parity)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import bobot
from bobot.quant.weight import QuantWeight

MAX_DIFFERENCE = 2e-4
MEDIAN_DIFFERENCE = 3e-5

FORMS = {  # checkpoint -> expectation
    "kimi_k2/hf_bf16": "kimi_k2/hf_bf16.expected.safetensors",
    "kimi_k2/hf_fp8": "kimi_k2/hf_fp8.expected.safetensors",
    "kimi_k2/hf_int4": "kimi_k2/hf_int4.expected.safetensors",
    "gguf/kimi_k2/hf": "gguf/kimi_k2/expected.safetensors",
    "gguf/kimi_k2/model-bf16.gguf": "gguf/kimi_k2/expected.safetensors",
}


@pytest.mark.parametrize("form", FORMS)
def test_logits_and_greedy_tokens_equal_the_publishers(shared: Path, form: str) -> None:
    expected = load_file(shared / "parity" / FORMS[form])
    model = bobot.load(shared / "parity" / form, dtype="float32")
    for i in range(3):
        ids = expected[f"prompt{i}.ids"].tolist()
        positions = expected[f"prompt{i}.positions"].long()
        found = model.logits(ids)[positions]
        difference = (found - expected[f"prompt{i}.logits"]).abs().amax(-1)
        worst, median = difference.max().item(), difference.median().item()
        assert worst <= MAX_DIFFERENCE and median <= MEDIAN_DIFFERENCE, (
            f"prompt {i}: max {worst:.2e} (allowed {MAX_DIFFERENCE:.0e}), "
            f"median {median:.2e} (allowed {MEDIAN_DIFFERENCE:.0e})"
        )
        pieces = model.generate(ids, max_tokens=32, temperature=0, ignore_eos=True)
        tokens = [token for piece in pieces for token in piece.ids]
        greedy = expected[f"prompt{i}.greedy"].tolist()
        assert tokens == greedy, f"prompt {i}: {tokens} is not {greedy}"


@pytest.mark.parametrize("form", FORMS)
def test_greedy_tokens_without_a_cache_are_the_same(shared: Path, form: str) -> None:
    expected = load_file(shared / "parity" / FORMS[form])
    model = bobot.load(shared / "parity" / form, dtype="float32")
    ids = expected["prompt1.ids"].tolist()
    for token in expected["prompt1.greedy"].tolist():
        assert model.logits(ids)[-1].argmax().item() == token
        ids.append(token)


def test_fp8_and_int4_weights_stay_packed(shared: Path) -> None:
    """What is packed in the file is packed in memory; the rest keeps its dtype."""
    for form, packed, plain in (
        ("hf_fp8", "self_attn.o_proj.weight", "self_attn.kv_b_proj.weight"),
        ("hf_int4", "mlp.experts.down_proj", "self_attn.kv_b_proj.weight"),
    ):
        model = bobot.load(shared / "parity" / "kimi_k2" / form)
        assert model.dtype == torch.bfloat16, form
        layer = model.model.model.layers[1]
        for name, kind in ((packed, QuantWeight), (plain, torch.Tensor)):
            path, _, leaf = name.rpartition(".")
            weight = getattr(layer.get_submodule(path), leaf)
            assert isinstance(weight, kind), f"{form}: {name} is {type(weight).__name__}"
        assert layer.mlp.gate.e_score_correction_bias.dtype == torch.float32
