"""gpt-oss-20b and -120b at their real size: every tensor of the published files has its place, and
one layer runs.

Settings and tensors are written from the publisher's config.json files and from
../shared/parity/FAMILIES.md. The files here are as long as the real ones but hold no data: they are
holes that read as zeros, mapped and never touched.
"""

from __future__ import annotations

import json
import math
import resource
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import bobot
from bobot.layers.context import PackedAttention
from bobot.models.gpt_oss import GptOss
from bobot.models.gpt_oss_dialects import config_from_hf
from bobot.quant.weight import QuantWeight
from bobot.weights.load import load_model

D, N, K, H, V = 2880, 64, 8, 64, 201088
SIZES = {  # layers, experts, parameters, gigabytes as published, last number of the HF shards
    "gpt-oss-20b": (24, 32, 20_914_757_184, 13.76, 2),
    "gpt-oss-120b": (36, 128, 116_829_156_672, 65.25, 14),
}
MAX_GROWTH_KIB = 400 << 10
"""The biases of a GGUF, float32 there, are narrowed at load: 0.2 GB of 65."""
MAX_SECONDS = 30

Entry = tuple[str, tuple[int, ...]]


def hf_config(name: str) -> dict[str, Any]:
    layers, experts, *_ = SIZES[name]
    return {
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": True,
        "attention_dropout": 0.0,
        "eos_token_id": 200002,
        "experts_per_token": 4,
        "head_dim": H,
        "hidden_act": "silu",
        "hidden_size": D,
        "initial_context_length": 4096,
        "initializer_range": 0.02,
        "intermediate_size": 2880,
        "layer_types": ["sliding_attention", "full_attention"] * (layers // 2),
        "max_position_embeddings": 131072,
        "model_type": "gpt_oss",
        "num_attention_heads": N,
        "num_experts_per_tok": 4,
        "num_hidden_layers": layers,
        "num_key_value_heads": K,
        "num_local_experts": experts,
        "output_router_logits": False,
        "pad_token_id": 199999,
        "quantization_config": {
            "modules_to_not_convert": [
                "model.layers.*.self_attn",
                "model.layers.*.mlp.router",
                "model.embed_tokens",
                "lm_head",
            ],
            "quant_method": "mxfp4",
        },
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 32.0,
            "original_max_position_embeddings": 4096,
            "rope_type": "yarn",
            "truncate": False,
        },
        "rope_theta": 150000,
        "router_aux_loss_coef": 0.9,
        "sliding_window": 128,
        "swiglu_limit": 7.0,
        "tie_word_embeddings": False,
        "transformers_version": "4.55.0.dev0",
        "use_cache": True,
        "vocab_size": V,
    }


def openai_config(name: str) -> dict[str, Any]:
    layers, experts, *_ = SIZES[name]
    return {
        "num_hidden_layers": layers,
        "num_experts": experts,
        "experts_per_token": 4,
        "vocab_size": V,
        "hidden_size": D,
        "intermediate_size": 2880,
        "swiglu_limit": 7.0,
        "head_dim": H,
        "num_attention_heads": N,
        "num_key_value_heads": K,
        "sliding_window": 128,
        "initial_context_length": 4096,
        "rope_theta": 150000,
        "rope_scaling_factor": 32.0,
        "rope_ntk_alpha": 1,
        "rope_ntk_beta": 32,
    }


def gguf_config(name: str) -> dict[str, Any]:
    layers, experts, *_ = SIZES[name]
    return {
        "block_count": layers,
        "context_length": 131072,
        "embedding_length": D,
        "feed_forward_length": 2880,
        "expert_feed_forward_length": 2880,
        "attention.head_count": N,
        "attention.head_count_kv": K,
        "attention.key_length": H,
        "attention.value_length": H,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.sliding_window": 128,
        "expert_count": experts,
        "expert_used_count": 4,
        "rope.freq_base": 150000.0,
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": 32.0,
        "rope.scaling.original_context_length": 4096,
    }


