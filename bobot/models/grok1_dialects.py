"""The forms in which Grok-1 is published: how each names settings and tensors.

xai   xAI's own `ckpt-0`, 8-bit; its settings stand in the reference code, not in a file
hf    HPC-AI Tech's Hugging Face port (Grok1ModelForCausalLM), whose names are ours
gguf  llama.cpp `general.architecture = grok` (halves rotate, as everywhere else)

The port that keeps the names of xAI's JAX tree is in `grok1_jax_names.py`.
"""

from __future__ import annotations

from bobot.errors import ConfigError
from bobot.models.config import (
    HF_BOOKKEEPING,
    LARGEST_CONTEXT,
    Dialect,
    Fields,
    TensorSource,
    gguf_fields,
    rope_from_hf,
    rope_to_hf,
)
from bobot.models.grok1 import Grok1Config
from bobot.ops.rope import RopeParameters

PUBLISHED = Grok1Config(
    vocab_size=131072,
    hidden_size=6144,
    intermediate_size=32768,
    num_hidden_layers=64,
    num_attention_heads=48,
    num_key_value_heads=8,
    head_dim=128,
    num_experts=8,
    num_experts_per_tok=2,
    max_position_embeddings=8192,
    embedding_multiplier_scale=78.38367176906169,  # sqrt(hidden_size)
    output_multiplier_scale=0.5773502691896257,  # 1 / sqrt(3)
    attn_output_multiplier=0.08838834764831845,  # 1 / sqrt(head_dim)
)
"""The settings of the released model: xai-org/grok-1 `run.py` 30-60, `model.py` 85-88, 592."""

_EMBEDDING = "language_model/in_out_embed/embeddings"


def config_from_xai(source: TensorSource) -> Grok1Config:
    """config.json beside ckpt-0 in the words of xAI's TransformerConfig, or the release's own."""
    if not source.config:
        return _published(source)
    fields = Fields(source.config, "config.json")
    fields.take_one_of("model_type", ["grok-1"], "grok-1")
    fields.ignore("checkpoint_layout", "pickle_container")
    fields.take("eos_token", int, 2, minimum=0)
    hidden_size = fields.take("emb_size", int, minimum=1)
    intermediate_size = _ffn_size(
        hidden_size, fields.take("widening_factor", float, minimum=0.0, maximum=1000.0)
    )
    fields.take_one_of("ffn_size", [intermediate_size], intermediate_size)
    config = Grok1Config(
        vocab_size=fields.take("vocab_size", int, minimum=1),
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=fields.take("num_layers", int, minimum=1),
        num_attention_heads=fields.take("num_q_heads", int, minimum=1),
        num_key_value_heads=fields.take("num_kv_heads", int, minimum=1),
        head_dim=fields.take("key_size", int, minimum=2),
        num_experts=fields.take("num_experts", int, minimum=1),
        num_experts_per_tok=fields.take("num_selected_experts", int, minimum=1),
        max_position_embeddings=fields.take(
            "sequence_len", int, minimum=1, maximum=LARGEST_CONTEXT
        ),
        embedding_multiplier_scale=fields.take("embedding_multiplier_scale", float),
        output_multiplier_scale=fields.take("output_multiplier_scale", float),
        attn_output_multiplier=fields.take("attn_output_multiplier", float),
        max_attn_value=fields.take("attn_logit_softcap", float, 30.0, minimum=1e-3),
        rms_norm_eps=fields.take("rms_norm_eps", float, 1e-5, minimum=0.0),
        rope=RopeParameters(theta=fields.take("rope_theta", float, 10000.0, minimum=1.0)),
        pad_token_id=fields.take("pad_token", int, 0, minimum=0),
    )
    fields.done()
    return config


def _published(source: TensorSource) -> Grok1Config:
    """The release's settings, if these are its files. The loader compares every shape."""
    embedding = source.tensors[_EMBEDDING].shape
    wanted = (PUBLISHED.vocab_size, PUBLISHED.hidden_size)
    if embedding != wanted:
        raise ConfigError(
            "The embedding in ckpt-0 is {found}; that of the released Grok-1 is {wanted}.",
            hint="Put config.json with the settings of this model beside ckpt-0.",
            found=list(embedding),
            wanted=list(wanted),
        )
    return PUBLISHED


def _ffn_size(hidden_size: int, widening_factor: float) -> int:
    """Two thirds of the widened size, rounded up to a multiple of 8 (model.py 85-88)."""
    size = int(widening_factor * hidden_size) * 2 // 3
    return size + -size % 8


def config_from_hf(source: TensorSource) -> Grok1Config:
    fields = Fields(source.config, "config.json")
    return settings_from_hf(fields, experts_key="num_experts")


