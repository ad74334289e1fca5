"""Grok-1 in every published form against xAI's own code (../shared/parity/grok1)."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grok1_reference as reference
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from xai_checkpoint import Leaf

import bobot
from bobot.models import grok1
from bobot.ops.moe import mixture_of_experts
from bobot.quant.tiles import TileFormat
from bobot.quant.weight import QuantWeight

MAX_DIFFERENCE = 5e-4
MEDIAN_DIFFERENCE = 5e-5

FORMS = {
    "q8_12layers": "grok1/q8_12layers",
    "bf16_2layers": "grok1/bf16_2layers",
    "bf16_2layers, ckpt-0 named": "grok1/bf16_2layers/ckpt-0",
    "bf16_2layers, HPC-AI names": "grok1/bf16_2layers/hf_hpcai",
    "bf16_2layers, jax names": "grok1/bf16_2layers/hf_jaxnames",
    "f32_2layers_jaxpickle": "grok1/f32_2layers_jaxpickle",
}


def expectation(shared: Path, form: str) -> dict[str, Tensor]:
    folder = form.split("/")[:2]
    return load_file(shared / "parity" / "/".join(folder) / "expected.safetensors")


def differences(model: Any, expected: dict[str, Tensor], i: int) -> Tensor:
    """Largest difference at each kept position of prompt i."""
    positions = expected[f"prompt{i}.positions"].long()
    found = model.logits(expected[f"prompt{i}.ids"].long())[positions]
    return (found - expected[f"prompt{i}.logits"]).abs().amax(-1)


def greedy(model: Any, ids: list[int]) -> list[int]:
    pieces = model.generate(ids, max_tokens=32, temperature=0, ignore_eos=True)
    return [token for piece in pieces for token in piece.ids]


def is_within(worst: Tensor) -> bool:
    return worst.max().item() <= MAX_DIFFERENCE and worst.median().item() <= MEDIAN_DIFFERENCE


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_logits_and_greedy_tokens_equal_the_publishers(shared: Path, form: str) -> None:
    expected = expectation(shared, form)
    model = bobot.load(shared / "parity" / form, dtype="float32")
    for i in range(3):
        worst = differences(model, expected, i)
        assert is_within(worst), f"prompt {i}: max {worst.max():.2e}, median {worst.median():.2e}"
        found = greedy(model, expected[f"prompt{i}.ids"].tolist())
        assert found == expected[f"prompt{i}.greedy"].tolist(), f"prompt {i}: {found}"


@pytest.mark.parametrize("form", ["grok1/q8_12layers", "grok1/f32_2layers_jaxpickle"])
def test_greedy_tokens_without_a_cache_are_the_same(shared: Path, form: str) -> None:
    expected = expectation(shared, form)
    model = bobot.load(shared / "parity" / form, dtype="float32")
    ids = expected["prompt1.ids"].tolist()
    for token in expected["prompt1.greedy"].tolist():
        assert model.logits(ids)[-1].argmax().item() == token
        ids.append(token)


def kernel_of(weight: QuantWeight) -> str:
    """The numbers that it holds, as rows or as tiles."""
    if isinstance(weight.format, TileFormat):
        return weight.format.layout.kernel
    return str(weight.parts["values"].dtype).removeprefix("torch.")


def test_eight_bit_weights_stay_as_published(shared: Path) -> None:
    model = bobot.load(shared / "parity" / "grok1" / "q8_12layers", dtype="float32")
    for layer in model.model.model.layers:
        attn, experts = layer.attn, layer.moe_block.experts
        for weight in (attn.q_proj, attn.k_proj, attn.v_proj, attn.o_proj):
            assert kernel_of(weight.weight) == "int8"
        assert kernel_of(experts.linear) == kernel_of(experts.linear_1) == "int8"
        assert experts.linear_1.parts["scales"].shape[-1] == 8
        assert experts.linear_1.parts["scales"].dtype == torch.bfloat16


# The arithmetic of the GGUF is the publisher's, but its embedding is rounded to bf16, which moves
# the logits far more than any tolerance. So it is compared with exact arithmetic on those weights,
# after that arithmetic itself has been compared with the publisher's numbers.


def port_as_tree(folder: Path) -> dict[str, Leaf]:
    """The tensors of the Hugging Face port, in the layout of xAI's tree."""
    stored = load_file(folder / "model.safetensors")
    tree: dict[str, Leaf] = {
        "language_model/in_out_embed/embeddings": stored["model.embed_tokens.weight"],
        "language_model/rms_norm/scale": stored["model.norm.scale"],
    }
    for n in range(2):
        ours, theirs = f"transformer/decoder_layer_{n}/", f"model.layers.{n}."
        for name, port in (("query", "q"), ("key", "k"), ("value", "v"), ("linear", "o")):
            matrix = stored[f"{theirs}attn.{port}_proj.weight"]
            tree[f"{ours}multi_head_attention/{name}/w"] = matrix.T
        tree[f"{ours}router/w"] = stored[f"{theirs}moe_block.gate.weight"].T
        for name in ("linear", "linear_1", "linear_v"):
            experts = [stored[f"{theirs}moe_block.experts.{e}.{name}.weight"].T for e in range(8)]
            tree[f"{ours}moe/{name}/w"] = torch.stack(experts)
        for name, port in (
            ("", "pre_attn"),
            ("_1", "post_attn"),
            ("_2", "pre_moe"),
            ("_3", "post_moe"),
        ):
            tree[f"{ours}rms_norm{name}/scale"] = stored[f"{theirs}{port}_norm.scale"]
    return tree