def hf_index(layers: int, experts: int) -> dict[str, Entry]:
    """Name -> (dtype, shape)."""
    tensors: dict[str, Entry] = {
        "model.embed_tokens.weight": ("BF16", (V, D)),
        "model.norm.weight": ("BF16", (D,)),
        "lm_head.weight": ("BF16", (V, D)),
    }
    for n in range(layers):
        tensors |= {
            f"model.layers.{n}.{name}": entry
            for name, entry in {
                "input_layernorm.weight": ("BF16", (D,)),
                "self_attn.q_proj.weight": ("BF16", (4096, D)),
                "self_attn.q_proj.bias": ("BF16", (4096,)),
                "self_attn.k_proj.weight": ("BF16", (512, D)),
                "self_attn.k_proj.bias": ("BF16", (512,)),
                "self_attn.v_proj.weight": ("BF16", (512, D)),
                "self_attn.v_proj.bias": ("BF16", (512,)),
                "self_attn.o_proj.weight": ("BF16", (D, 4096)),
                "self_attn.o_proj.bias": ("BF16", (D,)),
                "self_attn.sinks": ("BF16", (64,)),
                "post_attention_layernorm.weight": ("BF16", (D,)),
                "mlp.router.weight": ("BF16", (experts, D)),
                "mlp.router.bias": ("BF16", (experts,)),
                "mlp.experts.gate_up_proj_blocks": ("U8", (experts, 5760, 90, 16)),
                "mlp.experts.gate_up_proj_scales": ("U8", (experts, 5760, 90)),
                "mlp.experts.gate_up_proj_bias": ("BF16", (experts, 5760)),
                "mlp.experts.down_proj_blocks": ("U8", (experts, D, 90, 16)),
                "mlp.experts.down_proj_scales": ("U8", (experts, D, 90)),
                "mlp.experts.down_proj_bias": ("BF16", (experts, D)),
            }.items()
        }
    return tensors


def openai_index(layers: int, experts: int) -> dict[str, Entry]:
    tensors: dict[str, Entry] = {
        "embedding.weight": ("BF16", (V, D)),
        "norm.scale": ("BF16", (D,)),
        "unembedding.weight": ("BF16", (V, D)),
    }
    for n in range(layers):
        tensors |= {
            f"block.{n}.{name}": entry
            for name, entry in {
                "attn.norm.scale": ("BF16", (D,)),
                "attn.qkv.weight": ("BF16", (5120, D)),
                "attn.qkv.bias": ("BF16", (5120,)),
                "attn.sinks": ("BF16", (64,)),
                "attn.out.weight": ("BF16", (D, 4096)),
                "attn.out.bias": ("BF16", (D,)),
                "mlp.norm.scale": ("BF16", (D,)),
                "mlp.gate.weight": ("BF16", (experts, D)),
                "mlp.gate.bias": ("BF16", (experts,)),
                "mlp.mlp1_weight.blocks": ("U8", (experts, 5760, 90, 16)),
                "mlp.mlp1_weight.scales": ("U8", (experts, 5760, 90)),
                "mlp.mlp1_bias": ("BF16", (experts, 5760)),
                "mlp.mlp2_weight.blocks": ("U8", (experts, D, 90, 16)),
                "mlp.mlp2_weight.scales": ("U8", (experts, D, 90)),
                "mlp.mlp2_bias": ("BF16", (experts, D)),
            }.items()
        }
    return tensors


def gguf_index(layers: int, experts: int) -> dict[str, Entry]:
    tensors: dict[str, Entry] = {
        "token_embd.weight": ("BF16", (V, D)),
        "output_norm.weight": ("F32", (D,)),
        "output.weight": ("BF16", (V, D)),
    }
    for n in range(layers):
        tensors |= {
            f"blk.{n}.{name}": entry
            for name, entry in {
                "attn_norm.weight": ("F32", (D,)),
                "attn_q.weight": ("BF16", (4096, D)),
                "attn_q.bias": ("F32", (4096,)),
                "attn_k.weight": ("BF16", (512, D)),
                "attn_k.bias": ("F32", (512,)),
                "attn_v.weight": ("BF16", (512, D)),
                "attn_v.bias": ("F32", (512,)),
                "attn_output.weight": ("BF16", (D, 4096)),
                "attn_output.bias": ("F32", (D,)),
                "attn_sinks.weight": ("F32", (64,)),
                "post_attention_norm.weight": ("F32", (D,)),
                "ffn_gate_inp.weight": ("F32", (experts, D)),
                "ffn_gate_inp.bias": ("F32", (experts,)),
                "ffn_gate_exps.weight": ("MXFP4", (experts, 2880, D)),
                "ffn_gate_exps.bias": ("F32", (experts, 2880)),
                "ffn_up_exps.weight": ("MXFP4", (experts, 2880, D)),
                "ffn_up_exps.bias": ("F32", (experts, 2880)),
                "ffn_down_exps.weight": ("MXFP4", (experts, D, 2880)),
                "ffn_down_exps.bias": ("F32", (experts, D)),
            }.items()
        }
    return tensors


