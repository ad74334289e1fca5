"""Tokens/s of a machine that does nothing but read the weights, or nothing but multiply."""

from __future__ import annotations

from typing import Any

from random_model import gguf_form

from bobot.weights.forms import Role, Stored


def prefill_limit(
    config: dict[str, Any], form: str, prompt: int, depth: int, flops: float
) -> float:
    """Products with every matrix of the layers, and attention to what came before; the output is
    needed once a prompt, and not counted.
    """
    inner = sum(
        weight.part.numel * _share(weight, config, 1)
        for weight in gguf_form(config, form)
        if weight.part.role in (Role.MATRIX, Role.EXPERTS, Role.ROUTER)
    )
    seen = sum(_seen(config, layer, depth + prompt / 2) for layer in _layers(config))
    attention = 4 * config["num_attention_heads"] * config["head_dim"] * seen
    return flops / (2 * inner + attention)


def decode_limit(
    config: dict[str, Any], form: str, length: float, rows: int, bytes_per_s: float
) -> float:
    """Every weight read once a step but the rows of an untied embedding, and each row's own cache
    in 16 bits.
    """
    read = sum(
        weight.num_bytes * _share(weight, config, rows)
        for weight in gguf_form(config, form)
        if weight.part.role is not Role.EMBEDDING
    )
    seen = sum(_seen(config, layer, length) for layer in _layers(config))
    cache = 2 * 2 * config["num_key_value_heads"] * config["head_dim"] * seen
    return rows * bytes_per_s / (read + rows * cache)


def _share(weight: Stored, config: dict[str, Any], rows: int) -> float:
    """The part of a weight that so many tokens use: of experts, as many as even choices hit."""
    if weight.part.role is not Role.EXPERTS:
        return 1.0
    chosen = config["num_experts_per_tok"] / config["num_local_experts"]
    return 1 - (1 - chosen) ** rows


def _layers(config: dict[str, Any]) -> range:
    return range(config["num_hidden_layers"])


def _seen(config: dict[str, Any], layer: int, length: float) -> float:
    """Tokens that a token of this layer attends to; gpt-oss has a window in every even one."""
    window = config.get("sliding_window")
    return min(length, window) if window and layer % 2 == 0 else length