SETTINGS = {
    **reference.CONFIG,
    "num_layers": 2,
    "key_size": 4,
    "num_q_heads": 16,
    "num_kv_heads": 8,
    "attn_output_multiplier": 0.5,
    "embedding_multiplier_scale": 8.0,
    "output_multiplier_scale": 8.9,
}


def exact(tree: dict[str, Leaf], ids: Tensor) -> Tensor:
    return torch.from_numpy(reference.logits(tree, SETTINGS, ids.tolist())).float()


def test_a_gguf_gives_exact_arithmetic_on_its_rounded_weights(shared: Path) -> None:
    expected = expectation(shared, "gguf/grok1")
    tree = port_as_tree(shared / "parity" / "grok1" / "bf16_2layers" / "hf_hpcai")
    model = bobot.load(shared / "parity" / "gguf" / "grok1" / "model-bf16.gguf", dtype="float32")
    name = "language_model/in_out_embed/embeddings"
    embedding = tree[name]
    assert isinstance(embedding, Tensor)
    for i in range(2):
        ids = expected[f"prompt{i}.ids"].long()
        own = (exact(tree, ids) - expected[f"prompt{i}.logits"]).abs().amax(-1)
        assert is_within(own), f"the float64 implementation: max {own.max():.2e}"
        worst = (
            (model.logits(ids) - exact({**tree, name: embedding.bfloat16()}, ids)).abs().amax(-1)
        )
        assert is_within(worst), f"prompt {i}: max {worst.max():.2e}, median {worst.median():.2e}"
        assert greedy(model, ids.tolist()) == expected[f"prompt{i}.greedy"].tolist()


def test_a_gguf_holds_the_checkpoints_weights_unpermuted(shared: Path) -> None:
    theirs = bobot.load(shared / "parity" / "gguf" / "grok1" / "model-bf16.gguf", dtype="float32")
    ours = bobot.load(shared / "parity" / "grok1" / "bf16_2layers", dtype="float32")
    for name, parameter in ours.model.named_parameters():
        expected = parameter.bfloat16().float() if "embed" in name else parameter
        assert torch.equal(theirs.model.get_parameter(name), expected), name


def erf_gelu(x: Tensor, approximate: str = "none") -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / 2**0.5))