def num_bytes(entry: Entry) -> int:
    kind, shape = entry
    if kind == "MXFP4":
        return math.prod(shape) // 32 * 17
    return math.prod(shape) * {"U8": 1, "BF16": 2, "F32": 4}[kind]


def hollow_safetensors(path: Path, tensors: dict[str, Entry]) -> None:
    header, position = {}, 0
    for name, entry in tensors.items():
        end = position + num_bytes(entry)
        header[name] = {"dtype": entry[0], "shape": entry[1], "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + position)


def hollow_hf(folder: Path, name: str) -> Path:
    """Shards numbered from zero, with an index."""
    layers, experts, _, _, last = SIZES[name]
    tensors = hf_index(layers, experts)
    names = list(tensors)
    weight_map = {}
    for i in range(last + 1):
        file = f"model-{i:05}-of-{last:05}.safetensors"
        part = {name: tensors[name] for name in names[i :: last + 1]}
        hollow_safetensors(folder / file, part)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(hf_config(name)), encoding="utf-8")
    return folder


def hollow_openai(folder: Path, name: str) -> Path:
    """One file for 20b, seven for 120b."""
    layers, experts, *_ = SIZES[name]
    tensors = openai_index(layers, experts)
    if name == "gpt-oss-20b":
        hollow_safetensors(folder / "model.safetensors", tensors)
    else:
        names = list(tensors)
        for i in range(7):
            part = {name: tensors[name] for name in names[i::7]}
            hollow_safetensors(folder / f"model--{i + 1:05}-of-00007.safetensors", part)
    (folder / "config.json").write_text(json.dumps(openai_config(name)), encoding="utf-8")
    return folder


def hollow_gguf(folder: Path, name: str) -> Path:
    layers, experts, *_ = SIZES[name]
    path = folder / "model.gguf"
    writer = gguf.GGUFWriter(path, "gpt-oss")
    for key, value in gguf_config(name).items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        add[type(value)](f"gpt-oss.{key}", value)  # type: ignore[operator]
    end = 0
    for tensor, (kind, shape) in gguf_index(layers, experts).items():
        size = num_bytes((kind, shape))
        stored = (*shape[:-1], num_bytes((kind, shape[-1:])))
        raw_dtype = gguf.GGMLQuantizationType[kind]
        writer.add_tensor_info(tensor, stored, np.dtype("uint8"), size, raw_dtype=raw_dtype)
        end += size + -size % 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    start = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(start + -start % 32 + end)
    return path


FORMS: dict[str, Callable[[Path, str], Path]] = {
    "hf": hollow_hf,
    "openai": hollow_openai,
    "gguf": hollow_gguf,
}


@pytest.mark.parametrize("name", SIZES)
def test_the_published_index_has_the_published_size(name: str) -> None:
    layers, experts, num_parameters, gigabytes, _ = SIZES[name]
    for index in (hf_index(layers, experts), openai_index(layers, experts)):
        stored = sum(num_bytes(entry) for entry in index.values())
        assert round(stored / 1e9, 2) == gigabytes, stored
    with torch.device("meta"):
        model = GptOss(config_from_hf(type("Source", (), {"config": hf_config(name)})()))
    assert sum(p.numel() for p in model.parameters()) == num_parameters
    windows = [spec.sliding_window for spec in model.kv_specs()]
    assert windows == [128, None] * (layers // 2)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("gpt-oss-20b", "hf"),
        ("gpt-oss-20b", "openai"),
        ("gpt-oss-20b", "gguf"),
        ("gpt-oss-120b", "hf"),
        ("gpt-oss-120b", "openai"),
        pytest.param("gpt-oss-120b", "gguf", marks=pytest.mark.slow),
    ],
)
def test_every_published_tensor_has_its_place_and_stays_on_disk(
    name: str, form: str, tmp_path: Path
) -> None:
    _, experts, num_parameters, gigabytes, _ = SIZES[name]
    path = FORMS[form](tmp_path, name)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    model, report = load_model(path, tiles=False)  # raises for a missing and for an unexpected name
    seconds = time.perf_counter() - start
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    assert (report.family, report.dialect, report.ignored) == ("gpt_oss", form, ())
    assert report.num_parameters == num_parameters
    assert report.num_bytes / 1e9 == pytest.approx(gigabytes, rel=1e-3)
    assert report.dtype == torch.bfloat16
    packed = model.model.layers[-1].mlp.experts
    shapes = packed.gate_up_proj.shape, packed.down_proj.shape
    assert shapes == ((experts, 5760, D), (experts, D, 2880))
    assert growth < MAX_GROWTH_KIB, f"{growth >> 10} MiB more memory"
    assert seconds < MAX_SECONDS, f"{seconds:.1f} s"


