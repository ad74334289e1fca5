"""The forms in which DeepSeek-V3 and Kimi K2 are published: how each names settings and tensors.

hf    Hugging Face `config.json`: bf16, FP8 in blocks of 128 x 128, or int4 experts (Kimi K2
      Thinking). The loader finds packed tensors; the names are ours.
gguf  llama.cpp `general.architecture = deepseek2`, from version b5169 (April 2025) on, when the two
      halves of kv_b_proj became tensors of their own.

Rotary pairs are adjacent in both, and stay so: see `rotate_pairs`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bobot.errors import CheckpointError, ConfigError
from bobot.models.config import (
    HF_BOOKKEEPING,
    LARGEST_CONTEXT,
    Derived,
    Dialect,
    Fields,
    TensorSource,
    gguf_fields,
    rope_from_hf,
    rope_to_hf,
)
from bobot.models.deepseek_v3 import DeepseekV3Config
from bobot.ops.rope import RopeParameters
from bobot.quant.weight import Weight

LARGEST_COUNT = 2**14
"""No published model has more heads or experts, or wider heads; a file that says so is damaged."""

_NOT_NEEDED = (
    "aux_loss_alpha",
    "auto_map",
    "ep_size",
    "output_router_logits",
    "rope_interleave",
    "router_aux_loss_coef",
    "seq_aux",
)
"""What training, the publisher's own code and its parallel form read."""

_SIGMOID = 2
"""expert_gating_func of llama.cpp."""


def config_from_hf(source: TensorSource) -> DeepseekV3Config:
    fields = Fields(source.config, "config.json")
    fields.take_one_of("model_type", ["deepseek_v3", "kimi_k2"])
    fields.take_one_of("rope_interleave", [True], True)
    fields.ignore(*HF_BOOKKEEPING, *_NOT_NEEDED)
    fields.take_one_of("hidden_act", ["silu", "swish"], "silu")
    fields.take_one_of("scoring_func", ["sigmoid"], "sigmoid")
    fields.take_one_of("topk_method", ["noaux_tc"], "noaux_tc")
    fields.take_one_of("moe_layer_freq", [1], 1)
    fields.take_one_of("attention_bias", [False], False)
    num_heads = fields.take("num_attention_heads", int, minimum=1, maximum=LARGEST_COUNT)
    fields.take_one_of("num_key_value_heads", [num_heads], num_heads)
    plain = fields.take("qk_nope_head_dim", int, minimum=1, maximum=LARGEST_COUNT)
    rotary = fields.take("qk_rope_head_dim", int, minimum=2, maximum=LARGEST_COUNT)
    fields.take_one_of("qk_head_dim", [plain + rotary], plain + rotary)
    fields.take_one_of("head_dim", [rotary], rotary)  # as transformers writes it
    config = DeepseekV3Config(
        vocab_size=fields.take("vocab_size", int, minimum=1),
        hidden_size=fields.take("hidden_size", int, minimum=1),
        intermediate_size=fields.take("intermediate_size", int, minimum=1),
        moe_intermediate_size=fields.take("moe_intermediate_size", int, minimum=1),
        num_hidden_layers=fields.take("num_hidden_layers", int, minimum=1),
        first_k_dense_replace=fields.take("first_k_dense_replace", int, minimum=0),
        num_attention_heads=num_heads,
        q_lora_rank=fields.take("q_lora_rank", int, 0, minimum=1) or None,
        kv_lora_rank=fields.take("kv_lora_rank", int, minimum=1),
        qk_nope_head_dim=plain,
        qk_rope_head_dim=rotary,
        v_head_dim=fields.take("v_head_dim", int, minimum=1, maximum=LARGEST_COUNT),
        n_routed_experts=fields.take("n_routed_experts", int, minimum=1, maximum=LARGEST_COUNT),
        n_shared_experts=fields.take("n_shared_experts", int, minimum=1, maximum=LARGEST_COUNT),
        num_experts_per_tok=fields.take("num_experts_per_tok", int, minimum=1),
        n_group=fields.take("n_group", int, 1, minimum=1),
        topk_group=fields.take("topk_group", int, 1, minimum=1),
        norm_topk_prob=fields.take("norm_topk_prob", bool),
        routed_scaling_factor=fields.take("routed_scaling_factor", float, minimum=0.0),
        max_position_embeddings=_context(fields, "max_position_embeddings"),
        rms_norm_eps=fields.take("rms_norm_eps", float, minimum=0.0),
        rope=rope_from_hf(fields),
        tie_word_embeddings=fields.take("tie_word_embeddings", bool, False),
        num_nextn_predict_layers=fields.take(
            "num_nextn_predict_layers", int, 0, minimum=0, maximum=16
        ),
    )
    fields.done()
    return config


