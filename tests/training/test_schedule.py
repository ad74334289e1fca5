"""The learning rate's shape, and the optimizer against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bobot.training.muon import MixedOptimizer, orthogonalize
from bobot.training.recipe import OptimizerSettings, StageSettings
from bobot.training.schedule import lr_scale


def stage(**changes) -> StageSettings:
    values = {
        "name": "s",
        "loss_on": "all",
        "tokens_per_step": 1,
        "max_steps": 10,
        "warmup_steps": 0,
        "lr_scale": 1.0,
        "decay_from": 1.0,
        "final_lr_scale": 0.0,
        "mix": {},
    }
    return StageSettings(**{**values, **changes})


def test_the_rate_warms_up_stays_and_falls_in_a_line() -> None:
    settings = stage(warmup_steps=1, decay_from=0.5)
    found = [lr_scale(settings, step, 10) for step in range(10)]
    assert found == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])


def test_the_rate_falls_to_its_final_part_and_no_further() -> None:
    settings = stage(decay_from=0.0, final_lr_scale=0.1, lr_scale=2.0)
    found = [lr_scale(settings, step, 100) for step in range(100)]
    assert found[0] == 2.0 and found[-1] == pytest.approx(2.0 * (0.1 + 0.9 * 0.01))
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("shape", [(2, 16, 48), (3, 48, 16), (1, 32, 32)])
def test_an_orthogonalized_update_has_singular_values_near_one(shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    values = torch.linalg.svdvals(orthogonalize(torch.randn(shape)))
    assert float(values.min()) > 0.6 and float(values.max()) < 1.3, values


def test_muon_goes_where_torchs_muon_goes() -> None:
    torch.manual_seed(2)
    settings = OptimizerSettings(
        matrix_lr=0.02, embedding_lr=0.0, norm_lr=0.0, momentum=0.9, weight_decay=0.1
    )
    ours = nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(24, 40, bias=False)])})
    wrapped = nn.ModuleDict({"model": ours})
    ours["layers"].append(nn.Linear(40, 24, bias=False))
    theirs = [layer.weight.detach().clone().requires_grad_() for layer in ours["layers"]]
    optimizer = MixedOptimizer(wrapped, settings)
    reference = torch.optim.Muon(theirs, lr=0.02, momentum=0.9, weight_decay=0.1)
    for _ in range(6):
        for layer, other in zip(ours["layers"], theirs, strict=True):
            layer.weight.grad = torch.randn_like(layer.weight)
            other.grad = layer.weight.grad.clone()
        optimizer.step(1.0)
        reference.step()
    for layer, other in zip(ours["layers"], theirs, strict=True):
        moved = float((layer.weight - other).detach().abs().max())
        assert moved < 0.01, f"{moved} apart; torch works in bfloat16"
