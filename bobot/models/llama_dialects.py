"""The forms in which Llama and Mistral models are published: how each names settings and tensors.

hf       Hugging Face `config.json` (Llama and Mistral classes; flat or nested rotary settings)
meta     Meta `params.json` + `consolidated.NN.pth` (adjacent rotary pairs)
mistral  Mistral `params.json` + `consolidated.safetensors` (adjacent rotary pairs)
gguf     llama.cpp `general.architecture = llama` (adjacent rotary pairs)
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from bobot.errors import ConfigError
from bobot.models.config import (
    HF_BOOKKEEPING,
    LARGEST_CONTEXT,
    Dialect,
    Fields,
    TensorSource,
    frequency_divisors,
    gguf_fields,
    rope_from_hf,
    rope_to_hf,
)
from bobot.models.llama import LlamaConfig
from bobot.ops.rope import RopeParameters


def _context(fields: Fields, key: str, default: int | None = None) -> int:
    if default is not None and key not in fields.left:
        return default
    return fields.take(key, int, minimum=1, maximum=LARGEST_CONTEXT)


def config_from_hf(source: TensorSource) -> LlamaConfig:
    fields = Fields(source.config, "config.json")
    settings = settings_from_hf(fields, has_window=fields.left.get("model_type") == "mistral")
    settings["attention_bias"] = fields.take("attention_bias", bool, False)
    settings["mlp_bias"] = fields.take("mlp_bias", bool, False)
    fields.done()
    return LlamaConfig(**settings)


def settings_from_hf(fields: Fields, *, has_window: bool) -> dict[str, Any]:
    """What Llama, Mistral and Mixtral say in the same words."""
    fields.ignore(*HF_BOOKKEEPING)
    fields.take_one_of("hidden_act", ["silu", "swish"], "silu")
    hidden_size = fields.take("hidden_size", int, minimum=1)
    num_heads = fields.take("num_attention_heads", int, minimum=1)
    head_dim = fields.take("head_dim", int, hidden_size // num_heads, minimum=2)
    return {
        "vocab_size": fields.take("vocab_size", int, minimum=1),
        "hidden_size": hidden_size,
        "intermediate_size": fields.take("intermediate_size", int, minimum=1),
        "num_hidden_layers": fields.take("num_hidden_layers", int, minimum=1),
        "num_attention_heads": num_heads,
        "num_key_value_heads": fields.take("num_key_value_heads", int, num_heads, minimum=1),
        "head_dim": head_dim,
        "max_position_embeddings": _context(fields, "max_position_embeddings"),
        "rms_norm_eps": fields.take("rms_norm_eps", float, minimum=0.0),
        "rope": rope_from_hf(fields),
        "tie_word_embeddings": fields.take("tie_word_embeddings", bool, False),
        "sliding_window": (fields.take("sliding_window", int, 0, minimum=1) or None)
        if has_window
        else None,
    }


def config_from_meta(source: TensorSource) -> LlamaConfig:
    """`params.json`; what it leaves out (context, tied output, vocabulary of Llama 2) comes from
    the tensors.
    """
    fields = Fields(source.config, "params.json")
    dim = fields.take("dim", int, minimum=1)
    num_heads = fields.take("n_heads", int, minimum=1)
    theta = fields.take("rope_theta", float, 10000.0, minimum=1.0)
    rope = RopeParameters(theta=theta)
    max_positions = 8192 if theta >= 500000 else 4096
    factor = fields.take("rope_scaling_factor", float, 8.0, minimum=1.0)
    high_freq_factor = fields.take("rope_high_freq_factor", float, 4.0, minimum=1.0)
    if fields.take("use_scaled_rope", bool, False):
        rope = RopeParameters(
            theta=theta, kind="llama3", factor=factor, high_freq_factor=high_freq_factor
        )
        max_positions = 131072
    width = int(2 * 4 * dim / 3)
    width = int(fields.take("ffn_dim_multiplier", float, 1.0, minimum=0.0) * width)
    multiple = fields.take("multiple_of", int, minimum=1)
    vocab_size = fields.take("vocab_size", int, minimum=-1)
    if vocab_size == -1:  # Llama 2: the shards have equal parts of the rows
        vocab_size = source.tensors["output.weight"].shape[0] * source.num_shards
    fields.ignore("max_batch_size")
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=dim,
        intermediate_size=-(-width // multiple) * multiple,
        num_hidden_layers=fields.take("n_layers", int, minimum=1),
        num_attention_heads=num_heads,
        num_key_value_heads=fields.take("n_kv_heads", int, num_heads, minimum=1),
        head_dim=dim // num_heads,
        max_position_embeddings=_context(fields, "max_seq_len", max_positions),
        rms_norm_eps=fields.take("norm_eps", float, minimum=0.0),
        rope=rope,
        tie_word_embeddings="output.weight" not in source.tensors,
    )
    fields.done()
    return config


def config_from_mistral(source: TensorSource) -> LlamaConfig:
    fields = Fields(source.config, "params.json")
    settings = settings_from_mistral(fields, source)
    fields.done()
    return LlamaConfig(**settings)


def settings_from_mistral(fields: Fields, source: TensorSource) -> dict[str, Any]:
    """What Mistral's models say in the same words, with and without experts."""
    fields.take_one_of("model_type", ["transformer"], "transformer")
    fields.take_one_of("use_biases", [False], False)
    num_heads = fields.take("n_heads", int, minimum=1)
    max_positions = _context(fields, "max_position_embeddings", 32768)
    return {
        "vocab_size": fields.take("vocab_size", int, minimum=1),
        "hidden_size": fields.take("dim", int, minimum=1),
        "intermediate_size": fields.take("hidden_dim", int, minimum=1),
        "num_hidden_layers": fields.take("n_layers", int, minimum=1),
        "num_attention_heads": num_heads,
        "num_key_value_heads": fields.take("n_kv_heads", int, num_heads, minimum=1),
        "head_dim": fields.take("head_dim", int, minimum=2),
        "max_position_embeddings": _context(fields, "max_seq_len", max_positions),
        "rms_norm_eps": fields.take("norm_eps", float, minimum=0.0),
        "rope": RopeParameters(theta=fields.take("rope_theta", float, 10000.0, minimum=1.0)),
        "sliding_window": fields.take("sliding_window", int, 0, minimum=1) or None,
        "tie_word_embeddings": fields.take(
            "tied_embeddings", bool, "output.weight" not in source.tensors
        ),
    }


