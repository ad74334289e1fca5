"""The forms in which gpt-oss is published.

hf      Hugging Face: experts in MXFP4 (rows as ours), or in bf16 as fine-tuned models are saved:
        then [E, in, out]
openai  the first layout, under `original/` there: fused qkv, its own words in config.json
gguf    llama.cpp `general.architecture = gpt-oss`: gate and up apart, blocks of any type
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from bobot.errors import CheckpointError, ConfigError
from bobot.models.config import LARGEST_CONTEXT, Derived, Dialect, Fields, TensorSource, gguf_fields
from bobot.models.gpt_oss import FULL, SLIDING, GptOssConfig
from bobot.models.llama_dialects import settings_from_hf, shared_settings_to_hf
from bobot.ops.rope import RopeParameters
from bobot.quant.interleaved import interleaved, rows_in_turn
from bobot.quant.weight import QuantWeight, Weight, values_of

RMS_NORM_EPS = 1e-5
"""In the first layout it stands in the code, not in config.json (gpt_oss/torch/model.py 40)."""


def alternating(num_layers: int) -> tuple[str, ...]:
    """Even layers slide, odd ones see everything: what is meant where no list is given."""
    return tuple(SLIDING if n % 2 == 0 else FULL for n in range(num_layers))


def config_from_hf(source: TensorSource) -> GptOssConfig:
    fields = Fields(source.config, "config.json")
    fields.take_one_of("tie_word_embeddings", [False], False)
    fields.take_one_of("attention_bias", [True], True)
    settings = settings_from_hf(fields, has_window=True)
    num_active = fields.take("num_experts_per_tok", int, minimum=1)
    fields.take_one_of("experts_per_token", [num_active], num_active)
    # Only training reads these; the rotary settings repeat the context.
    fields.ignore("output_router_logits", "router_aux_loss_coef", "initial_context_length")
    config = GptOssConfig(
        **settings,
        layer_types=_layer_types(fields, settings["num_hidden_layers"]),
        num_local_experts=fields.take("num_local_experts", int, minimum=1),
        num_experts_per_tok=num_active,
        swiglu_limit=fields.take("swiglu_limit", float, 7.0, minimum=0.0),
        swiglu_alpha=fields.take("swiglu_alpha", float, 1.702),
    )
    fields.done()
    return config


def _layer_types(fields: Fields, num_layers: int) -> tuple[str, ...]:
    found = fields.left.pop("layer_types", None)
    if found is None:
        return alternating(num_layers)
    if not isinstance(found, list) or not all(isinstance(kind, str) for kind in found):
        raise fields.wrong("layer_types", found, f"a list of {SLIDING} and {FULL}")
    return tuple(found)


def config_from_openai(source: TensorSource) -> GptOssConfig:
    fields = Fields(source.config, "config.json")
    num_layers = fields.take("num_hidden_layers", int, minimum=1)
    context = fields.take("initial_context_length", int, minimum=1, maximum=LARGEST_CONTEXT)
    factor = fields.take("rope_scaling_factor", float, minimum=1.0)
    config = GptOssConfig(
        vocab_size=fields.take("vocab_size", int, minimum=1),
        hidden_size=fields.take("hidden_size", int, minimum=1),
        intermediate_size=fields.take("intermediate_size", int, minimum=1),
        num_hidden_layers=num_layers,
        num_attention_heads=fields.take("num_attention_heads", int, minimum=1),
        num_key_value_heads=fields.take("num_key_value_heads", int, minimum=1),
        head_dim=fields.take("head_dim", int, minimum=2),
        max_position_embeddings=int(context * factor),
        rms_norm_eps=RMS_NORM_EPS,
        rope=RopeParameters(
            theta=fields.take("rope_theta", float, minimum=1.0),
            kind="yarn",
            factor=factor,
            original_max_position_embeddings=context,
            beta_fast=fields.take("rope_ntk_beta", float, minimum=0.0),
            beta_slow=fields.take("rope_ntk_alpha", float, minimum=0.0),
            truncate=False,
        ),
        sliding_window=fields.take("sliding_window", int, minimum=1),
        layer_types=alternating(num_layers),
        num_local_experts=fields.take("num_experts", int, minimum=1),
        num_experts_per_tok=fields.take("experts_per_token", int, minimum=1),
        swiglu_limit=fields.take("swiglu_limit", float, 7.0, minimum=0.0),
    )
    fields.done()
    return config


def config_from_gguf(source: TensorSource) -> GptOssConfig:
    fields = gguf_fields(source, "gpt-oss")
    num_layers = fields.take("block_count", int, minimum=1)
    num_heads = fields.take("attention.head_count", int, minimum=1)
    head_dim = fields.take("attention.key_length", int, minimum=2)
    fields.take_one_of("attention.value_length", [head_dim], head_dim)
    fields.take_one_of("rope.dimension_count", [head_dim], head_dim)
    fields.take_one_of("rope.scaling.type", ["yarn"])
    # The embedding has the true number of rows; the width is that of the experts.
    fields.ignore("vocab_size", "feed_forward_length")
    config = GptOssConfig(
        vocab_size=source.tensors["token_embd.weight"].shape[0],
        hidden_size=fields.take("embedding_length", int, minimum=1),
        intermediate_size=fields.take("expert_feed_forward_length", int, minimum=1),
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=fields.take("attention.head_count_kv", int, num_heads, minimum=1),
        head_dim=head_dim,
        max_position_embeddings=fields.take(
            "context_length", int, minimum=1, maximum=LARGEST_CONTEXT
        ),
        rms_norm_eps=fields.take("attention.layer_norm_rms_epsilon", float, minimum=0.0),
        rope=_rope_from_gguf(fields),
        sliding_window=fields.take("attention.sliding_window", int, minimum=1),
        layer_types=alternating(num_layers),
        num_local_experts=fields.take("expert_count", int, minimum=1),
        num_experts_per_tok=fields.take("expert_used_count", int, minimum=1),
    )
    fields.done()
    return config


def _rope_from_gguf(fields: Fields) -> RopeParameters:
    """GGUF can't say that the bounds are not rounded; llama.cpp rounds them, the model does not."""
    fields.ignore("rope.scaling.finetuned")
    return RopeParameters(
        theta=fields.take("rope.freq_base", float, minimum=1.0),
        kind="yarn",
        factor=fields.take("rope.scaling.factor", float, minimum=1.0),
        original_max_position_embeddings=fields.take(
            "rope.scaling.original_context_length", int, minimum=1
        ),
        # Files of August 2025 leave these two out.
        beta_fast=fields.take("rope.scaling.yarn_beta_fast", float, 32.0, minimum=0.0),
        beta_slow=fields.take("rope.scaling.yarn_beta_slow", float, 1.0, minimum=0.0),
        truncate=False,
    )


