"""How the next token is chosen for one request: the words of OpenAI's API and of Hugging Face."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from bobot.errors import RequestError

MAX_LOGPROBS = 20
"""OpenAI's limit on alternatives per token."""


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
    """Over prompt and output, as in Hugging Face: divides positive logits, multiplies negative
    ones.
    """
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

    def __post_init__(self) -> None:
        _check("n", self.n, self.n >= 1, "1 or more")
        _check(
            "max_tokens",
            self.max_tokens,
            self.max_tokens is None or self.max_tokens >= 1,
            "1 or more",
        )
        _check_number("temperature", self.temperature, 0.0, math.inf)
        _check_number("top_p", self.top_p, 0.0, 1.0)
        _check("top_k", self.top_k, self.top_k >= 0, "0 (off) or more")
        _check_number("min_p", self.min_p, 0.0, 1.0)
        _check_number("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _check_number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _check(
            "repetition_penalty",
            self.repetition_penalty,
            0.0 < self.repetition_penalty < math.inf,
            "above 0",
        )
        _check(
            "logprobs",
            self.logprobs,
            self.logprobs is None or 0 <= self.logprobs <= MAX_LOGPROBS,
            f"0 to {MAX_LOGPROBS}",
        )
        for token_id, bias in self.logit_bias.items():
            _check_number(f"logit_bias[{token_id}]", bias, -100.0, 100.0)

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


def _check_number(name: str, value: float, low: float, high: float) -> None:
    fits = math.isfinite(value) and low <= value <= high
    _check(name, value, fits, f"{low:g} or more" if high == math.inf else f"{low:g} to {high:g}")


def _check(name: str, value: object, fits: bool, allowed: str) -> None:
    if not fits:
        raise RequestError(
            "{name} is {value}; allowed: {allowed}.", name=name, value=value, allowed=allowed
        )