def adjacent_pairs(x_TNH: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    even, odd = x_TNH[..., ::2], x_TNH[..., 1::2]
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2)


def renormalised(x: Tensor, experts: Tensor, weights: Tensor, run: Callable) -> Tensor:
    weights = weights / weights.sum(-1, keepdim=True)
    return mixture_of_experts(x, experts, weights, run)


def without_post_norms(
    layer: Any, x: Tensor, cos: Tensor, sin: Tensor, hidden: Tensor, n: int, attn: Any
) -> Tensor:
    x = x + layer.attn(layer.pre_attn_norm(x), cos, sin, hidden, n, attn)
    return x + layer.moe_block(layer.pre_moe_norm(x))


MISTAKES: dict[str, tuple[Any, str, Any]] = {
    "exact erf gelu": (F, "gelu", erf_gelu),
    "adjacent rotary pairs": (grok1, "apply_rope", adjacent_pairs),
    "renormalised gates": (grok1, "mixture_of_experts", renormalised),
    "no post norms": (grok1.Grok1Layer, "forward", without_post_norms),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_step_would_be_noticed(
    shared: Path, monkeypatch: pytest.MonkeyPatch, mistake: str
) -> None:
    expected = expectation(shared, "grok1/bf16_2layers")
    model = bobot.load(shared / "parity" / "grok1" / "bf16_2layers", dtype="float32")
    monkeypatch.setattr(*MISTAKES[mistake])
    worst = differences(model, expected, 2)
    assert not is_within(worst), f"max {worst.max():.2e}, median {worst.median():.2e}"


@pytest.mark.parametrize(
    "change",
    [
        {"max_attn_value": 1e9},
        {"embedding_multiplier_scale": 1.0},
        {"pad_token_id": -1},
        {"attn_output_multiplier": 4**-0.25},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_wrong_setting_would_be_noticed(shared: Path, change: dict[str, Any]) -> None:
    expected = expectation(shared, "grok1/bf16_2layers")
    model = bobot.load(shared / "parity" / "grok1" / "bf16_2layers", dtype="float32")
    wrong = grok1.Grok1(replace(model.config, **change))
    wrong.load_state_dict(model.model.state_dict())
    model.model = wrong
    worst = differences(model, expected, 1)
    assert not is_within(worst), f"max {worst.max():.2e}, median {worst.median():.2e}"


def test_the_publishers_folders_load_with_the_tokenizer_above_them(
    shared: Path, tmp_path: Path
) -> None:
    parity = shared / "parity"
    checkpoints = tmp_path / "grok-1" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "ckpt-0").symlink_to(parity / "grok1" / "bf16_2layers" / "ckpt-0")
    shutil.copy(parity / "grok1" / "bf16_2layers" / "config.json", checkpoints)
    shutil.copy(parity / "gguf" / "grok1" / "hf" / "tokenizer.model", tmp_path / "grok-1")
    answers = []
    for path in (checkpoints, checkpoints / "ckpt-0"):
        model = bobot.load(path)
        assert model.tokenizer is not None and model.tokenizer.eos_ids == {2}
        answers.append("".join(model.generate("Hello", max_tokens=8, temperature=0)))
    assert answers[0] == answers[1] != ""


def test_a_prompt_for_the_released_grok_gets_no_bos(shared: Path, tmp_path: Path) -> None:
    packed = shared / "parity" / "tokenizers" / "grok1" / "tokenizer.model.gz"
    (tmp_path / "tokenizer.model").write_bytes(gzip.decompress(packed.read_bytes()))
    (tmp_path / "ckpt-0").mkdir()
    (tmp_path / "ckpt-0" / "tensor00000_000").touch()
    for path in (tmp_path, tmp_path / "ckpt-0"):
        tokenizer = bobot.load_tokenizer(path)
        assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_ids) == (131072, 1, {2})
        assert not tokenizer.adds_bos
