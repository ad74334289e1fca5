"""Rotary position embedding (arXiv:2104.09864) and the ways models stretch it.

One convention inside bobot: element i of a head rotates with element i + head_dim/2 ("halves").
Files that rotate adjacent pairs (2i, 2i+1) are permuted once, at load, by `halves_from_pairs`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class RopeParameters:
    """How positions become angles. `kind` is default, linear, llama3 or yarn."""

    theta: float = 10000.0
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    """Whether yarn rounds its bounds outward to whole frequencies (gpt-oss does not)."""
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    freq_divisors: tuple[float, ...] = ()
    """One divisor per frequency, as GGUF files store a computed scaling (tensor
    `rope_freqs.weight`).
    """


def inverse_frequencies(rope: RopeParameters, head_dim: int) -> Tensor:
    """Angle per position of each pair, float32 (head_dim / 2): theta^(-2i/head_dim), scaled."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64, device="cpu").float() / head_dim
    frequencies = 1.0 / rope.theta**exponents
    if rope.freq_divisors:
        return frequencies / torch.tensor(rope.freq_divisors, dtype=torch.float32, device="cpu")
    if rope.kind == "linear":
        return frequencies / rope.factor
    if rope.kind == "llama3":
        return _llama3_scaling(frequencies, rope)
    if rope.kind == "yarn":
        return _yarn_scaling(frequencies, rope)
    return frequencies


def _llama3_scaling(frequencies: Tensor, rope: RopeParameters) -> Tensor:
    """Long wavelengths stretched `factor` times, short ones kept, a linear blend between.

    Source: meta-llama/llama-models `models/llama3/model.py` (apply_scaling), whose constants are
    the fields of `rope` here.
    """
    wavelengths = 2 * math.pi / frequencies
    turns = rope.original_max_position_embeddings / wavelengths
    blend = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    blend = blend.clamp(0.0, 1.0)
    return (1 - blend) * frequencies / rope.factor + blend * frequencies


def _yarn_scaling(frequencies: Tensor, rope: RopeParameters) -> Tensor:
    """YaRN by parts (arXiv:2309.00071): frequencies that turn more than beta_fast times within the
    original length kept, those that turn less than beta_slow times divided by `factor`, between
    them a linear blend over their index.
    """
    num_pairs = len(frequencies)
    low, high = (
        num_pairs
        * math.log(rope.original_max_position_embeddings / (turns * 2 * math.pi))
        / math.log(rope.theta)
        for turns in (rope.beta_fast, rope.beta_slow)
    )
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * num_pairs - 1)
    index = torch.arange(num_pairs, dtype=torch.float32, device="cpu")
    # Equal bounds: one step, as the reference implementations have it.
    blend = ((index - low) / ((high - low) or 0.001)).clamp(0.0, 1.0)
    return (1 - blend) * frequencies + blend * frequencies / rope.factor


def attention_factor(rope: RopeParameters) -> float:
    """What cos and sin are multiplied by: 1 but for yarn, whose default is 0.1 ln(factor) + 1.

    Where mscale and mscale_all_dim are given (DeepSeek), it is the quotient of the two.
    """
    if rope.kind != "yarn":
        return 1.0
    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return yarn_mscale(rope.factor, rope.mscale) / yarn_mscale(rope.factor, rope.mscale_all_dim)
    return yarn_mscale(rope.factor, 1.0)


def yarn_mscale(factor: float, weight: float) -> float:
    """0.1 * weight * ln(factor) + 1: how YaRN sharpens attention (arXiv:2309.00071, eq. 22)."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


def rotation(
    positions_T: Tensor, frequencies: Tensor, dtype: torch.dtype, factor: float = 1.0
) -> tuple[Tensor, Tensor]:
    """cos and sin of every angle times `factor`, each (T, 1, head_dim / 2), computed in float32."""
    angles = positions_T.float()[:, None, None] * frequencies.to(positions_T.device)
    return (angles.cos() * factor).to(dtype), (angles.sin() * factor).to(dtype)


def apply_rope(x_TNH: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x with its first half rotated against its second half by the given angles."""
    first, second = x_TNH.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def halves_from_pairs(weight: Tensor, num_heads: int) -> Tensor:
    """Rows of a query or key projection (or its bias) moved from adjacent pairs to halves.

    Per head, rows [pair, 2] become [2, pair]: row 2i goes to i and row 2i + 1 to i + head_dim/2.
    """
    head_dim = weight.shape[0] // num_heads
    paired = weight.reshape(num_heads, head_dim // 2, 2, *weight.shape[1:])
    return paired.transpose(1, 2).reshape(weight.shape)


def pairs_from_halves(weight: Tensor, num_heads: int) -> Tensor:
    """The inverse of `halves_from_pairs`, for writing formats that rotate adjacent pairs."""
    head_dim = weight.shape[0] // num_heads
    halves = weight.reshape(num_heads, 2, head_dim // 2, *weight.shape[1:])
    return halves.transpose(1, 2).reshape(weight.shape)
