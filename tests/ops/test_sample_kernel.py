"""The sampler in C++ draws what the definition draws."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bobot import kernels
from bobot.ops.sampling import NEVER, best_ids, sample, sample_reference

pytestmark = pytest.mark.skipif(not kernels.available, reason="the extension is not built")

RULES = [
    {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    for temperature in (1e-3, 0.7, 1.0, 3.0)
    for top_k in (0, 1, 40, 3000)
    for top_p in (0.0, 0.5, 0.95, 1.0)
    for min_p in (0.0, 0.1)
]
NO_FILTER = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


def rows() -> list[Tensor]:
    """Peaked and flat ones, ones with many ties and ones with ruled out tokens; short ones too."""
    torch.manual_seed(0)
    made = [torch.randn(size) * 4 for size in (1, 2, 7, 64, 1000, 5000)]
    made.append(torch.zeros(500))
    made.append((torch.randn(3000) * 2).round())
    ruled_out = torch.randn(2000) * 3
    ruled_out[torch.rand(2000) < 0.7] = NEVER
    return [*made, ruled_out, torch.tensor([NEVER, 1.0, NEVER])]


@pytest.mark.parametrize("isa", [name for name, usable in kernels.features().items() if usable])
def test_every_instruction_set_draws_as_the_definition(
    isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOBOT_ISA", isa)
    different = []
    for number, logits_V in enumerate(rows()):
        for rule, rules in enumerate(RULES):
            key = 1000 * number + rule - 5000
            found, expected = (
                way(logits_V, key, **rules)  # pyright: ignore[reportArgumentType]
                for way in (sample, sample_reference)
            )
            if found != expected:
                different.append((number, rules, found, expected))
    assert not different, f"{len(different)} of {len(rows()) * len(RULES)}: {different[:3]}"


def test_large_vocabularies_draw_as_the_definition() -> None:
    torch.manual_seed(1)
    logits_V = torch.randn(200_000) * 2.5
    for key, rules in enumerate(RULES[::5]):
        found = sample(logits_V, key, **rules)  # pyright: ignore[reportArgumentType]
        assert found == sample_reference(
            logits_V,
            key,
            **rules,  # pyright: ignore[reportArgumentType]
        )


def test_draws_follow_the_probabilities() -> None:
    """Chi-squared of 20000 draws from 50 tokens: 49 degrees of freedom, 99.9 % lie below 85.4."""
    torch.manual_seed(2)
    logits_V = torch.randn(50)
    draws = torch.tensor([sample(logits_V, key, **NO_FILTER) for key in range(20_000)])
    expected = logits_V.softmax(-1) * len(draws)
    observed = draws.bincount(minlength=50)
    chi_squared = float(((observed - expected).square() / expected).sum())
    assert chi_squared < 85.4


def test_the_best_id_is_the_first_of_the_largest() -> None:
    logits_RV = torch.tensor([[1.0, 3.0, 3.0], [0.0, -0.0, -1.0], [-5.0, -5.0, -5.0]])
    assert best_ids(logits_RV) == [1, 0, 0] == logits_RV.argmax(-1).tolist()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [0, 17, 40])
def test_what_is_not_a_number_or_infinite_is_reported(bad: float, place: int) -> None:
    logits_V = torch.randn(41)
    logits_V[place] = bad
    assert kernels.sample(logits_V.numpy(), key=1, **NO_FILTER) == -1
    assert best_ids(torch.stack((logits_V, torch.arange(41.0)))) == [None, 40]


def test_nothing_is_chosen_where_every_token_is_ruled_out() -> None:
    never = torch.full((10,), NEVER)
    assert kernels.sample(never.numpy(), key=1, **NO_FILTER) == -1
    assert best_ids(never[None]) == [None]


def test_rules_and_rows_that_make_no_sense_are_refused() -> None:
    row = torch.zeros(3).numpy()
    for change in ({"temperature": 0.0}, {"temperature": float("nan")}, {"top_p": float("nan")}):
        with pytest.raises(ValueError):
            kernels.sample(row, key=1, **{**NO_FILTER, **change})
    with pytest.raises(ValueError):
        kernels.sample(row[:0], key=1, **NO_FILTER)
    with pytest.raises(TypeError):
        kernels.sample(row.astype("float64"), key=1, **NO_FILTER)
