"""Configs are read strictly, and the published ones give the published sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from bobot.errors import ConfigError
from bobot.models.llama import Llama, LlamaConfig
from bobot.models.llama_dialects import config_from_hf, config_from_meta, config_from_mistral
from bobot.models.registry import family_of
from bobot.ops.rope import RopeParameters


class Source:
    def __init__(
        self,
        config: dict[str, Any],
        shapes: dict[str, tuple[int, ...]] | None = None,
        num_shards: int = 1,
    ) -> None:
        self.config = config
        self.num_shards = num_shards
        self.tensors = {
            name: type("Info", (), {"shape": shape})() for name, shape in (shapes or {}).items()
        }

    def read(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        raise KeyError(name)


BASE = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def hf(**changes: Any) -> LlamaConfig:
    raw = {k: v for k, v in {**BASE, **changes}.items() if v is not ...}
    return config_from_hf(Source(raw))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"surprise": 1}, ["surprise", "1"]),
        ({"hidden_size": ...}, ["hidden_size", "missing"]),
        ({"hidden_size": "64"}, ["hidden_size", "'64'", "int"]),
        ({"hidden_size": True}, ["hidden_size", "True"]),
        ({"hidden_size": -1}, ["hidden_size", "-1", "at least 1"]),
        ({"hidden_size": 2**40}, ["hidden_size", str(2**40), str(2**20)]),
        ({"max_position_embeddings": 2**40}, ["max_position_embeddings", str(2**31)]),
        ({"rms_norm_eps": float("nan")}, ["rms_norm_eps", "nan"]),
        ({"rope_theta": float("inf")}, ["rope_theta", "inf"]),
        ({"hidden_act": "gelu"}, ["hidden_act", "gelu", "silu"]),
        ({"num_key_value_heads": 3}, ["num_attention_heads", "4", "3"]),
        ({"head_dim": 15}, ["head_dim", "15", "even"]),
        ({"rope_scaling": {"rope_type": "mystery", "factor": 2.0}}, ["mystery", "llama3"]),
        ({"rope_scaling": {"type": "linear"}}, ["factor", "missing"]),
        ({"rope_scaling": {**LLAMA3, "extra": 1}}, ["extra"]),
        ({"rope_scaling": {**LLAMA3, "low_freq_factor": 5.0}}, ["high_freq_factor", "5.0"]),
        ({"rope_scaling": [8]}, ["rope_scaling", "[8]"]),
        (
            {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}},
            ["agree", "10000.0", "500000.0"],
        ),
    ],
)
def test_a_wrong_config_is_refused_by_name(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        hf(**changes)
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"
    assert "\n" not in str(caught.value)


def test_flat_and_nested_rope_settings_mean_the_same() -> None:
    flat = hf(rope_theta=500000.0, rope_scaling=LLAMA3)
    nested = hf(rope_parameters={"rope_theta": 500000.0, **LLAMA3})
    both = hf(
        rope_theta=500000.0, rope_scaling=LLAMA3, rope_parameters={"rope_theta": 500000.0, **LLAMA3}
    )
    theta_twice = hf(rope_theta=500000.0, rope_parameters={"rope_theta": 500000.0, **LLAMA3})
    assert flat.rope == nested.rope == both.rope == theta_twice.rope
    assert flat.rope == RopeParameters(theta=500000.0, kind="llama3", factor=8.0)


@pytest.mark.parametrize(
    "architectures", [["GPT2LMHeadModel"], [], None, ["LlamaForCausalLM", "X"], "LlamaForCausalLM"]
)
def test_an_unknown_architecture_is_named(architectures: Any) -> None:
    with pytest.raises(ConfigError, match="architecture"):
        family_of(Source({**BASE, "architectures": architectures}), "hf")  # type: ignore[arg-type]


def published_llama31(layers: int, hidden: int, ffn: int, heads: int) -> LlamaConfig:
    return hf(
        hidden_size=hidden,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=8,
        vocab_size=128256,
        max_position_embeddings=131072,
        rope_theta=500000.0,
        rope_scaling=LLAMA3,
        bos_token_id=128000,
        eos_token_id=[128001, 128008, 128009],
        mlp_bias=False,
    )


def published_llama2_70b() -> LlamaConfig:
    """Meta's params.json with the shapes of the first of its eight shards."""
    raw = {
        "dim": 8192,
        "multiple_of": 4096,
        "ffn_dim_multiplier": 1.3,
        "n_heads": 64,
        "n_kv_heads": 8,
        "n_layers": 80,
        "norm_eps": 1e-05,
        "vocab_size": -1,
    }
    return config_from_meta(Source(raw, {"output.weight": (4000, 8192)}, num_shards=8))  # type: ignore[arg-type]


def published_mistral_v01() -> LlamaConfig:
    raw = {
        "dim": 4096,
        "n_layers": 32,
        "head_dim": 128,
        "hidden_dim": 14336,
        "n_heads": 32,
        "n_kv_heads": 8,
        "norm_eps": 1e-05,
        "sliding_window": 4096,
        "vocab_size": 32000,
    }
    return config_from_mistral(Source(raw, {"output.weight": (32000, 4096)}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "num_parameters"),
    [
        (lambda: published_llama31(32, 4096, 14336, 32), 8_030_261_248),
        (lambda: published_llama31(80, 8192, 28672, 64), 70_553_706_496),
        (lambda: published_llama31(126, 16384, 53248, 128), 405_853_388_800),
        (published_llama2_70b, 68_976_648_192),
        (published_mistral_v01, 7_241_732_096),
    ],
    ids=["llama3.1 8b", "llama3.1 70b", "llama3.1 405b", "llama2 70b", "mistral 7b"],
)
def test_published_configs_give_the_published_number_of_parameters(
    make: Callable[[], LlamaConfig], num_parameters: int
) -> None:
    with torch.device("meta"):
        model = Llama(make())
    assert sum(p.numel() for p in model.parameters()) == num_parameters