def _context(fields: Fields, key: str) -> int:
    return fields.take(key, int, minimum=1, maximum=LARGEST_CONTEXT)


def config_from_gguf(source: TensorSource) -> DeepseekV3Config:
    fields = gguf_fields(source, "deepseek2")
    if "attention.key_length_mla" not in fields.left:
        raise ConfigError(
            "This GGUF is from before April 2025 (it has no attention.key_length_mla) and keeps "
            "keys and values of all heads in one tensor; bobot reads the later form.",
            hint="Take a newer file of the same model.",
        )
    latent = fields.take("attention.kv_lora_rank", int, minimum=1)
    rotary = fields.take("rope.dimension_count", int, minimum=2, maximum=LARGEST_COUNT)
    fields.take_one_of("attention.head_count_kv", [1])
    fields.take_one_of("attention.key_length", [latent + rotary])
    fields.take_one_of("attention.value_length", [latent])
    fields.take_one_of("expert_gating_func", [_SIGMOID])
    fields.take_one_of("nextn_predict_layers", [0], 0)
    fields.ignore("vocab_size")  # the embedding has the true number of rows
    num_experts = fields.take("expert_count", int, minimum=1, maximum=LARGEST_COUNT)
    # Files from before llama.cpp knew groups do not name them. Of the published models only
    # DeepSeek-V3 and R1 have any, and only they have 256 experts.
    groups, best_groups = (8, 4) if num_experts == 256 else (1, 1)
    config = DeepseekV3Config(
        vocab_size=source.tensors["token_embd.weight"].shape[0],
        hidden_size=fields.take("embedding_length", int, minimum=1),
        intermediate_size=fields.take("feed_forward_length", int, minimum=1),
        moe_intermediate_size=fields.take("expert_feed_forward_length", int, minimum=1),
        num_hidden_layers=fields.take("block_count", int, minimum=1),
        first_k_dense_replace=fields.take("leading_dense_block_count", int, minimum=0),
        num_attention_heads=fields.take(
            "attention.head_count", int, minimum=1, maximum=LARGEST_COUNT
        ),
        q_lora_rank=fields.take("attention.q_lora_rank", int, 0, minimum=1) or None,
        kv_lora_rank=latent,
        qk_nope_head_dim=fields.take(
            "attention.key_length_mla", int, minimum=rotary + 1, maximum=2 * LARGEST_COUNT
        )
        - rotary,
        qk_rope_head_dim=rotary,
        v_head_dim=fields.take("attention.value_length_mla", int, minimum=1, maximum=LARGEST_COUNT),
        n_routed_experts=num_experts,
        n_shared_experts=fields.take("expert_shared_count", int, minimum=1, maximum=LARGEST_COUNT),
        num_experts_per_tok=fields.take("expert_used_count", int, minimum=1),
        n_group=fields.take("expert_group_count", int, groups, minimum=1),
        topk_group=fields.take("expert_group_used_count", int, best_groups, minimum=1),
        norm_topk_prob=fields.take("expert_weights_norm", bool, False),
        routed_scaling_factor=fields.take("expert_weights_scale", float, 1.0, minimum=0.0),
        max_position_embeddings=_context(fields, "context_length"),
        rms_norm_eps=fields.take("attention.layer_norm_rms_epsilon", float, minimum=0.0),
        rope=_rope_from_gguf(fields),
        tie_word_embeddings="output.weight" not in source.tensors,
    )
    fields.done()
    return config


