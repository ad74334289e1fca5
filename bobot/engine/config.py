"""The engine's limits, and how the ones left open are chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bobot.errors import ConfigError

POOL_SHARE = 0.5
"""At most this share of the memory that is free when the engine starts goes to the KV cache."""


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Checked when it is made (ConfigError)."""

    max_num_seqs: int = 16
    """Sequences that run at the same time; more wait."""
    max_num_batched_tokens: int = 512
    """Tokens per step. A longer prompt is computed in chunks, so that others keep their pace."""
    max_model_len: int | None = None
    """Tokens of one sequence, prompt included; None: what the model was made for."""
    block_size: int = 16
    """Tokens per block; prefixes are shared in whole blocks."""
    num_blocks: int | None = None
    """Blocks in the pool; None: see `choose_num_blocks`."""
    enable_prefix_caching: bool = True
    speculation: Literal["ngram", "off"] = "ngram"
    """Tokens are guessed from repetitions in the text and checked several at a time: the same
    tokens, sooner. A draft model takes the place of the repetitions."""
    num_speculative_tokens: int = 15
    """Guessed tokens per sequence and step, at most; as many as have proved right lately."""

    def __post_init__(self) -> None:
        for name in (
            "max_num_seqs",
            "max_num_batched_tokens",
            "max_model_len",
            "block_size",
            "num_blocks",
            "num_speculative_tokens",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError("{name} is {value}; allowed: 1 or more.", name=name, value=value)
        if self.speculation not in ("ngram", "off"):
            raise ConfigError(
                "speculation is {found!r}; allowed: ngram, off.", found=self.speculation
            )
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ConfigError(
                "max_num_batched_tokens is {tokens}, less than max_num_seqs ({seqs}).",
                hint="Each running sequence needs one token per step.",
                tokens=self.max_num_batched_tokens,
                seqs=self.max_num_seqs,
            )


def choose_max_model_len(config: EngineConfig, model_len: int) -> int:
    """Tokens per sequence. ConfigError if more is asked than the model was made for."""
    if config.max_model_len is not None and config.max_model_len > model_len:
        raise ConfigError(
            "max_model_len is {asked}; this model reads at most {model_len} tokens.",
            asked=config.max_model_len,
            model_len=model_len,
        )
    return config.max_model_len or model_len


def choose_num_blocks(
    config: EngineConfig, max_model_len: int, token_bytes: int, free_bytes: int
) -> int:
    """Blocks for max_num_seqs full sequences, or as many as POOL_SHARE of the free memory holds.

    `token_bytes`: cache bytes of one token over all layers.
    """
    wanted = config.max_num_seqs * -(-max_model_len // config.block_size)
    affordable = int(free_bytes * POOL_SHARE) // (token_bytes * config.block_size)
    if affordable < 1:
        raise ConfigError(
            "One KV-cache block takes {block_bytes} bytes; {free_bytes} bytes of memory are free.",
            hint="Close other programs, or use a smaller model.",
            block_bytes=token_bytes * config.block_size,
            free_bytes=free_bytes,
        )
    return min(wanted, affordable)