def settings_to_hf(config: GptOssConfig) -> dict[str, object]:
    settings: dict[str, object] = {
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        **shared_settings_to_hf(config),
        "attention_bias": True,
        "sliding_window": config.sliding_window,
        "layer_types": list(config.layer_types),
        "num_local_experts": config.num_local_experts,
        "num_experts_per_tok": config.num_experts_per_tok,
        "swiglu_limit": config.swiglu_limit,
    }
    if config.swiglu_alpha != GptOssConfig.swiglu_alpha:
        settings["swiglu_alpha"] = config.swiglu_alpha
    return settings


def settings_to_gguf(config: GptOssConfig) -> dict[str, object]:
    """Raises ConfigError for what the architecture `gpt-oss` takes for granted."""
    rope = config.rope
    fixed = {
        "layer_types": (config.layer_types, alternating(config.num_hidden_layers)),
        "swiglu_limit": (config.swiglu_limit, GptOssConfig.swiglu_limit),
        "swiglu_alpha": (config.swiglu_alpha, GptOssConfig.swiglu_alpha),
        "rope_type": (rope.kind, "yarn"),
        "truncate": (rope.truncate, False),
        "attention_factor": (rope.attention_factor, None),
    }
    for key, (found, known) in fixed.items():
        if found != known:
            raise ConfigError(
                "{key} is {found}; a GGUF of gpt-oss always means {known}.",
                hint="Export it to hf.",
                key=key,
                found=found,
                known=known,
            )
    settings: dict[str, object] = {
        "vocab_size": config.vocab_size,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "attention.sliding_window": config.sliding_window,
        "expert_count": config.num_local_experts,
        "expert_used_count": config.num_experts_per_tok,
        "expert_feed_forward_length": config.intermediate_size,
        "rope.freq_base": rope.theta,
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": rope.factor,
        "rope.scaling.original_context_length": rope.original_max_position_embeddings,
        "rope.scaling.yarn_beta_fast": rope.beta_fast,
        "rope.scaling.yarn_beta_slow": rope.beta_slow,
    }
    named = {f"gpt-oss.{key}": value for key, value in settings.items()}
    return {"general.architecture": "gpt-oss", **named}


def out_in(config: GptOssConfig, weight: Weight) -> Weight:
    """Experts as we hold them, [E, out, in]. Hugging Face packs them so, but saves plain ones as
    [E, in, out]."""
    is_packed = isinstance(weight, QuantWeight)
    return weight if is_packed or weight.ndim != 3 else weight.transpose(1, 2)


def in_turn(config: GptOssConfig, gate: Weight, up: Weight) -> Weight:
    """Row 2i from row i of gate, row 2i + 1 from that of up: (E, 2F, ..). Packed ones stay as they
    are in the file.
    """
    if tuple(gate.shape) != tuple(up.shape) or gate.ndim < 2:
        raise CheckpointError(
            "ffn_gate_exps is {gate}, ffn_up_exps is {up}; they must have one shape.",
            hint="Download the file again.",
            gate=list(gate.shape),
            up=list(up.shape),
        )
    if isinstance(gate, QuantWeight) and isinstance(up, QuantWeight) and gate.ndim == 3:
        return interleaved(gate, up)
    return torch.stack((values_of(gate), values_of(up)), dim=2).flatten(1, 2)


