"""Sampling against plain numpy, against transformers, and against the distribution it promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from bobot.ops.sampling import (
    NEVER,
    apply_temperature,
    draw,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalize,
    uniform,
)


def some_logits(seed: int, num: int = 200, spread: float = 2.0) -> Tensor:
    return torch.randn(num, generator=torch.Generator().manual_seed(seed)) * spread


def kept(logits_V: Tensor) -> list[int]:
    return (logits_V > NEVER).nonzero().squeeze(-1).tolist()


def plain_top_p(logits_V: Tensor, top_p: float) -> list[int]:
    """The definition, one token at a time."""
    weights = np.exp(logits_V.double().numpy() - logits_V.max().item())
    order = sorted(range(len(weights)), key=lambda i: (-weights[i], i))
    mass, chosen = 0.0, []
    for i in order:
        chosen.append(i)
        mass += weights[i] / weights.sum()
        if mass >= top_p:
            break
    return sorted(chosen)


@pytest.mark.parametrize("top_p", [0.0, 1e-6, 0.1, 0.5, 0.9, 0.99, 0.9999])
@pytest.mark.parametrize("spread", [0.0, 0.5, 8.0])
def test_top_p_keeps_the_set_of_the_definition(top_p: float, spread: float) -> None:
    for seed in range(5):
        logits_V = some_logits(seed, spread=spread)
        got = kept(keep_top_p(logits_V, top_p))
        want = plain_top_p(logits_V, top_p)
        # A boundary within float32 rounding of top_p may fall on either side.
        assert len(set(got) ^ set(want)) <= (1 if spread == 0.0 else 0), (len(got), len(want))


def test_top_p_takes_the_lower_id_of_equals() -> None:
    assert kept(keep_top_p(torch.zeros(8), 0.5)) == [0, 1, 2, 3]
    assert kept(keep_top_p(torch.tensor([0.0, 5.0, 5.0, 1.0]), 0.3)) == [1]


@pytest.mark.parametrize("top_k", [0, 1, 7, 200, 999])
def test_top_k_keeps_the_k_largest(top_k: int) -> None:
    logits_V = some_logits(1)
    order = np.argsort(-logits_V.numpy(), kind="stable")
    want = sorted(order[: top_k or len(order)].tolist())
    assert kept(keep_top_k(logits_V, top_k)) == want


def test_top_k_keeps_all_that_equal_the_kth() -> None:
    assert kept(keep_top_k(torch.tensor([1.0, 3.0, 1.0, 0.0]), 2)) == [0, 1, 2]


@pytest.mark.parametrize("min_p", [0.0, 0.01, 0.3, 1.0])
def test_min_p_keeps_tokens_likely_enough_beside_the_best(min_p: float) -> None:
    logits_V = some_logits(2)
    weights = np.exp(logits_V.double().numpy() - logits_V.max().item())
    assert kept(keep_min_p(logits_V, min_p)) == np.nonzero(weights >= min_p)[0].tolist()


def test_filters_in_a_row_equal_those_of_transformers() -> None:
    ids = torch.zeros(1, 1, dtype=torch.long)
    for seed in range(20):
        logits_V = some_logits(seed)
        ours = keep_min_p(keep_top_p(keep_top_k(logits_V, 40), 0.9), 0.02)
        theirs = TopKLogitsWarper(40)(ids, logits_V[None])
        theirs = MinPLogitsWarper(0.02)(ids, TopPLogitsWarper(0.9)(ids, theirs))
        assert torch.equal(ours, theirs[0]), f"seed {seed}: {kept(ours)} != {kept(theirs[0])}"


def test_repetition_penalty_equals_that_of_transformers() -> None:
    logits_V = some_logits(3)
    prompt_ids, output_ids = [5, 9, 9, 0], [17, 5, 199]
    ours = penalize(logits_V, prompt_ids, output_ids, repetition_penalty=1.3)
    ids = torch.tensor([prompt_ids + output_ids])
    theirs = RepetitionPenaltyLogitsProcessor(1.3)(ids, logits_V[None].clone())[0]
    assert torch.equal(ours, theirs)
    assert torch.equal(logits_V, some_logits(3)), "the caller's logits must stay as they are"


def test_presence_and_frequency_count_the_output_only() -> None:
    logits_V = some_logits(4)
    changed = penalize(logits_V, [1, 2], [2, 3, 3], presence_penalty=0.5, frequency_penalty=0.25)
    want = logits_V.clone()
    want[2] -= 0.5 + 0.25
    want[3] -= 0.5 + 2 * 0.25
    assert torch.allclose(changed, want, atol=1e-6)
    assert torch.equal(penalize(logits_V, [1, 2], [], presence_penalty=0.5), logits_V)


def test_bias_comes_after_the_penalties() -> None:
    changed = penalize(
        torch.tensor([4.0, -4.0, 1.0]),
        [0, 1],
        [],
        repetition_penalty=2.0,
        logit_bias={0: 1, 1: -100},
    )
    assert changed.tolist() == [3.0, -108.0, 1.0]


@pytest.mark.parametrize("temperature", [1e-30, 0.5, 1.0, 100.0])
def test_temperature_never_overflows(temperature: float) -> None:
    probs_V = apply_temperature(torch.tensor([3e4, 1.0, -3e4]), temperature).softmax(-1)
    assert torch.isfinite(probs_V).all()
    assert abs(probs_V.sum().item() - 1.0) < 1e-6


def test_draws_follow_the_distribution() -> None:
    logits_V = torch.tensor([2.0, 0.5, NEVER, -1.0, 1.0])
    num = 8_000
    counts = torch.zeros(5)
    for key in range(num):
        counts[draw(logits_V, key * 0x12345)] += 1
    probs = logits_V.softmax(-1)
    expected = probs[probs > 0] * num
    chi2 = ((counts[probs > 0] - expected) ** 2 / expected).sum().item()
    assert counts[2] == 0
    assert chi2 < 16.3, f"chi-squared {chi2:.1f} with 3 degrees of freedom (p = 0.001 at 16.3)"


def test_uniform_noise_is_uniform_and_its_keys_are_independent() -> None:
    ids = torch.arange(100_000)
    one, other = uniform(ids, key=1), uniform(ids, key=2)
    assert one.min().item() > 0.0 and one.max().item() < 1.0
    bins = torch.histc(one.float(), bins=100, min=0.0, max=1.0)
    chi2 = ((bins - 1000) ** 2 / 1000).sum().item()
    assert chi2 < 149, f"chi-squared {chi2:.0f} with 99 degrees of freedom (p = 0.001 at 149)"
    for pair in ((one, other), (one[1:], one[:-1])):
        correlation = torch.corrcoef(torch.stack(pair))[0, 1].item()
        assert abs(correlation) < 4 / math.sqrt(100_000), f"correlation {correlation:.4f}"


def test_a_draw_does_not_depend_on_tokens_that_are_ruled_out() -> None:
    logits_V = some_logits(5)
    best = logits_V.topk(20)
    only_best = torch.full_like(logits_V, NEVER)
    only_best[best.indices] = best.values
    for key in range(50):
        token_id = draw(logits_V, key)
        if token_id in best.indices:
            assert draw(only_best, key) == token_id


def test_splitmix_equals_the_published_sequence() -> None:
    """First outputs of splitmix64 with seed 0, as in the reference splitmix64.c by S. Vigna."""
    words = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    want = [((word >> 12) + 0.5) * 2.0**-52 for word in words]
    assert uniform(torch.arange(3), key=0).tolist() == want
