"""Grok-1 as the Hugging Face ports publish it that keep the names of xAI's JAX tree, with dots
(GrokForCausalLM). The settings and the arithmetic are those of `grok1_dialects.py`.
"""

from __future__ import annotations

from bobot.models import grok1_dialects
from bobot.models.config import Dialect, Fields, TensorSource
from bobot.models.grok1 import Grok1Config
from bobot.models.grok1_dialects import settings_from_hf, shared_settings_to_hf


def config_from_hf(source: TensorSource) -> Grok1Config:
    return settings_from_hf(Fields(source.config, "config.json"), experts_key="num_local_experts")


def settings_to_hf(config: Grok1Config) -> dict[str, object]:
    return {
        "architectures": ["GrokForCausalLM"],
        "model_type": "grok",
        **shared_settings_to_hf(config),
        "num_local_experts": config.num_experts,
    }


_LAYER_NAMES = {
    "pre_attn_norm.weight": "rms_norm.weight",
    "attn.q_proj.weight": "multi_head_attention.query.weight",
    "attn.k_proj.weight": "multi_head_attention.key.weight",
    "attn.v_proj.weight": "multi_head_attention.value.weight",
    "attn.o_proj.weight": "multi_head_attention.linear.weight",
    "post_attn_norm.weight": "rms_norm_1.weight",
    "pre_moe_norm.weight": "rms_norm_2.weight",
    "moe_block.gate.weight": "router.weight",
    "moe_block.experts.linear": "moe.{e}.linear.weight",
    "moe_block.experts.linear_v": "moe.{e}.linear_v.weight",
    "moe_block.experts.linear_1": "moe.{e}.linear_1.weight",
    "post_moe_norm.weight": "rms_norm_3.weight",
}

DIALECTS = {
    "hf": Dialect(
        config=config_from_hf,
        names={
            "model.embed_tokens.weight": "transformer.in_out_embed.weight",
            "model.norm.weight": "transformer.rms_norm.weight",
            **{
                f"model.layers.{{n}}.{ours}": f"transformer.decoder_layer.{{n}}.{theirs}"
                for ours, theirs in _LAYER_NAMES.items()
            },
        },
        pairs={},
        settings=settings_to_hf,
    ),
    "gguf": grok1_dialects.DIALECTS["gguf"],
}