def config_from_gguf(source: TensorSource) -> LlamaConfig:
    fields = gguf_fields(source, "llama")
    settings = settings_from_gguf(fields, source)
    fields.take_one_of("expert_count", [0], 0)
    fields.take_one_of("expert_used_count", [0], 0)
    settings["attention_bias"] = "blk.0.attn_q.bias" in source.tensors
    settings["mlp_bias"] = "blk.0.ffn_gate.bias" in source.tensors
    fields.done()
    return LlamaConfig(**settings)


def settings_from_gguf(fields: Fields, source: TensorSource) -> dict[str, Any]:
    """What architecture `llama` says in the same words, with and without experts."""
    hidden_size = fields.take("embedding_length", int, minimum=1)
    num_heads = fields.take("attention.head_count", int, minimum=1)
    head_dim = fields.take("attention.key_length", int, hidden_size // num_heads, minimum=2)
    fields.take_one_of("attention.value_length", [head_dim], head_dim)
    fields.take_one_of("rope.dimension_count", [head_dim], head_dim)
    fields.ignore("vocab_size")  # the embedding has the true number of rows
    return {
        "vocab_size": source.tensors["token_embd.weight"].shape[0],
        "hidden_size": hidden_size,
        "intermediate_size": fields.take("feed_forward_length", int, minimum=1),
        "num_hidden_layers": fields.take("block_count", int, minimum=1),
        "num_attention_heads": num_heads,
        "num_key_value_heads": fields.take("attention.head_count_kv", int, num_heads, minimum=1),
        "head_dim": head_dim,
        "max_position_embeddings": _context(fields, "context_length"),
        "rms_norm_eps": fields.take("attention.layer_norm_rms_epsilon", float, minimum=0.0),
        "rope": _rope_from_gguf(fields, source, head_dim),
        "sliding_window": fields.take("attention.sliding_window", int, 0, minimum=1) or None,
        "tie_word_embeddings": "output.weight" not in source.tensors,
    }


def _rope_from_gguf(fields: Fields, source: TensorSource, head_dim: int) -> RopeParameters:
    theta = fields.take("rope.freq_base", float, 10000.0, minimum=1.0)
    kind = fields.take_one_of("rope.scaling.type", ["none", "linear"], "none")
    factor = fields.take("rope.scaling.factor", float, 1.0, minimum=1.0)
    fields.ignore("rope.scaling.original_context_length", "rope.scaling.finetuned")
    # Llama 3.1: the scaling is stored as computed divisors.
    if "rope_freqs.weight" in source.tensors:
        divisors = source.read("rope_freqs.weight", (head_dim // 2,)).tolist()
        return RopeParameters(theta=theta, freq_divisors=tuple(divisors))
    return RopeParameters(
        theta=theta, kind="linear" if kind == "linear" else "default", factor=factor
    )


def settings_to_hf(config: LlamaConfig) -> dict[str, object]:
    """config.json of a Llama, or of a Mistral if it has a window."""
    is_mistral = config.sliding_window is not None
    settings: dict[str, object] = {
        "architectures": ["MistralForCausalLM" if is_mistral else "LlamaForCausalLM"],
        "model_type": "mistral" if is_mistral else "llama",
        **shared_settings_to_hf(config),
    }
    if is_mistral:
        settings["sliding_window"] = config.sliding_window
    return settings | {"attention_bias": config.attention_bias, "mlp_bias": config.mlp_bias}


def shared_settings_to_hf(config: LlamaConfig) -> dict[str, object]:
    """The inverse of `settings_from_hf`, but for the window."""
    same = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "max_position_embeddings",
        "rms_norm_eps",
        "tie_word_embeddings",
    )
    return {
        "hidden_act": "silu",
        **{key: getattr(config, key) for key in same},
        **rope_to_hf(config.rope, config.head_dim),
    }


def settings_to_gguf(config: LlamaConfig) -> dict[str, object]:
    """Metadata of architecture `llama`. llama.cpp reads the window, but does not apply it."""
    rope = config.rope
    if rope.kind == "yarn":
        raise ConfigError(
            "rope_type is yarn; a GGUF of architecture llama says {allowed}.",
            hint="Export it to hf.",
            allowed="default, linear, llama3",
        )
    settings: dict[str, object] = {
        "general.architecture": "llama",
        "llama.vocab_size": config.vocab_size,
        "llama.context_length": config.max_position_embeddings,
        "llama.embedding_length": config.hidden_size,
        "llama.block_count": config.num_hidden_layers,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "llama.attention.key_length": config.head_dim,
        "llama.attention.value_length": config.head_dim,
        "llama.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "llama.rope.dimension_count": config.head_dim,
        "llama.rope.freq_base": rope.theta,
    }
    if rope.kind == "linear":
        settings |= {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": rope.factor}
    if config.sliding_window is not None:
        settings["llama.attention.sliding_window"] = config.sliding_window
    return settings


def computed_for_gguf(config: LlamaConfig) -> dict[str, Tensor]:
    """Llama 3.1's scaling, which GGUF stores as the divisors it comes to."""
    rope = config.rope
    if rope.kind != "llama3" and not rope.freq_divisors:
        return {}
    return {"rope_freqs.weight": frequency_divisors(rope, config.head_dim)}


def _names(layer_prefix: str, outer: dict[str, str], inner: dict[str, str]) -> dict[str, str]:
    """Our parameter name -> theirs; every layer part exists as weight and as bias."""
    names = {f"{ours}.weight": f"{theirs}.weight" for ours, theirs in outer.items()}
    for ours, theirs in inner.items():
        for kind in ("weight", "bias"):
            names[f"model.layers.{{n}}.{ours}.{kind}"] = f"{layer_prefix}.{{n}}.{theirs}.{kind}"
    return names


META_NAMES = _names(
    "layers",
    {"model.embed_tokens": "tok_embeddings", "model.norm": "norm", "lm_head": "output"},
    {
        "input_layernorm": "attention_norm",
        "self_attn.q_proj": "attention.wq",
        "self_attn.k_proj": "attention.wk",
        "self_attn.v_proj": "attention.wv",
        "self_attn.o_proj": "attention.wo",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "feed_forward.w1",
        "mlp.down_proj": "feed_forward.w2",
        "mlp.up_proj": "feed_forward.w3",
    },
)
GGUF_NAMES = _names(
    "blk",
    {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"},
    {
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.down_proj": "ffn_down",
        "mlp.up_proj": "ffn_up",
    },
)


def _num_heads(config: Any) -> int:
    return config.num_attention_heads


def _num_kv_heads(config: Any) -> int:
    return config.num_key_value_heads


PAIRS = {
    f"model.layers.{{n}}.self_attn.{part}_proj.{kind}": num_heads
    for part, num_heads in (("q", _num_heads), ("k", _num_kv_heads))
    for kind in ("weight", "bias")
}

DIALECTS = {
    "hf": Dialect(
        config=config_from_hf,
        names={},
        pairs={},
        ignored=("model.layers.{n}.self_attn.rotary_emb.inv_freq",),
        settings=settings_to_hf,
    ),
    "meta": Dialect(
        config=config_from_meta, names=META_NAMES, pairs=PAIRS, ignored=("rope.freqs",)
    ),
    "mistral": Dialect(config=config_from_mistral, names=META_NAMES, pairs=PAIRS),
    "gguf": Dialect(
        config=config_from_gguf,
        names=GGUF_NAMES,
        pairs=PAIRS,
        ignored=("rope_freqs.weight",),
        settings=settings_to_gguf,
        computed=computed_for_gguf,
    ),
}
