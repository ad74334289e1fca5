"""How the next token is chosen for one request: the words of OpenAI's API and of Hugging Face."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from bobot.errors import RequestError

MAX_LOGPROBS = 20
"""OpenAI's limit on alternatives per token."""

MAX_N = 128
"""OpenAI's limit on answers per prompt."""


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """What a request asks of the sampler; checked when it is made (RequestError)."""

    max_tokens: int | None = 256
    """New tokens per sequence; None: until the context is full."""
    temperature: float = 1.0
    """0 takes the most likely token, the lowest id on ties."""
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps every token."""
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    """Over prompt and output, as in Hugging Face: positive logits / r, negative ones * r."""
    presence_penalty: float = 0.0
    """Over the output only, as in OpenAI's API: subtracted once from each token that occurred."""
    frequency_penalty: float = 0.0
    """Over the output only: subtracted once per occurrence."""
    logit_bias: Mapping[int, float] = field(default_factory=lambda: MappingProxyType({}))
    """Added after the penalties, so that -100 bans a token whatever they say."""
    seed: int | None = None
    """Same seed, prompt and weights: same tokens. None draws a seed."""
    n: int = 1
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    """Log-probability of the chosen token and of so many most likely ones, under the model's own
    distribution: before penalties, bias, temperature and filters."""
    drawn_logprobs: bool = False
    """Log-probabilities under the distribution that the token was drawn from instead; tokens that
    had no chance are not among the most likely ones."""

    def __post_init__(self) -> None:
        _check("n", self.n, 1, MAX_N)
        if self.max_tokens is not None:
            _check("max_tokens", self.max_tokens, 1)
        _check("temperature", self.temperature, 0)
        _check("top_p", self.top_p, 0, 1)
        _check("top_k", self.top_k, 0)
        _check("min_p", self.min_p, 0, 1)
        _check("repetition_penalty", self.repetition_penalty, 0.01, 100)
        _check("presence_penalty", self.presence_penalty, -2, 2)
        _check("frequency_penalty", self.frequency_penalty, -2, 2)
        for token_id, bias in self.logit_bias.items():
            _check(f"logit_bias[{token_id}]", bias, -100, 100)
        if self.logprobs is not None:
            _check("logprobs", self.logprobs, 0, MAX_LOGPROBS)

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def changes_logits(self) -> bool:
        """Penalties or a bias move the logits before the choice."""
        return bool(
            self.repetition_penalty != 1.0
            or self.presence_penalty
            or self.frequency_penalty
            or self.logit_bias
        )


def _check(name: str, value: float, low: float, high: float = math.inf) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise RequestError(
            "{name} is {value}; allowed: {allowed}.",
            name=name,
            value=value,
            allowed=f"{low:g} or more" if high == math.inf else f"{low:g} to {high:g}",
        )
