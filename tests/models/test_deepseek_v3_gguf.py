"""Kimi K2 as GGUF, written here with the gguf package: quantized, older and wrong files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType as Type
from tiny_deepseek_v3 import Tensors, expected_logits, logits_of, weights

from bobot.errors import CheckpointError, ConfigError
from bobot.models.deepseek_v3_dialects import config_from_gguf
from bobot.quant.weight import QuantWeight
from bobot.weights.load import load_model

HEADER: dict[str, Any] = {
    "block_count": 2,
    "context_length": 512,
    "embedding_length": 160,
    "feed_forward_length": 96,
    "attention.head_count": 4,
    "attention.head_count_kv": 1,
    "attention.key_length": 48,
    "attention.value_length": 32,
    "attention.key_length_mla": 48,
    "attention.value_length_mla": 24,
    "attention.q_lora_rank": 64,
    "attention.kv_lora_rank": 32,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "rope.dimension_count": 16,
    "rope.freq_base": 50000.0,
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 32.0,
    "rope.scaling.original_context_length": 16,
    "rope.scaling.yarn_beta_fast": 1.0,
    "rope.scaling.yarn_beta_slow": 1.0,
    "rope.scaling.yarn_log_multiplier": 0.1,
    "leading_dense_block_count": 1,
    "expert_count": 6,
    "expert_used_count": 3,
    "expert_group_count": 3,
    "expert_group_used_count": 2,
    "expert_gating_func": 2,
    "expert_feed_forward_length": 64,
    "expert_shared_count": 1,
    "expert_weights_scale": 2.827,
    "expert_weights_norm": True,
    "vocab_size": 97,
}
LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.o_proj": "attn_output",
    "mlp.gate": "ffn_gate_inp",
    **{f"mlp.{part}_proj": f"ffn_{part}" for part in ("gate", "up", "down")},
    **{f"mlp.shared_experts.{part}_proj": f"ffn_{part}_shexp" for part in ("gate", "up", "down")},
}


def in_gguf(tensors: Tensors) -> Tensors:
    """The tensors under llama.cpp's names: experts stacked, kv_b_proj in its two halves."""
    theirs = {
        "token_embd.weight": tensors["model.embed_tokens.weight"],
        "output_norm.weight": tensors["model.norm.weight"],
        "output.weight": tensors["lm_head.weight"],
        "blk.1.exp_probs_b.bias": tensors["model.layers.1.mlp.gate.e_score_correction_bias"],
    }
    for n in range(2):
        for ours, name in LAYER.items():
            if f"model.layers.{n}.{ours}.weight" in tensors:
                theirs[f"blk.{n}.{name}.weight"] = tensors[f"model.layers.{n}.{ours}.weight"]
        kv_b = tensors[f"model.layers.{n}.self_attn.kv_b_proj.weight"].view(4, 56, 32)
        theirs[f"blk.{n}.attn_k_b.weight"] = kv_b[:, :32].transpose(1, 2).contiguous()
        theirs[f"blk.{n}.attn_v_b.weight"] = kv_b[:, 32:].contiguous()
    for part in ("gate", "up", "down"):
        theirs[f"blk.1.ffn_{part}_exps.weight"] = torch.stack(
            [tensors[f"model.layers.1.mlp.experts.{e}.{part}_proj.weight"] for e in range(6)]
        )
    return theirs


def from_gguf(theirs: Tensors) -> Tensors:
    """The inverse of `in_gguf`."""
    tensors = {
        "model.embed_tokens.weight": theirs["token_embd.weight"],
        "model.norm.weight": theirs["output_norm.weight"],
        "lm_head.weight": theirs["output.weight"],
        "model.layers.1.mlp.gate.e_score_correction_bias": theirs["blk.1.exp_probs_b.bias"],
    }
    for n in range(2):
        for ours, name in LAYER.items():
            if f"blk.{n}.{name}.weight" in theirs:
                tensors[f"model.layers.{n}.{ours}.weight"] = theirs[f"blk.{n}.{name}.weight"]
        key, value = (theirs[f"blk.{n}.attn_{part}_b.weight"] for part in "kv")
        tensors[f"model.layers.{n}.self_attn.kv_b_proj.weight"] = torch.cat(
            (key.transpose(1, 2), value), dim=1
        ).flatten(0, 1)
    for part in ("gate", "up", "down"):
        for e, expert in enumerate(theirs[f"blk.1.ffn_{part}_exps.weight"]):
            tensors[f"model.layers.1.mlp.experts.{e}.{part}_proj.weight"] = expert
    return tensors