def _rope_from_gguf(fields: Fields) -> RopeParameters:
    """Rotary settings; unlike llama.cpp, the beta_fast in the file is the one that counts.

    The file keeps 0.1 * mscale_all_dim as yarn_log_multiplier and leaves mscale out; all published
    models have the two equal.
    """
    theta = fields.take("rope.freq_base", float, 10000.0, minimum=1.0)
    kind = fields.take_one_of("rope.scaling.type", ["none", "yarn"], "none")
    fields.ignore("rope.scaling.finetuned")
    if kind == "none":
        return RopeParameters(theta=theta)
    mscale = 10 * fields.take("rope.scaling.yarn_log_multiplier", float, 0.0, minimum=0.0)
    return RopeParameters(
        theta=theta,
        kind="yarn",
        factor=fields.take("rope.scaling.factor", float, minimum=1.0),
        original_max_position_embeddings=_context(fields, "rope.scaling.original_context_length"),
        beta_fast=fields.take(
            "rope.scaling.yarn_beta_fast", float, 32.0, minimum=1e-3, maximum=1e6
        ),
        beta_slow=fields.take("rope.scaling.yarn_beta_slow", float, 1.0, minimum=1e-3, maximum=1e6),
        mscale=mscale or None,
        mscale_all_dim=mscale or None,
    )


def kv_b_from_halves(config: DeepseekV3Config, key: Weight, value: Weight) -> Tensor:
    """kv_b_proj from attn_k_b (N, C, P), which is transposed, and attn_v_b (N, U, C).

    Blocks of a quantized attn_k_b run along the other axis, so these two tensors are unpacked (2 %
    of a layer's active weights); all others stay as they are.
    """
    n, c = config.num_attention_heads, config.kv_lora_rank
    wanted = [(n, c, config.qk_nope_head_dim), (n, config.v_head_dim, c)]
    found = [tuple(key.shape), tuple(value.shape)]
    if found != wanted:
        raise CheckpointError(
            "attn_k_b and attn_v_b are stored as {found}; the settings ask for {wanted}.",
            hint="Take a file that llama.cpp's own converter wrote.",
            found=found,
            wanted=wanted,
        )
    key_NCP, value_NUC = (w if isinstance(w, Tensor) else w.dequantize() for w in (key, value))
    return torch.cat((key_NCP.transpose(1, 2), value_NUC), dim=1).flatten(0, 1)


def halves_of_kv_b(config: DeepseekV3Config, weight: Weight) -> tuple[Tensor, Tensor]:
    """The inverse of `kv_b_from_halves`; a packed weight becomes bf16."""
    values = weight if isinstance(weight, Tensor) else weight.dequantize().bfloat16()
    per_head = values.unflatten(0, (config.num_attention_heads, -1))
    key, value = per_head.split((config.qk_nope_head_dim, config.v_head_dim), dim=1)
    return key.transpose(1, 2), value


def settings_to_hf(config: DeepseekV3Config) -> dict[str, object]:
    same = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "moe_intermediate_size",
        "num_hidden_layers",
        "first_k_dense_replace",
        "num_attention_heads",
        "q_lora_rank",
        "kv_lora_rank",
        "qk_nope_head_dim",
        "qk_rope_head_dim",
        "v_head_dim",
        "n_routed_experts",
        "n_shared_experts",
        "num_experts_per_tok",
        "n_group",
        "topk_group",
        "norm_topk_prob",
        "routed_scaling_factor",
        "max_position_embeddings",
        "rms_norm_eps",
        "tie_word_embeddings",
    )
    return {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "hidden_act": "silu",
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "num_key_value_heads": config.num_attention_heads,
        "attention_bias": False,
        **{key: getattr(config, key) for key in same},
        **rope_to_hf(config.rope, config.qk_rope_head_dim),
    }


