"""Our Grok-1, read from checkpoints written here, against a second implementation in float64."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grok1_reference as reference
import pytest
import torch
from grok1_reference import CONFIG, random_tree
from safetensors.torch import save_file
from torch import Tensor
from xai_checkpoint import START, STOP, Leaf, array, write_ckpt, write_leaf

import bobot
from bobot.engine import EngineConfig
from bobot.errors import BobotError, ConfigError
from bobot.layers.context import PackedAttention
from bobot.models.grok1 import Grok1
from bobot.models.grok1_dialects import (
    PUBLISHED,
    config_from_gguf,
    config_from_hf,
    config_from_xai,
)
from bobot.quant.weight import QuantWeight
from bobot.weights.load import load_model

IDS = [5, 9, 0, 33, 12, 12, 0, 39, 1, 7, 20, 3]  # two of them padding

HF_CONFIG: dict[str, Any] = {
    "architectures": ["Grok1ModelForCausalLM"],
    "model_type": "grok-1",
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 64,
    "attn_output_multiplier": 0.4,
    "embedding_multiplier_scale": 5.5,
    "output_multiplier_scale": 3.0,
}
GGUF_CONFIG: dict[str, Any] = {
    "grok.embedding_length": 32,
    "grok.feed_forward_length": 32,
    "grok.block_count": 2,
    "grok.attention.head_count": 4,
    "grok.attention.head_count_kv": 2,
    "grok.context_length": 64,
    "grok.expert_count": 8,
    "grok.expert_used_count": 2,
    "grok.attention.layer_norm_rms_epsilon": 1e-5,
}


def source(config: dict[str, Any], **shapes: tuple[int, ...]) -> Any:
    tensors = {name: type("Info", (), {"shape": shape}) for name, shape in shapes.items()}
    return type("Source", (), {"config": config, "tensors": tensors})()


def differences(found: Tensor, tree: dict[str, Leaf]) -> Tensor:
    """Largest difference at each position."""
    expected = torch.from_numpy(reference.logits(tree, CONFIG, IDS))
    return (found.double() - expected).abs().amax(-1)


@pytest.mark.parametrize("form", ["numpy", "jax"])
@pytest.mark.parametrize(
    ("dtype", "is_quantized"),
    [(torch.float32, True), (torch.float32, False), (torch.bfloat16, False)],
    ids=["8-bit", "float32", "bfloat16"],
)
def test_logits_equal_a_float64_implementation(
    tmp_path: Path, form: str, dtype: torch.dtype, is_quantized: bool
) -> None:
    tree = random_tree(dtype, is_quantized=is_quantized)
    model = bobot.load(write_ckpt(tmp_path, tree, CONFIG, form), dtype="float32")
    worst = differences(model.logits(IDS), tree)
    assert worst.max() <= 5e-5, f"max {worst.max():.2e}, median {worst.median():.2e}"
    experts = model.model.model.layers[0].moe_block.experts
    assert isinstance(experts.linear_1, QuantWeight) == is_quantized


@pytest.mark.parametrize("leaf", ["multi_head_attention/key/w", "moe/linear/w", "moe/linear_1/w"])
def test_a_reference_with_one_wrong_weight_is_noticed(tmp_path: Path, leaf: str) -> None:
    tree = random_tree(is_quantized=True)
    model = bobot.load(write_ckpt(tmp_path, tree, CONFIG), dtype="float32")
    weight, scales = tree[f"transformer/decoder_layer_10/{leaf}"]
    assert isinstance(scales, Tensor)
    tree[f"transformer/decoder_layer_10/{leaf}"] = weight, scales.roll(1, -1)
    assert differences(model.logits(IDS), tree).max() > 1e-2


def test_padding_stays_hidden_in_small_chunks_and_cached_blocks(tmp_path: Path) -> None:
    folder = write_ckpt(tmp_path, random_tree(is_quantized=False), CONFIG)
    small = EngineConfig(max_num_batched_tokens=4, block_size=4, max_num_seqs=4)
    model = bobot.load(folder, dtype="float32", engine_config=small)
    expected, ids = [], list(IDS)
    for _ in range(10):
        ids.append(int(model.logits(ids)[-1].argmax()))
        expected.append(ids[-1])
    for is_cached in (False, True):
        pieces = model.generate(IDS, max_tokens=10, temperature=0, ignore_eos=True)
        assert [token for piece in pieces for token in piece.ids] == expected
        assert model.last_stats is not None
        assert (model.last_stats.num_cached_tokens > 0) == is_cached


def test_a_prompt_that_begins_with_padding_gives_numbers(tmp_path: Path) -> None:
    model = bobot.load(write_ckpt(tmp_path, random_tree(is_quantized=True), CONFIG))
    assert model.logits([0, 0, 5, 6]).isfinite().all()


def test_the_router_stays_float32_in_a_bfloat16_model(tmp_path: Path) -> None:
    tree = random_tree(torch.bfloat16, is_quantized=False)
    model, _ = load_model(write_ckpt(tmp_path, tree, CONFIG), dtype="bfloat16")
    layer = model.model.layers[3]
    assert layer.moe_block.gate.weight.dtype == torch.float32
    router = tree["transformer/decoder_layer_3/router/w"]
    assert isinstance(router, Tensor) and torch.equal(layer.moe_block.gate.weight, router.T)
    assert layer.attn.q_proj.weight.dtype == torch.bfloat16


def test_either_folder_can_be_named_and_the_answer_ends_with_token_2(tmp_path: Path) -> None:
    folder = write_ckpt(tmp_path / "checkpoints", random_tree(is_quantized=True), CONFIG)
    for path in (folder, folder / "ckpt-0"):
        _, report = load_model(path)
        assert (report.family, report.dialect) == ("grok1", "xai")
        assert report.generation_config == {"eos_token_id": 2}


def test_gradients_reach_every_parameter() -> None:
    torch.manual_seed(0)
    model = Grok1(config_from_hf(source(HF_CONFIG)))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    ids = torch.arange(30)
    hidden = model(ids, ids, PackedAttention())
    model.logits(hidden).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_folder_without_settings_must_hold_the_released_model(tmp_path: Path) -> None:
    folder = write_ckpt(tmp_path, random_tree(is_quantized=True), None)
    with pytest.raises(ConfigError, match=r"\[40, 32\].*\[131072, 6144\].*config\.json"):
        load_model(folder)
    name = "language_model/in_out_embed/embeddings"
    assert config_from_xai(source({}, **{name: (131072, 6144)})) == PUBLISHED


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_layers": 12}, ["missing", "decoder_layer_11"]),
        ({"num_layers": 10}, ["unexpected", "decoder_layer_10"]),
        ({"num_layers": 2**20}, ["1048576", "134 tensors"]),
        ({"key_size": 4}, ["multi_head_attention/query", "[32, 32]", "[16, 32]"]),
        ({"num_experts": 4}, ["router", "[8, 32]", "[4, 32]"]),
        ({"vocab_size": 41}, ["in_out_embed", "41"]),
        ({"widening_factor": 3}, ["64"]),
    ],
)
def test_settings_of_another_model_are_refused(
    tmp_path: Path, changes: dict[str, Any], words: list[str]
) -> None:
    folder = write_ckpt(tmp_path, random_tree(is_quantized=True), {**CONFIG, **changes})
    with pytest.raises(BobotError) as caught:
        load_model(folder)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("read", "base", "changes", "words"),
    [
        (config_from_xai, CONFIG, {"surprise": 1}, ["surprise"]),
        (config_from_xai, CONFIG, {"model_type": "grok-2"}, ["grok-2", "grok-1"]),
        (config_from_xai, CONFIG, {"ffn_size": 40}, ["ffn_size", "40", "32"]),
        (config_from_xai, CONFIG, {"num_kv_heads": 3}, ["4", "3"]),
        (config_from_xai, CONFIG, {"key_size": 7}, ["7", "even"]),
        (config_from_xai, CONFIG, {"eos_token": "two"}, ["eos_token", "two"]),
        (config_from_xai, CONFIG, {"widening_factor": float("nan")}, ["widening_factor"]),
        (config_from_xai, CONFIG, {"num_selected_experts": 9}, ["9", "8"]),
        (config_from_hf, HF_CONFIG, {"hidden_act": "silu"}, ["silu", "gelu_pytorch_tanh"]),
        (config_from_hf, HF_CONFIG, {"num_experts": None}, ["num_experts", "missing"]),
        (config_from_hf, HF_CONFIG, {"attn_logit_softcapping": 30.0}, ["attn_logit_softcapping"]),
        (config_from_gguf, GGUF_CONFIG, {"grok.final_logit_softcapping": 50.0}, ["50", "0.0"]),
        (config_from_gguf, GGUF_CONFIG, {"grok.rope.scaling.type": "yarn"}, ["yarn", "none"]),
        (config_from_gguf, GGUF_CONFIG, {"grok.attention.temperature_length": 1}, ["temperature"]),
    ],
)
def test_a_wrong_config_is_refused(
    read: Any, base: dict[str, Any], changes: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        read(source({**base, **changes}, **{"token_embd.weight": (40, 32)}))
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_gguf_from_before_the_scale_keys_gets_the_published_scales() -> None:
    config = config_from_gguf(source(GGUF_CONFIG, **{"token_embd.weight": (40, 32)}))
    assert config.attn_output_multiplier == PUBLISHED.attn_output_multiplier
    assert config.embedding_multiplier_scale == PUBLISHED.embedding_multiplier_scale
    assert config.output_multiplier_scale == PUBLISHED.output_multiplier_scale
    assert config.max_attn_value == 30.0 and config.tie_word_embeddings


def test_an_array_in_fortran_order_is_the_same_matrix(tmp_path: Path) -> None:
    tree = random_tree(is_quantized=False)
    folder = write_ckpt(tmp_path, tree, CONFIG)
    expected = bobot.load(folder, dtype="float32").logits(IDS)
    leaf = tree["transformer/decoder_layer_0/moe/linear/w"]
    assert isinstance(leaf, Tensor)
    segments = array(leaf, is_fortran=True)
    assert not any(isinstance(segment, int) for segment in segments)
    data = b"".join(s for s in (START, *segments, STOP) if isinstance(s, bytes))
    path = folder / "ckpt-0" / "tensor00002_000"
    path.write_bytes(data)
    assert torch.equal(bobot.load(folder, dtype="float32").logits(IDS), expected)
    write_leaf(path, leaf.transpose(-1, -2).contiguous())  # the same bytes, called C order
    assert not torch.equal(bobot.load(folder, dtype="float32").logits(IDS), expected)


def test_the_embedding_may_be_stored_apart_from_the_output_in_a_port(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = Grok1(config_from_hf(source({**HF_CONFIG, "tie_word_embeddings": False})))
    weights: dict[str, Tensor] = {}
    for ours, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, std=0.2)
        theirs = ours.replace("norm.weight", "norm.scale")
        if ".experts." in theirs:
            begin, part = theirs.split(".experts.")
            for e, expert in enumerate(parameter.detach()):
                weights[f"{begin}.experts.{e}.{part}.weight"] = expert.clone()
        else:
            weights[theirs] = parameter.detach()
    save_file(weights, tmp_path / "model.safetensors")
    settings = {**HF_CONFIG, "tie_word_embeddings": False, "auto_map": {}}
    (tmp_path / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    loaded, report = load_model(tmp_path)
    for name, parameter in model.named_parameters():
        assert torch.equal(loaded.get_parameter(name), parameter), name
    assert report.num_parameters == sum(p.numel() for p in model.parameters())