def random_mxfp4(*shape: int) -> dict[str, Tensor]:
    """Random codes; exponents that make weights of standard deviation 0.02 or so."""
    groups = shape[-1] // 32
    blocks = torch.empty(*shape[:-1], groups, 16, dtype=torch.uint8).random_()
    scales = torch.empty(*shape[:-1], groups, dtype=torch.uint8).random_(119, 121)
    return {"_blocks": blocks, "_scales": scales}


@pytest.mark.slow
@torch.no_grad()
def test_one_layer_of_gpt_oss_120b_runs_at_real_size(tmp_path: Path) -> None:
    """3.2 billion parameters in 1.75 GB, mapped and kept packed: a token's output is that of its
    experts, unpacked. Only the vocabulary is small.
    """
    vocab_size, num_tokens = 512, 16
    torch.manual_seed(0)
    tensors: dict[str, Tensor] = {}
    for name, (kind, shape) in hf_index(1, 128).items():
        if kind == "U8":
            continue
        shape = (vocab_size, D) if shape == (V, D) else shape
        if name.endswith("norm.weight"):
            tensors[name] = torch.ones(shape, dtype=torch.bfloat16)
        else:
            tensors[name] = torch.empty(shape, dtype=torch.bfloat16).normal_(std=0.02)
    stem = "model.layers.0.mlp.experts"
    for part, shape in {"gate_up_proj": (128, 5760, D), "down_proj": (128, D, 2880)}.items():
        packed = random_mxfp4(*shape)
        tensors |= {f"{stem}.{part}{suffix}": tensor for suffix, tensor in packed.items()}
    changes = {"num_hidden_layers": 1, "layer_types": ["sliding_attention"]}
    config = hf_config("gpt-oss-120b") | changes | {"vocab_size": vocab_size}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(tensors, tmp_path / "model.safetensors")
    del tensors

    local = bobot.load(tmp_path)
    stored = (tmp_path / "model.safetensors").stat().st_size
    assert abs(local.report.num_bytes / stored - 1) < 1e-3, (local.report.num_bytes, stored)
    model = local.model
    ids = torch.randint(0, vocab_size, (num_tokens,))
    for count in (1, num_tokens):
        hidden_TD = model(ids[:count], torch.arange(count), PackedAttention())
        assert model.logits(hidden_TD).isfinite().all()

    mlp = model.model.layers[0].mlp
    x_TD = torch.randn(num_tokens, D).to(torch.bfloat16)
    logits_A, experts_A = mlp.router(x_TD)[0].float().topk(4)
    expected_D = torch.zeros(D)
    for e, weight in zip(experts_A.tolist(), logits_A.softmax(-1).tolist(), strict=True):
        gate_up, down = mlp.experts.gate_up_proj[e], mlp.experts.down_proj[e]
        assert isinstance(gate_up, QuantWeight)
        both = gate_up.dequantize() @ x_TD[0].float() + mlp.experts.gate_up_proj_bias[e].float()
        gate, up = both[::2].clamp(max=7), both[1::2].clamp(-7, 7)
        hidden = gate * torch.sigmoid(1.702 * gate) * (up + 1)
        expected_D += weight * (down.dequantize() @ hidden + mlp.experts.down_proj_bias[e].float())
    found_D = mlp(x_TD)[0].float()
    error = (found_D - expected_D).norm().item() / expected_D.norm().item()
    assert error < 0.01, f"relative error {error:.2e}"
