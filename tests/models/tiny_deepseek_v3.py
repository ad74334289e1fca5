"""A small Kimi K2 with every part of the real one, as its files name them, and what transformers
makes of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DeepseekV3Config as HFDeepseekV3Config
from transformers import DeepseekV3ForCausalLM

from bobot.layers.context import PackedAttention
from bobot.weights.load import load_model

Tensors = dict[str, Tensor]

TINY: dict[str, Any] = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "kimi_k2",
    "vocab_size": 97,
    "hidden_size": 160,
    "intermediate_size": 96,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 2,
    "first_k_dense_replace": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 64,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 24,
    "n_routed_experts": 6,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
    "n_group": 3,
    "topk_group": 2,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.827,
    "max_position_embeddings": 512,
    "num_nextn_predict_layers": 0,
    "rms_norm_eps": 1e-6,
    "rope_theta": 50000.0,
    "rope_scaling": {
        "beta_fast": 1.0,
        "beta_slow": 1.0,
        "factor": 32.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 16,
        "type": "yarn",
    },
}


def weights() -> Tensors:
    """Random float32 weights under the names of the published files."""
    generator = torch.Generator().manual_seed(0)
    d, f, e = TINY["hidden_size"], TINY["moe_intermediate_size"], TINY["n_routed_experts"]
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (97, d),
        "model.norm.weight": (d,),
        "lm_head.weight": (97, d),
    }
    for n in range(2):
        at = f"model.layers.{n}."
        shapes |= {
            f"{at}input_layernorm.weight": (d,),
            f"{at}post_attention_layernorm.weight": (d,),
            f"{at}self_attn.q_a_proj.weight": (64, d),
            f"{at}self_attn.q_a_layernorm.weight": (64,),
            f"{at}self_attn.q_b_proj.weight": (4 * 48, 64),
            f"{at}self_attn.kv_a_proj_with_mqa.weight": (48, d),
            f"{at}self_attn.kv_a_layernorm.weight": (32,),
            f"{at}self_attn.kv_b_proj.weight": (4 * 56, 32),
            f"{at}self_attn.o_proj.weight": (d, 4 * 24),
        }
        mlps = {f"{at}mlp.": 96}
        if n == 1:
            shapes[f"{at}mlp.gate.weight"] = (e, d)
            shapes[f"{at}mlp.gate.e_score_correction_bias"] = (e,)
            mlps = {f"{at}mlp.experts.{i}.": f for i in range(e)} | {f"{at}mlp.shared_experts.": f}
        for mlp, width in mlps.items():
            shapes |= {f"{mlp}{part}_proj.weight": (width, d) for part in ("gate", "up")}
            shapes[f"{mlp}down_proj.weight"] = (d, width)
    tensors = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator)
        is_norm = name.endswith("norm.weight")
        tensors[name] = (
            1 + 0.1 * values
            if is_norm
            else 0.3 * values
            if len(shape) == 1
            else (values * (1.5 / shape[-1] ** 0.5))
        )
    return tensors


def expected_logits(tensors: Tensors, ids: Tensor) -> Tensor:
    """transformers with these weights."""
    raw = {k: v for k, v in TINY.items() if k != "architectures"}
    raw |= {"model_type": "deepseek_v3"}
    reference = DeepseekV3ForCausalLM(HFDeepseekV3Config(**raw, attn_implementation="eager"))
    state = {name: t for name, t in tensors.items() if ".experts." not in name}
    at = "model.layers.1.mlp.experts."
    gate, up, down = (
        torch.stack([tensors[f"{at}{e}.{part}_proj.weight"] for e in range(6)])
        for part in ("gate", "up", "down")
    )
    state[f"{at}gate_up_proj"] = torch.cat((gate, up), dim=1)
    state[f"{at}down_proj"] = down
    reference.load_state_dict(state)
    with torch.no_grad():
        return reference(ids[None]).logits[0]


def logits_of(path: Path, ids: Tensor) -> tuple[Any, Tensor]:
    model, _ = load_model(path, dtype="float32")
    return model, model.logits(model(ids, torch.arange(len(ids)), PackedAttention()))