def taken_apart(config: GptOssConfig, weight: Weight) -> tuple[Weight, Weight]:
    """The inverse of `in_turn`: gate and up."""
    if isinstance(weight, QuantWeight):
        return rows_in_turn(weight)
    return weight[:, 0::2], weight[:, 1::2]


def _qkv_rows(part: str) -> Callable[[GptOssConfig, Tensor], Tensor]:
    """The rows of one of q, k and v in the fused projection, which holds them in that order."""

    def make(config: GptOssConfig, qkv: Tensor) -> Tensor:
        q = config.num_attention_heads * config.head_dim
        kv = config.num_key_value_heads * config.head_dim
        if tuple(qkv.shape[:1]) != (q + 2 * kv,):
            raise CheckpointError(
                "attn.qkv is {found}; the heads in config.json make {rows} rows.",
                hint="Settings and weights belong to different models: download them together.",
                found=list(qkv.shape),
                rows=q + 2 * kv,
            )
        start, stop = {"q": (0, q), "k": (q, q + kv), "v": (q + kv, q + 2 * kv)}[part]
        return qkv[start:stop]

    return make


def _weight_and_bias(ours: str, theirs: str) -> dict[str, str | Derived]:
    return {f"{ours}.{kind}": f"{theirs}.{kind}" for kind in ("weight", "bias")}


_LAYER = "model.layers.{n}."
_EXPERTS = f"{_LAYER}mlp.experts."

HF_NAMES: Mapping[str, str | Derived] = {
    f"{_EXPERTS}{name}": Derived(
        (f"{_EXPERTS}{name}",), out_in, lambda config, weight: (out_in(config, weight),)
    )
    for name in ("gate_up_proj", "down_proj")
}

OPENAI_NAMES: Mapping[str, str | Derived] = {
    "model.embed_tokens.weight": "embedding.weight",
    "model.norm.weight": "norm.scale",
    "lm_head.weight": "unembedding.weight",
    f"{_LAYER}input_layernorm.weight": "block.{n}.attn.norm.scale",
    f"{_LAYER}post_attention_layernorm.weight": "block.{n}.mlp.norm.scale",
    f"{_LAYER}self_attn.sinks": "block.{n}.attn.sinks",
    **{
        f"{_LAYER}self_attn.{part}_proj.{kind}": Derived(
            (f"block.{{n}}.attn.qkv.{kind}",), _qkv_rows(part)
        )
        for part in ("q", "k", "v")
        for kind in ("weight", "bias")
    },
    **_weight_and_bias(f"{_LAYER}self_attn.o_proj", "block.{n}.attn.out"),
    **_weight_and_bias(f"{_LAYER}mlp.router", "block.{n}.mlp.gate"),
    f"{_EXPERTS}gate_up_proj": "block.{n}.mlp.mlp1_weight",
    f"{_EXPERTS}gate_up_proj_bias": "block.{n}.mlp.mlp1_bias",
    f"{_EXPERTS}down_proj": "block.{n}.mlp.mlp2_weight",
    f"{_EXPERTS}down_proj_bias": "block.{n}.mlp.mlp2_bias",
}

GGUF_NAMES: Mapping[str, str | Derived] = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    f"{_LAYER}input_layernorm.weight": "blk.{n}.attn_norm.weight",
    f"{_LAYER}post_attention_layernorm.weight": "blk.{n}.post_attention_norm.weight",
    f"{_LAYER}self_attn.sinks": "blk.{n}.attn_sinks.weight",
    **_weight_and_bias(f"{_LAYER}self_attn.q_proj", "blk.{n}.attn_q"),
    **_weight_and_bias(f"{_LAYER}self_attn.k_proj", "blk.{n}.attn_k"),
    **_weight_and_bias(f"{_LAYER}self_attn.v_proj", "blk.{n}.attn_v"),
    **_weight_and_bias(f"{_LAYER}self_attn.o_proj", "blk.{n}.attn_output"),
    **_weight_and_bias(f"{_LAYER}mlp.router", "blk.{n}.ffn_gate_inp"),
    **{
        f"{_EXPERTS}gate_up_proj{ours}": Derived(
            (f"blk.{{n}}.ffn_gate_exps.{theirs}", f"blk.{{n}}.ffn_up_exps.{theirs}"),
            in_turn,
            taken_apart,
        )
        for ours, theirs in (("", "weight"), ("_bias", "bias"))
    },
    f"{_EXPERTS}down_proj": "blk.{n}.ffn_down_exps.weight",
    f"{_EXPERTS}down_proj_bias": "blk.{n}.ffn_down_exps.bias",
}

DIALECTS: dict[str, Dialect] = {
    "hf": Dialect(config=config_from_hf, names=HF_NAMES, pairs={}, settings=settings_to_hf),
    "openai": Dialect(config=config_from_openai, names=OPENAI_NAMES, pairs={}),
    "gguf": Dialect(config=config_from_gguf, names=GGUF_NAMES, pairs={}, settings=settings_to_gguf),
}
