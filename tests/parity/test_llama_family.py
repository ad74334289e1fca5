"""Every published form of Llama, Mistral and Mixtral against its publisher (../shared/parity)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import bobot

MAX_DIFFERENCE = 2e-4
MEDIAN_DIFFERENCE = 3e-5

FORMS = {  # folder of the expectation -> the forms that hold the same model, key suffix
    "llama3": ("hf", "meta", "meta_mp2"),
    "llama3_short": ("hf",),
    "llama2": ("hf", "meta", "meta_mp2"),
    "llama2_mha": ("hf", "meta"),
    "mistral": ("hf", "native"),
    "mistral_v3": ("hf", "native"),
    "mixtral": ("hf", "native"),
    "gguf/mixtral": ("model-bf16.gguf",),
    "gguf/llama3": ("hf", "model-f32.gguf", "model-f16.gguf", "model-bf16.gguf"),
    "gguf/llama3_quantised": ("model-Q8_0.gguf", "model-Q4_K_M.gguf"),
}
CASES = [(case, form) for case, forms in FORMS.items() for form in forms]


def prompts(
    expected: dict[str, Tensor], suffix: str
) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Number, ids, (positions, logits) and greedy tokens of each prompt."""
    for i in range(3):
        if f"prompt{i}.ids" in expected:
            at = expected[f"prompt{i}.positions"].long()
            logits = expected[f"prompt{i}.logits{suffix}"]
            yield i, expected[f"prompt{i}.ids"].long(), torch.stack([at]), logits


def suffix_of(form: str) -> str:
    name = Path(form).stem.removeprefix("model-")
    return f"_{name}" if name.startswith("Q") else ""


@pytest.mark.parametrize(("case", "form"), CASES, ids=[f"{c}-{f}" for c, f in CASES])
def test_logits_and_greedy_tokens_equal_the_publishers(shared: Path, case: str, form: str) -> None:
    folder = shared / "parity" / case
    expected = load_file(folder / "expected.safetensors")
    suffix = suffix_of(form)
    model = bobot.load(folder / form, dtype="float32")
    for i, ids, positions, logits in prompts(expected, suffix):
        difference = (model.logits(ids)[positions[0]] - logits).abs().amax(-1)
        worst, median = difference.max().item(), difference.median().item()
        assert worst <= MAX_DIFFERENCE and median <= MEDIAN_DIFFERENCE, (
            f"prompt {i}: max {worst:.2e} (allowed {MAX_DIFFERENCE:.0e}), "
            f"median {median:.2e} (allowed {MEDIAN_DIFFERENCE:.0e})"
        )
        greedy = expected[f"prompt{i}.greedy{suffix}"].tolist()
        pieces = model.generate(ids.tolist(), max_tokens=32, temperature=0, ignore_eos=True)
        found = [token for piece in pieces for token in piece.ids]
        assert found == greedy, f"prompt {i}: {found} is not {greedy}"


@pytest.mark.parametrize("case", ["llama3", "mistral"])
def test_greedy_tokens_without_a_cache_are_the_same(shared: Path, case: str) -> None:
    folder = shared / "parity" / case
    expected = load_file(folder / "expected.safetensors")
    model = bobot.load(folder / "hf", dtype="float32")
    ids = expected["prompt1.ids"].tolist()
    for token in expected["prompt1.greedy"].tolist():
        assert model.logits(ids)[-1].argmax().item() == token
        ids.append(token)


@pytest.mark.parametrize("form", ["", "stories260K-f32.gguf"])
def test_a_trained_model_tells_the_story_its_author_published(shared: Path, form: str) -> None:
    folder = shared / "weights" / "stories260K"
    model = bobot.load(folder / form, dtype="float32")
    for story in json.loads((folder / "expected.json").read_text(encoding="utf-8")):
        assert model.encode(story["prompt"]) == story["prompt_ids"]
        num_tokens = len(story["greedy_ids"])
        pieces = list(
            model.generate(story["prompt"], max_tokens=num_tokens, temperature=0, ignore_eos=True)
        )
        assert [token for piece in pieces for token in piece.ids] == story["greedy_ids"]
        assert story["prompt"] + "".join(pieces) == story["text"]


@pytest.mark.parametrize(
    ("form", "allowed"),
    [("", 1e-5), ("stories260K-f32.gguf", 1e-5), ("stories260K-f16.gguf", 2e-3)],
)
def test_the_likelihood_of_a_published_story_is_the_same(
    shared: Path, form: str, allowed: float
) -> None:
    folder = shared / "weights" / "stories260K"
    model = bobot.load(folder / form, dtype="float32")
    for story in json.loads((folder / "expected.json").read_text(encoding="utf-8")):
        ids = story["prompt_ids"] + story["greedy_ids"]
        logits = model.logits(ids)[:-1]
        nll = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:])).item()
        assert abs(nll - story["mean_nll"]) <= allowed, f"{nll} is not {story['mean_nll']}"
