"""A tiny gpt-oss with random weights, written in each form in which the model is published.

The MXFP4 packing here is written from the format's description, apart from bobot/quant: codes and
exponents are drawn, and each form lays the same ones out in its own way.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

D, F, E, V, N, K, H = 64, 96, 6, 50, 4, 2, 8
LAYERS = 3
MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)

CONFIG: dict[str, Any] = {
    "architectures": ["GptOssForCausalLM"],
    "model_type": "gpt_oss",
    "attention_bias": True,
    "experts_per_token": 2,
    "num_experts_per_tok": 2,
    "num_local_experts": E,
    "head_dim": H,
    "hidden_act": "silu",
    "hidden_size": D,
    "intermediate_size": F,
    "initial_context_length": 16,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "max_position_embeddings": 512,
    "num_attention_heads": N,
    "num_key_value_heads": K,
    "num_hidden_layers": LAYERS,
    "output_router_logits": False,
    "router_aux_loss_coef": 0.9,
    "quantization_config": {
        "quant_method": "mxfp4",
        "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"],
    },
    "rms_norm_eps": 1e-5,
    "rope_scaling": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 32.0,
        "original_max_position_embeddings": 16,
        "rope_type": "yarn",
        "truncate": False,
    },
    "rope_theta": 150000,
    "sliding_window": 7,
    "swiglu_limit": 7.0,
    "tie_word_embeddings": False,
    "vocab_size": V,
}
OPENAI_CONFIG: dict[str, Any] = {
    "num_hidden_layers": LAYERS,
    "num_experts": E,
    "experts_per_token": 2,
    "vocab_size": V,
    "hidden_size": D,
    "intermediate_size": F,
    "swiglu_limit": 7.0,
    "head_dim": H,
    "num_attention_heads": N,
    "num_key_value_heads": K,
    "sliding_window": 7,
    "initial_context_length": 16,
    "rope_theta": 150000,
    "rope_scaling_factor": 32.0,
    "rope_ntk_alpha": 1,
    "rope_ntk_beta": 32.0,
}
GGUF_CONFIG: dict[str, Any] = {
    "block_count": LAYERS,
    "context_length": 512,
    "embedding_length": D,
    "feed_forward_length": F,
    "expert_feed_forward_length": F,
    "attention.head_count": N,
    "attention.head_count_kv": K,
    "attention.key_length": H,
    "attention.value_length": H,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "attention.sliding_window": 7,
    "expert_count": E,
    "expert_used_count": 2,
    "rope.freq_base": 150000.0,
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 32.0,
    "rope.scaling.original_context_length": 16,
}
OPENAI_NAMES = {
    "model.embed_tokens.weight": "embedding.weight",
    "model.norm.weight": "norm.scale",
    "lm_head.weight": "unembedding.weight",
    "input_layernorm.weight": "attn.norm.scale",
    "post_attention_layernorm.weight": "mlp.norm.scale",
    "self_attn.sinks": "attn.sinks",
    "self_attn.o_proj.weight": "attn.out.weight",
    "self_attn.o_proj.bias": "attn.out.bias",
    "mlp.router.weight": "mlp.gate.weight",
    "mlp.router.bias": "mlp.gate.bias",
    "mlp.experts.gate_up_proj_blocks": "mlp.mlp1_weight.blocks",
    "mlp.experts.gate_up_proj_scales": "mlp.mlp1_weight.scales",
    "mlp.experts.gate_up_proj_bias": "mlp.mlp1_bias",
    "mlp.experts.down_proj_blocks": "mlp.mlp2_weight.blocks",
    "mlp.experts.down_proj_scales": "mlp.mlp2_weight.scales",
    "mlp.experts.down_proj_bias": "mlp.mlp2_bias",
}
GGUF_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "post_attention_norm.weight",
    "self_attn.sinks": "attn_sinks.weight",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.router": "ffn_gate_inp",
    "mlp.experts.down_proj_bias": "ffn_down_exps.bias",
}


def matrices() -> dict[str, tuple[int, int]]:
    """Expert matrices: name -> (out, in)."""
    return {"gate_up_proj": (2 * F, D), "down_proj": (D, F)}


def plain() -> dict[str, Tensor]:
    """Everything but the expert matrices, in bf16, under Hugging Face's names."""
    generator = torch.Generator().manual_seed(11)

    def draw(*shape: int, std: float = 0.3, mean: float = 0.0) -> Tensor:
        return (torch.randn(*shape, generator=generator) * std + mean).bfloat16()

    tensors = {
        "model.embed_tokens.weight": draw(V, D, std=1.0),
        "model.norm.weight": draw(D, mean=1.0),
        "lm_head.weight": draw(V, D),
    }
    rows = {"q_proj": (N * H, D), "k_proj": (K * H, D), "v_proj": (K * H, D), "o_proj": (D, N * H)}
    for n in range(LAYERS):
        layer = f"model.layers.{n}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{layer}{norm}.weight"] = draw(D, mean=1.0)
        for name, shape in rows.items():
            tensors[f"{layer}self_attn.{name}.weight"] = draw(*shape)
            tensors[f"{layer}self_attn.{name}.bias"] = draw(shape[0])
        tensors[f"{layer}self_attn.sinks"] = draw(N, std=1.0)
        tensors[f"{layer}mlp.router.weight"] = draw(E, D)
        tensors[f"{layer}mlp.router.bias"] = draw(E)
        tensors[f"{layer}mlp.experts.gate_up_proj_bias"] = draw(E, 2 * F, std=2.0)
        tensors[f"{layer}mlp.experts.down_proj_bias"] = draw(E, D)
    return tensors