def settings_to_gguf(config: DeepseekV3Config) -> dict[str, object]:
    """Metadata of architecture `deepseek2`. llama.cpp takes 32 for yarn_beta_fast, whatever stands
    there.
    """
    settings: dict[str, object] = {
        "vocab_size": config.vocab_size,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "leading_dense_block_count": config.first_k_dense_replace,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": 1,
        "attention.kv_lora_rank": config.kv_lora_rank,
        "attention.key_length": config.kv_lora_rank + config.qk_rope_head_dim,
        "attention.value_length": config.kv_lora_rank,
        "attention.key_length_mla": config.qk_nope_head_dim + config.qk_rope_head_dim,
        "attention.value_length_mla": config.v_head_dim,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.dimension_count": config.qk_rope_head_dim,
        "rope.freq_base": config.rope.theta,
        "expert_count": config.n_routed_experts,
        "expert_used_count": config.num_experts_per_tok,
        "expert_shared_count": config.n_shared_experts,
        "expert_feed_forward_length": config.moe_intermediate_size,
        "expert_group_count": config.n_group,
        "expert_group_used_count": config.topk_group,
        "expert_gating_func": _SIGMOID,
        "expert_weights_scale": config.routed_scaling_factor,
        "expert_weights_norm": config.norm_topk_prob,
        **_rope_to_gguf(config.rope),
    }
    if config.q_lora_rank is not None:
        settings["attention.q_lora_rank"] = config.q_lora_rank
    named = {f"deepseek2.{key}": value for key, value in settings.items()}
    return {"general.architecture": "deepseek2", **named}


def _rope_to_gguf(rope: RopeParameters) -> dict[str, object]:
    if rope.kind == "default":
        return {}
    if rope.kind != "yarn" or not rope.truncate or rope.mscale != rope.mscale_all_dim:
        raise ConfigError(
            "rope_scaling is {found}; a GGUF of deepseek2 says yarn with rounded bounds and one "
            "mscale.",
            hint="Export it to hf.",
            found=rope,
        )
    settings: dict[str, object] = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": rope.factor,
        "rope.scaling.original_context_length": rope.original_max_position_embeddings,
        "rope.scaling.yarn_beta_fast": rope.beta_fast,
        "rope.scaling.yarn_beta_slow": rope.beta_slow,
    }
    if rope.mscale_all_dim:
        settings["rope.scaling.yarn_log_multiplier"] = 0.1 * rope.mscale_all_dim
    return settings


def _layers_behind(config: DeepseekV3Config) -> tuple[str, ...]:
    """DeepSeek-V3's layer 61 guesses a second token (multi-token prediction); it is not needed."""
    first = config.num_hidden_layers
    last = first + config.num_nextn_predict_layers
    return tuple(f"model.layers.{n}." for n in range(first, last))


_LAYER = "model.layers.{n}."
_EXPERTS = f"{_LAYER}mlp.experts."

_GGUF_PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
    "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp",
}

DIALECTS: dict[str, Dialect] = {
    "hf": Dialect(
        config=config_from_hf,
        names={
            f"{_EXPERTS}{w}_proj": f"{_EXPERTS}{{e}}.{w}_proj.weight"
            for w in ("gate", "up", "down")
        },
        pairs={},
        ignored=(f"{_LAYER}self_attn.rotary_emb.inv_freq",),
        ignored_prefixes=_layers_behind,
        settings=settings_to_hf,
    ),
    "gguf": Dialect(
        config=config_from_gguf,
        names={
            "model.embed_tokens.weight": "token_embd.weight",
            "model.norm.weight": "output_norm.weight",
            "lm_head.weight": "output.weight",
            **{
                f"{_LAYER}{ours}.weight": f"blk.{{n}}.{theirs}.weight"
                for ours, theirs in _GGUF_PARTS.items()
            },
            **{
                f"{_EXPERTS}{w}_proj": f"blk.{{n}}.ffn_{w}_exps.weight"
                for w in ("gate", "up", "down")
            },
            f"{_LAYER}mlp.gate.e_score_correction_bias": "blk.{n}.exp_probs_b.bias",
            f"{_LAYER}self_attn.kv_b_proj.weight": Derived(
                ("blk.{n}.attn_k_b.weight", "blk.{n}.attn_v_b.weight"),
                kv_b_from_halves,
                halves_of_kv_b,
            ),
        },
        pairs={},
        settings=settings_to_gguf,
    ),
}