def write(path: Path, header: dict[str, Any], theirs: Tensors, kind: Type) -> Tensors:
    """The file, matrices of 32 or more columns as `kind`; what they then mean."""
    writer = gguf.GGUFWriter(path, "deepseek2")
    for key, value in header.items():
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
        add.get(type(value), writer.add_string)(f"deepseek2.{key}", value)
    meaning = {}
    for name, tensor in theirs.items():
        values = tensor.numpy()
        if tensor.ndim == 1 or "ffn_gate_inp" in name or tensor.shape[-1] % 32:
            writer.add_tensor(name, values)
        else:
            data = gguf.quants.quantize(values, kind)
            writer.add_tensor(name, data, raw_dtype=kind)
            values = gguf.quants.dequantize(data, kind).astype(np.float32)
        meaning[name] = torch.from_numpy(values).view(tensor.shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return meaning


@pytest.mark.parametrize("kind", [Type.F32, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q5_1])
def test_a_gguf_gives_the_logits_of_what_it_means(kind: Type, tmp_path: Path) -> None:
    meaning = write(tmp_path / "model.gguf", HEADER, in_gguf(weights()), kind)
    ids = torch.randint(0, 97, (50,), generator=torch.Generator().manual_seed(1))
    model, found = logits_of(tmp_path / "model.gguf", ids)
    difference = (found - expected_logits(from_gguf(meaning), ids)).abs().max().item()
    assert difference <= 6e-5, f"{kind.name}: {difference:.2e}"
    layer = model.model.layers[1]
    is_packed = kind not in (Type.F32, Type.BF16)
    assert isinstance(layer.mlp.experts.down_proj, QuantWeight) == is_packed
    assert isinstance(layer.self_attn.kv_b_proj.weight, torch.Tensor)


def config_of(**changes: Any) -> Any:
    header = {f"deepseek2.{k}": v for k, v in (HEADER | changes).items() if v is not None}
    embedding = type("Info", (), {"shape": (97, 160)})()
    tensors = {"token_embd.weight": embedding, "output.weight": embedding}
    return config_from_gguf(type("Source", (), {"config": header, "tensors": tensors})())


def test_the_yarn_settings_of_the_file_count() -> None:
    """beta_fast too, which llama.cpp does not read for this architecture."""
    rope = config_of().rope
    assert (rope.kind, rope.factor, rope.beta_fast, rope.beta_slow) == ("yarn", 32.0, 1.0, 1.0)
    assert (rope.mscale, rope.mscale_all_dim) == (1.0, 1.0)
    assert config_of(**{"rope.scaling.yarn_beta_fast": None}).rope.beta_fast == 32.0
    assert (
        config_of(
            **{
                "rope.scaling.type": None,
                "rope.scaling.factor": None,
                "rope.scaling.original_context_length": None,
                "rope.scaling.yarn_beta_fast": None,
                "rope.scaling.yarn_beta_slow": None,
                "rope.scaling.yarn_log_multiplier": None,
            }
        ).rope.kind
        == "default"
    )


def test_a_file_without_groups_has_those_of_the_published_model() -> None:
    silent = {"expert_group_count": None, "expert_group_used_count": None}
    kimi = config_of(**silent, expert_count=384, expert_used_count=8)
    deepseek = config_of(**silent, expert_count=256, expert_used_count=8)
    assert (kimi.n_group, kimi.topk_group) == (1, 1)
    assert (deepseek.n_group, deepseek.topk_group) == (8, 4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attention.key_length_mla": None}, ["April 2025", "key_length_mla"]),
        ({"attention.key_length_mla": 16}, ["key_length_mla", "16", "17"]),
        ({"attention.key_length": 47}, ["attention.key_length", "47", "48"]),
        ({"attention.head_count_kv": 4}, ["head_count_kv", "4"]),
        ({"expert_gating_func": 1}, ["expert_gating_func", "1", "2"]),
        ({"expert_gating_func": None}, ["expert_gating_func"]),
        ({"rope.scaling.type": "longrope"}, ["rope.scaling.type", "longrope", "yarn"]),
        ({"rope.scaling.yarn_log_multiplier": -0.1}, ["yarn_log_multiplier", "-0.1"]),
        ({"rope.scaling.yarn_beta_fast": 0.0}, ["yarn_beta_fast", "0.0"]),
        ({"nextn_predict_layers": 1}, ["nextn_predict_layers", "1"]),
        ({"surprise": 1}, ["surprise"]),
    ],
)
def test_a_wrong_header_is_refused(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        config_of(**changes)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def swapped(theirs: Tensors) -> Tensors:
    name = "blk.0.attn_k_b.weight"
    return theirs | {name: theirs[name].transpose(1, 2).contiguous()[:, :16]}


BAD: dict[str, tuple[Callable[[Tensors], Tensors], list[str]]] = {
    "a key half of another shape": (swapped, ["attn_k_b", "(4, 16, 32)", "(4, 32, 32)"]),
    "both halves in one": (
        lambda t: {n.replace("attn_k_b", "attn_kv_b"): x for n, x in t.items()},
        ["blk.0.attn_k_b.weight", "missing"],
    ),
    "no correction bias": (
        lambda t: {n: x for n, x in t.items() if "exp_probs_b" not in n},
        ["exp_probs_b", "missing"],
    ),
    "too few experts": (
        lambda t: t | {"blk.1.ffn_up_exps.weight": t["blk.1.ffn_up_exps.weight"][:5]},
        ["blk.1.ffn_up_exps.weight", "5"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_gguf_whose_tensors_do_not_fit_is_refused(case: str, tmp_path: Path) -> None:
    damage, words = BAD[case]
    write(tmp_path / "model.gguf", HEADER, damage(in_gguf(weights())), Type.Q8_0)
    with pytest.raises(CheckpointError) as caught:
        load_model(tmp_path / "model.gguf")
    assert all(word in str(caught.value) for word in words), str(caught.value)
