"""gpt-oss in every published form against OpenAI's own code (../shared/parity)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import bobot
from bobot.chat.local import LocalModel
from bobot.ops.rope import inverse_frequencies

MAX_DIFFERENCE = 2e-4
MEDIAN_DIFFERENCE = 3e-5

CASES = [
    ("gptoss", "hf"),
    ("gptoss", "original"),
    ("gptoss", "hf_bf16"),
    ("gguf/gptoss", "hf"),
    ("gguf/gptoss", "model-bf16.gguf"),
]


def differences(model: LocalModel, expected: dict[str, Tensor], i: int, key: str) -> Tensor:
    """The largest difference of each kept position of prompt i."""
    logits = model.logits(expected[f"prompt{i}.ids"].long())
    kept = logits[expected[f"prompt{i}.positions"].long()]
    return (kept - expected[f"prompt{i}.{key}"]).abs().amax(-1)


def assert_equal(found: Tensor) -> None:
    worst, median = found.max().item(), found.median().item()
    assert worst <= MAX_DIFFERENCE and median <= MEDIAN_DIFFERENCE, (
        f"max {worst:.2e} (allowed {MAX_DIFFERENCE:.0e}), "
        f"median {median:.2e} (allowed {MEDIAN_DIFFERENCE:.0e})"
    )


@pytest.mark.parametrize(("case", "form"), CASES, ids=[f"{c}-{f}" for c, f in CASES])
def test_logits_and_greedy_tokens_equal_the_publishers(shared: Path, case: str, form: str) -> None:
    folder = shared / "parity" / case
    expected = load_file(folder / "expected.safetensors")
    model = bobot.load(folder / form, dtype="float32")
    for i in range(3):
        assert_equal(differences(model, expected, i, "logits"))
        prompt, greedy = (expected[f"prompt{i}.{key}"].tolist() for key in ("ids", "greedy"))
        pieces = model.generate(prompt, max_tokens=32, temperature=0, ignore_eos=True)
        found = [token for piece in pieces for token in piece.ids]
        assert found == greedy, f"prompt {i}: {found} is not {greedy}"


def test_greedy_tokens_without_a_cache_are_the_same(shared: Path) -> None:
    folder = shared / "parity" / "gptoss"
    expected = load_file(folder / "expected.safetensors")
    model = bobot.load(folder / "hf", dtype="float32")
    for i in range(2):
        ids = expected[f"prompt{i}.ids"].tolist()
        for token in expected[f"prompt{i}.greedy"].tolist():
            assert model.logits(ids)[-1].argmax().item() == token
            ids.append(token)


def test_rounded_yarn_bounds_are_what_llama_cpp_has_and_not_what_the_publisher_has(
    shared: Path,
) -> None:
    folder = shared / "parity" / "gguf" / "gptoss"
    expected = load_file(folder / "expected.safetensors")
    model = bobot.load(folder / "model-bf16.gguf", dtype="float32")
    apart = [differences(model, expected, i, "logits_yarn_truncated").max() for i in range(3)]
    assert min(apart) > 0.05, f"the rounded form is as near as {min(apart):.2e}"
    rounded = replace(model.config.rope, truncate=True)
    model.model.model.frequencies = inverse_frequencies(rounded, model.config.head_dim)
    for i in range(3):
        assert_equal(differences(model, expected, i, "logits_yarn_truncated"))


def test_experts_stay_packed_as_they_are_in_the_file(shared: Path) -> None:
    folder = shared / "parity" / "gptoss"
    packed, plain = (bobot.load(folder / form) for form in ("hf", "hf_bf16"))
    stored = sum(path.stat().st_size for path in (folder / "hf").glob("*.safetensors"))
    assert packed.num_parameters == plain.num_parameters
    assert abs(packed.report.num_bytes / stored - 1) < 0.05, (packed.report.num_bytes, stored)
    assert packed.report.dtype == plain.report.dtype == torch.bfloat16