def settings_from_hf(fields: Fields, *, experts_key: str) -> Grok1Config:
    """What both ports say in the same words but for the number of experts."""
    pad_token_id = fields.take("pad_token_id", int, 0, minimum=0)
    fields.ignore(*HF_BOOKKEEPING, "auto_map")
    # Only training reads these.
    fields.ignore("output_router_logits", "router_aux_loss_coef", "router_jitter_noise")
    # Transformers means the exact form by "gelu"; the weights want the reference's tanh form.
    fields.take_one_of("hidden_act", ["gelu_pytorch_tanh", "gelu_new", "gelu"], "gelu")
    hidden_size = fields.take("hidden_size", int, minimum=1)
    num_heads = fields.take("num_attention_heads", int, minimum=1)
    config = Grok1Config(
        vocab_size=fields.take("vocab_size", int, minimum=1),
        hidden_size=hidden_size,
        intermediate_size=fields.take("intermediate_size", int, minimum=1),
        num_hidden_layers=fields.take("num_hidden_layers", int, minimum=1),
        num_attention_heads=num_heads,
        num_key_value_heads=fields.take("num_key_value_heads", int, num_heads, minimum=1),
        head_dim=fields.take("head_dim", int, hidden_size // num_heads, minimum=2),
        num_experts=fields.take(experts_key, int, minimum=1),
        num_experts_per_tok=fields.take("num_experts_per_tok", int, minimum=1),
        max_position_embeddings=fields.take(
            "max_position_embeddings", int, minimum=1, maximum=LARGEST_CONTEXT
        ),
        embedding_multiplier_scale=fields.take("embedding_multiplier_scale", float),
        output_multiplier_scale=fields.take("output_multiplier_scale", float),
        attn_output_multiplier=fields.take("attn_output_multiplier", float),
        max_attn_value=fields.take("max_attn_value", float, 30.0, minimum=1e-3),
        rms_norm_eps=fields.take("rms_norm_eps", float, 1e-5, minimum=0.0),
        rope=rope_from_hf(fields),
        pad_token_id=pad_token_id,
        tie_word_embeddings=fields.take("tie_word_embeddings", bool, True),
    )
    fields.done()
    return config


def config_from_gguf(source: TensorSource) -> Grok1Config:
    fields = gguf_fields(source, "grok")
    hidden_size = fields.take("embedding_length", int, minimum=1)
    num_heads = fields.take("attention.head_count", int, minimum=1)
    head_dim = fields.take("attention.key_length", int, hidden_size // num_heads, minimum=2)
    intermediate_size = fields.take("feed_forward_length", int, minimum=1)
    fields.take_one_of("attention.value_length", [head_dim], head_dim)
    fields.take_one_of("rope.dimension_count", [head_dim], head_dim)
    fields.take_one_of("rope.scaling.type", ["none"], "none")
    fields.take_one_of("expert_feed_forward_length", [intermediate_size], intermediate_size)
    fields.take_one_of("final_logit_softcapping", [0.0], 0.0)
    # Written by the converter, yet the reference caps no router logits, and llama.cpp does not.
    fields.ignore("router_logit_softcapping")
    fields.ignore("vocab_size")  # the embedding has the true number of rows
    config = Grok1Config(
        vocab_size=source.tensors["token_embd.weight"].shape[0],
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=fields.take("block_count", int, minimum=1),
        num_attention_heads=num_heads,
        num_key_value_heads=fields.take("attention.head_count_kv", int, num_heads, minimum=1),
        head_dim=head_dim,
        num_experts=fields.take("expert_count", int, minimum=1),
        num_experts_per_tok=fields.take("expert_used_count", int, minimum=1),
        max_position_embeddings=fields.take(
            "context_length", int, minimum=1, maximum=LARGEST_CONTEXT
        ),
        # Files from before these keys hold the released model.
        embedding_multiplier_scale=fields.take(
            "embedding_scale", float, PUBLISHED.embedding_multiplier_scale
        ),
        output_multiplier_scale=fields.take(
            "logit_scale", float, PUBLISHED.output_multiplier_scale
        ),
        attn_output_multiplier=fields.take(
            "attention.output_scale", float, PUBLISHED.attn_output_multiplier
        ),
        max_attn_value=fields.take(
            "attn_logit_softcapping", float, PUBLISHED.max_attn_value, minimum=1e-3
        ),
        rms_norm_eps=fields.take("attention.layer_norm_rms_epsilon", float, minimum=0.0),
        rope=RopeParameters(theta=fields.take("rope.freq_base", float, 10000.0, minimum=1.0)),
        tie_word_embeddings="output.weight" not in source.tensors,
    )
    fields.done()
    return config


def settings_to_hf(config: Grok1Config) -> dict[str, object]:
    """config.json of HPC-AI Tech's port."""
    return {
        "architectures": ["Grok1ModelForCausalLM"],
        "model_type": "grok-1",
        **shared_settings_to_hf(config),
        "num_experts": config.num_experts,
    }


def shared_settings_to_hf(config: Grok1Config) -> dict[str, object]:
    """The inverse of `settings_from_hf`, but for the number of experts."""
    same = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "num_experts_per_tok",
        "max_position_embeddings",
        "embedding_multiplier_scale",
        "output_multiplier_scale",
        "attn_output_multiplier",
        "max_attn_value",
        "rms_norm_eps",
        "pad_token_id",
        "tie_word_embeddings",
    )
    return {
        "hidden_act": "gelu_pytorch_tanh",
        **{key: getattr(config, key) for key in same},
        **rope_to_hf(config.rope, config.head_dim),
    }


def settings_to_gguf(config: Grok1Config) -> dict[str, object]:
    """Metadata of architecture `grok`; llama.cpp masks no padding there."""
    if config.rope.kind != "default" or config.pad_token_id != Grok1Config.pad_token_id:
        raise ConfigError(
            "pad_token_id is {pad} and rope_type {rope}; a GGUF of grok means {known} and default.",
            hint="Export it to hf.",
            pad=config.pad_token_id,
            rope=config.rope.kind,
            known=Grok1Config.pad_token_id,
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
        "attention.output_scale": config.attn_output_multiplier,
        "attn_logit_softcapping": config.max_attn_value,
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": config.rope.theta,
        "expert_count": config.num_experts,
        "expert_used_count": config.num_experts_per_tok,
        "embedding_scale": config.embedding_multiplier_scale,
        "logit_scale": config.output_multiplier_scale,
    }
    named = {f"grok.{key}": value for key, value in settings.items()}
    return {"general.architecture": "grok", **named}


HF_NAMES = {
    "model.norm.weight": "model.norm.scale",
    "model.layers.{n}.pre_attn_norm.weight": "model.layers.{n}.pre_attn_norm.scale",
    "model.layers.{n}.post_attn_norm.weight": "model.layers.{n}.post_attn_norm.scale",
    "model.layers.{n}.pre_moe_norm.weight": "model.layers.{n}.pre_moe_norm.scale",
    "model.layers.{n}.post_moe_norm.weight": "model.layers.{n}.post_moe_norm.scale",
    **{
        f"model.layers.{{n}}.moe_block.experts.{part}": (
            f"model.layers.{{n}}.moe_block.experts.{{e}}.{part}.weight"
        )
        for part in ("linear", "linear_v", "linear_1")
    },
}

_LAYER_NAMES = {
    "pre_attn_norm.weight": ("rms_norm/scale", "attn_norm.weight"),
    "attn.q_proj.weight": ("multi_head_attention/query/w", "attn_q.weight"),
    "attn.k_proj.weight": ("multi_head_attention/key/w", "attn_k.weight"),
    "attn.v_proj.weight": ("multi_head_attention/value/w", "attn_v.weight"),
    "attn.o_proj.weight": ("multi_head_attention/linear/w", "attn_output.weight"),
    "post_attn_norm.weight": ("rms_norm_1/scale", "attn_output_norm.weight"),
    "pre_moe_norm.weight": ("rms_norm_2/scale", "ffn_norm.weight"),
    "moe_block.gate.weight": ("router/w", "ffn_gate_inp.weight"),
    "moe_block.experts.linear": ("moe/linear/w", "ffn_gate_exps.weight"),
    "moe_block.experts.linear_v": ("moe/linear_v/w", "ffn_up_exps.weight"),
    "moe_block.experts.linear_1": ("moe/linear_1/w", "ffn_down_exps.weight"),
    "post_moe_norm.weight": ("rms_norm_3/scale", "layer_output_norm.weight"),
}
"""A layer's parameter -> its name in xAI's tree and in a GGUF."""

XAI_NAMES = {
    "model.embed_tokens.weight": _EMBEDDING,
    "model.norm.weight": "language_model/rms_norm/scale",
    **{
        f"model.layers.{{n}}.{ours}": f"transformer/decoder_layer_{{n}}/{theirs}"
        for ours, (theirs, _) in _LAYER_NAMES.items()
    },
}
GGUF_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    **{
        f"model.layers.{{n}}.{ours}": f"blk.{{n}}.{theirs}"
        for ours, (_, theirs) in _LAYER_NAMES.items()
    },
}

DIALECTS = {
    "xai": Dialect(config=config_from_xai, names=XAI_NAMES, pairs={}),
    "hf": Dialect(config=config_from_hf, names=HF_NAMES, pairs={}, settings=settings_to_hf),
    "gguf": Dialect(config=config_from_gguf, names=GGUF_NAMES, pairs={}, settings=settings_to_gguf),
}
