"""Which family a checkpoint belongs to, by what its publisher wrote. Families load lazily."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from bobot.errors import ConfigError
from bobot.models.config import Dialect, TensorSource

HF_ARCHITECTURES = {
    "DeepseekV3ForCausalLM": "deepseek_v3",
    "GptOssForCausalLM": "gpt_oss",
    "Grok1ModelForCausalLM": "grok1",
    "GrokForCausalLM": "grok1 with jax names",
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "MixtralForCausalLM": "mixtral",
}
GGUF_ARCHITECTURES = {
    "deepseek2": "deepseek_v3",
    "gpt-oss": "gpt_oss",
    "grok": "grok1",
    "llama": "llama",
    "llama with experts": "mixtral",
}
NATIVE = {
    "meta": "llama",
    "mistral": "llama",
    "mistral with experts": "mixtral",
    "openai": "gpt_oss",
    "xai": "grok1",
}
"""Forms whose settings file does not name an architecture."""

_FAMILIES = {
    "deepseek_v3": ("bobot.models.deepseek_v3", "DeepseekV3", "bobot.models.deepseek_v3_dialects"),
    "gpt_oss": ("bobot.models.gpt_oss", "GptOss", "bobot.models.gpt_oss_dialects"),
    "grok1": ("bobot.models.grok1", "Grok1", "bobot.models.grok1_dialects"),
    "grok1 with jax names": ("bobot.models.grok1", "Grok1", "bobot.models.grok1_jax_names"),
    "llama": ("bobot.models.llama", "Llama", "bobot.models.llama_dialects"),
    "mixtral": ("bobot.models.mixtral", "Mixtral", "bobot.models.mixtral_dialects"),
}


@dataclass(frozen=True)
class Family:
    """A model definition with the forms it is published in."""

    name: str
    model: Callable[[Any], Any]
    dialects: Mapping[str, Dialect]


def family_of(checkpoint: TensorSource, dialect: str) -> Family:
    """The family that the checkpoint's settings name. Raises ConfigError for an unknown one."""
    if dialect == "hf":
        found = _hf_architecture(checkpoint.config)
        known = HF_ARCHITECTURES
    elif dialect == "gguf":
        found = checkpoint.config.get("general.architecture")
        known = GGUF_ARCHITECTURES
        if found == "llama" and checkpoint.config.get("llama.expert_count"):
            found = "llama with experts"
    else:
        found, known = dialect, NATIVE
        if "moe" in checkpoint.config:
            found = f"{dialect} with experts"
    if found not in known:
        raise ConfigError(
            "The architecture is {found!r}; this version of bobot runs {allowed}.",
            hint="Choose another model, or a newer bobot.",
            found=found,
            allowed=", ".join(sorted(known)),
        )
    return family_named(known[found])


def family_named(name: str) -> Family:
    """The family of that name, which is one of ours."""
    module, model, dialects = _FAMILIES[name]
    return Family(name, getattr(import_module(module), model), import_module(dialects).DIALECTS)


def _hf_architecture(config: Mapping[str, Any]) -> Any:
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or len(architectures) != 1:
        raise ConfigError(
            "config.json: architectures is {found!r}; it must be a list of one name.",
            found=architectures,
        )
    return architectures[0]
