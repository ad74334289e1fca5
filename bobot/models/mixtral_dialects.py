"""The forms in which Mixtral is published: Hugging Face, Mistral's own, and GGUF."""

from __future__ import annotations

from typing import Any

from bobot.models.config import Dialect, Fields, TensorSource, gguf_fields
from bobot.models.llama_dialects import (
    GGUF_NAMES,
    META_NAMES,
    PAIRS,
    computed_for_gguf,
    settings_from_gguf,
    settings_from_hf,
    settings_from_mistral,
    shared_settings_to_hf,
)
from bobot.models.llama_dialects import settings_to_gguf as llama_to_gguf
from bobot.models.mixtral import MixtralConfig


def config_from_hf(source: TensorSource) -> MixtralConfig:
    fields = Fields(source.config, "config.json")
    settings = settings_from_hf(fields, has_window=True)
    # Only training reads these.
    fields.ignore("output_router_logits", "router_aux_loss_coef", "router_jitter_noise")
    return _with_experts(fields, settings, "num_local_experts", "num_experts_per_tok")


def config_from_mistral(source: TensorSource) -> MixtralConfig:
    fields = Fields(source.config, "params.json")
    settings = settings_from_mistral(fields, source)
    experts = fields.left.pop("moe", None)
    if not isinstance(experts, dict):
        raise fields.wrong("moe", experts, "an object with num_experts and num_experts_per_tok")
    fields.done()
    return _with_experts(
        Fields(experts, "params.json (moe)"), settings, "num_experts", "num_experts_per_tok"
    )


def config_from_gguf(source: TensorSource) -> MixtralConfig:
    fields = gguf_fields(source, "llama")
    settings = settings_from_gguf(fields, source)
    return _with_experts(fields, settings, "expert_count", "expert_used_count")


def _with_experts(
    fields: Fields, settings: dict[str, Any], count_key: str, active_key: str
) -> MixtralConfig:
    """Takes the two numbers under the names they have here, and refuses what is left."""
    config = MixtralConfig(
        **settings,
        num_local_experts=fields.take(count_key, int, minimum=1),
        num_experts_per_tok=fields.take(active_key, int, minimum=1),
    )
    fields.done()
    return config


def settings_to_hf(config: MixtralConfig) -> dict[str, object]:
    return {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        **shared_settings_to_hf(config),
        "sliding_window": config.sliding_window,
        "num_local_experts": config.num_local_experts,
        "num_experts_per_tok": config.num_experts_per_tok,
    }


def settings_to_gguf(config: MixtralConfig) -> dict[str, object]:
    return {
        **llama_to_gguf(config),
        "llama.expert_count": config.num_local_experts,
        "llama.expert_used_count": config.num_experts_per_tok,
    }


_MOE = "model.layers.{n}.block_sparse_moe."

DIALECTS = {
    "hf": Dialect(
        config=config_from_hf,
        names={f"{_MOE}experts.{w}": f"{_MOE}experts.{{e}}.{w}.weight" for w in ("w1", "w2", "w3")},
        pairs={},
        settings=settings_to_hf,
    ),
    "mistral": Dialect(
        config=config_from_mistral,
        names={
            **META_NAMES,
            f"{_MOE}gate.weight": "layers.{n}.feed_forward.gate.weight",
            **{
                f"{_MOE}experts.{w}": f"layers.{{n}}.feed_forward.experts.{{e}}.{w}.weight"
                for w in ("w1", "w2", "w3")
            },
        },
        pairs=PAIRS,
    ),
    "gguf": Dialect(
        config=config_from_gguf,
        names={
            **GGUF_NAMES,
            f"{_MOE}gate.weight": "blk.{n}.ffn_gate_inp.weight",
            f"{_MOE}experts.w1": "blk.{n}.ffn_gate_exps.weight",
            f"{_MOE}experts.w2": "blk.{n}.ffn_down_exps.weight",
            f"{_MOE}experts.w3": "blk.{n}.ffn_up_exps.weight",
        },
        pairs=PAIRS,
        ignored=("rope_freqs.weight",),
        settings=settings_to_gguf,
        computed=computed_for_gguf,
    ),
}
