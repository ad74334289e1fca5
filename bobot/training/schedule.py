"""The learning rate over one stage: a straight warm-up, a plateau, a straight decay."""

from __future__ import annotations

from bobot.training.recipe import StageSettings


def lr_scale(stage: StageSettings, step: int, num_steps: int) -> float:
    """The factor on every peak rate at step 0..num_steps-1.

    With 10 steps, warmup_steps 2, decay_from 0.5, final_lr_scale 0:
    0.5 1 1 1 1 1 0.8 0.6 0.4 0.2 (times the stage's lr_scale).
    """
    warmup = min(1.0, (step + 1) / (stage.warmup_steps + 1)) if stage.warmup_steps else 1.0
    decay_start = stage.decay_from * num_steps
    if step <= decay_start:
        return stage.lr_scale * warmup
    left = (num_steps - step) / max(num_steps - decay_start, 1e-9)
    return stage.lr_scale * warmup * (stage.final_lr_scale + (1 - stage.final_lr_scale) * left)