def codes_and_exponents(name: str, layer: int) -> tuple[Tensor, Tensor]:
    """4-bit codes (E, out, in) and biased exponents (E, out, in / 32) of one expert matrix."""
    rows, columns = matrices()[name]
    generator = torch.Generator().manual_seed(100 + 2 * layer + len(name))
    codes = torch.randint(0, 16, (E, rows, columns), generator=generator).to(torch.uint8)
    exponents = torch.randint(122, 127, (E, rows, columns // 32), generator=generator)
    return codes, exponents.to(torch.uint8)


def values(codes: Tensor, exponents: Tensor) -> Tensor:
    """The numbers that codes and exponents stand for."""
    table = torch.tensor([*MAGNITUDES, *(-m for m in MAGNITUDES)])
    scales = 2.0 ** (exponents.float() - 127)
    return table[codes.long()] * scales.repeat_interleave(32, dim=-1)


def hf_tensors() -> dict[str, Tensor]:
    """As published: byte j of a group holds element 2j (low) and 2j + 1 (high)."""
    tensors = plain()
    for n in range(LAYERS):
        for name in matrices():
            codes, exponents = codes_and_exponents(name, n)
            stem = f"model.layers.{n}.mlp.experts.{name}"
            pairs = codes.view(E, codes.shape[1], -1, 16, 2)
            tensors[f"{stem}_blocks"] = pairs[..., 0] + 16 * pairs[..., 1]
            tensors[f"{stem}_scales"] = exponents
    return tensors


def hf_plain_tensors() -> dict[str, Tensor]:
    """As fine-tuned models are saved: bf16, [E, in, out]."""
    tensors = plain()
    for n in range(LAYERS):
        for name in matrices():
            weight = values(*codes_and_exponents(name, n)).bfloat16()
            stem = f"model.layers.{n}.mlp.experts.{name}"
            tensors[stem] = weight.transpose(1, 2).contiguous()
    return tensors


def openai_tensors() -> dict[str, Tensor]:
    theirs = {}
    hf = hf_tensors()
    for name, tensor in hf.items():
        n, _, rest = name.removeprefix("model.layers.").partition(".")
        if name in OPENAI_NAMES:
            theirs[OPENAI_NAMES[name]] = tensor
        elif rest in OPENAI_NAMES:
            theirs[f"block.{n}.{OPENAI_NAMES[rest]}"] = tensor
    for n in range(LAYERS):
        for kind in ("weight", "bias"):
            rows = [hf[f"model.layers.{n}.self_attn.{x}_proj.{kind}"] for x in "qkv"]
            theirs[f"block.{n}.attn.qkv.{kind}"] = torch.cat(rows)
    return theirs


def gguf_blocks(codes: Tensor, exponents: Tensor) -> np.ndarray:
    """17 bytes a block: the exponent, then byte j with elements j (low) and j + 16 (high)."""
    halves = codes.view(*exponents.shape, 2, 16)
    data = torch.cat((exponents.unsqueeze(-1), halves[..., 0, :] + 16 * halves[..., 1, :]), dim=-1)
    return data.flatten(-2).numpy()


def write_hf(
    folder: Path, tensors: dict[str, Tensor] | None = None, config: dict[str, Any] = CONFIG
) -> Path:
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(hf_tensors() if tensors is None else tensors, folder / "model.safetensors")
    return folder


def write_openai(
    folder: Path,
    tensors: dict[str, Tensor] | None = None,
    config: dict[str, Any] = OPENAI_CONFIG,
    num_files: int = 1,
) -> Path:
    """One file model.safetensors, or several numbered ones without an index."""
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tensors = openai_tensors() if tensors is None else tensors
    names = sorted(tensors)
    for i in range(num_files):
        part = {name: tensors[name] for name in names[i::num_files]}
        several = f"model--{i + 1:05}-of-{num_files:05}.safetensors"
        save_file(part, folder / (several if num_files > 1 else "model.safetensors"))
    return folder


def write_gguf(
    folder: Path,
    config: dict[str, Any] = GGUF_CONFIG,
    types: dict[str, str] | None = None,
    leave_out: tuple[str, ...] = (),
) -> Path:
    """Expert matrices in MXFP4, or in the type that `types` names for gate, up or down."""
    path = folder / "model.gguf"
    writer = gguf.GGUFWriter(path, "gpt-oss")
    for key, value in config.items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        add[type(value)](f"gpt-oss.{key}", value)  # type: ignore[operator]

    def add_tensor(name: str, data: np.ndarray, kind: str) -> None:
        if not name.endswith(leave_out or ("\0",)):
            writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType[kind])

    for name, tensor in plain().items():
        n, _, rest = name.removeprefix("model.layers.").partition(".")
        stem, _, kind = rest.rpartition(".")
        if name in GGUF_NAMES:
            add_tensor(GGUF_NAMES[name], tensor.float().numpy(), "F32")
        elif rest in GGUF_NAMES:
            add_tensor(f"blk.{n}.{GGUF_NAMES[rest]}", tensor.float().numpy(), "F32")
        elif stem in GGUF_NAMES:
            add_tensor(f"blk.{n}.{GGUF_NAMES[stem]}.{kind}", tensor.float().numpy(), "F32")
        else:
            assert rest == "mlp.experts.gate_up_proj_bias", name
            for part, first in (("gate", 0), ("up", 1)):
                bias = tensor[:, first::2].float().numpy()
                add_tensor(f"blk.{n}.ffn_{part}_exps.bias", bias, "F32")
    for n in range(LAYERS):
        both, down = codes_and_exponents("gate_up_proj", n), codes_and_exponents("down_proj", n)
        parts = {"gate": (x[:, ::2] for x in both), "up": (x[:, 1::2] for x in both), "down": down}
        for part, pair in parts.items():
            codes, exponents = (x.contiguous() for x in pair)
            kind = (types or {}).get(part, "MXFP4")
            if kind == "MXFP4":
                data = gguf_blocks(codes, exponents)
            else:
                numbers = values(codes, exponents).numpy()
                data = gguf.quants.quantize(numbers, gguf.GGMLQuantizationType[kind])
            add_tensor(f"blk.{n}.ffn_{part}_exps.weight", data, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
