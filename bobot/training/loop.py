"""Trains one stage of a recipe so that a run killed anywhere goes on with the same numbers.

Identical means bit-identical on the same machine with the same number of threads.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn

from bobot.errors import TrainingError
from bobot.models.llama import Llama
from bobot.training.batches import StagePlan, micro_batches
from bobot.training.evaluate import answer, batch_loss, bits_per_byte
from bobot.training.muon import MixedOptimizer
from bobot.training.recipe import RunSettings, StageSettings
from bobot.training.saving import Saved, load_newest, save
from bobot.training.schedule import lr_scale
from bobot.training.shards import Documents

Report = Callable[[str], None]


def initialize(model: Llama, seed: int) -> None:
    """Normal weights of 0.02; what a layer adds to the stream starts at zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02, generator=generator)


@dataclass(kw_only=True)
class Stage:
    """What one stage needs: the model and optimizer it changes, and the data it reads."""

    settings: StageSettings
    run: RunSettings
    plan: StagePlan
    sources: Mapping[str, Documents]
    held_out: Mapping[str, Documents]
    tokenizer: Tokenizer
    model: Llama
    optimizer: MixedOptimizer
    folder: Path
    """Holds the stage's checkpoints and its metrics.jsonl."""
    made_from: str
    """Digest of everything that decides the stage's result."""
    report: Report

    def train(self) -> None:
        """Runs the stage from its newest checkpoint, or from the start, to its end."""
        self.folder.mkdir(parents=True, exist_ok=True)
        step = self._resume()
        self._keep_metrics_before(step)
        started, tokens_seen = time.monotonic(), 0
        while step < self.plan.num_steps:
            scale = lr_scale(self.settings, step, self.plan.num_steps)
            loss, num_tokens = self._step(step, scale)
            tokens_seen += num_tokens
            step += 1
            elapsed = time.monotonic() - started
            self._record({"step": step, "loss": loss, "lr_scale": scale, "tokens": num_tokens})
            if step % 10 == 0 or step == self.plan.num_steps:
                left_s = elapsed / tokens_seen * num_tokens * (self.plan.num_steps - step)
                self.report(
                    f"{self.settings.name} step {step}/{self.plan.num_steps}  loss {loss:.4f}  "
                    f"lr x{scale:.3f}  {tokens_seen / elapsed:.0f} tok/s  "
                    f"{left_s / 60:.0f} min left"
                )
            if step % self.run.steps_per_evaluation == 0 or step == self.plan.num_steps:
                self._evaluate(step)
            if step % self.run.steps_per_checkpoint == 0 or step == self.plan.num_steps:
                self._save(step)

    def _step(self, step: int, scale: float) -> tuple[float, int]:
        """One optimizer step: (nats per target over all micro-batches, tokens read)."""
        batches = micro_batches(
            list(self.sources.values()),
            self.plan.step(step),
            self.run.tokens_per_micro_batch,
            assistant_only=self.settings.loss_on == "assistant",
        )
        num_targets = sum(len(batch.targets_R) for batch in batches)
        total = 0.0
        self.optimizer.zero_grad()
        for batch in batches:
            loss = batch_loss(self.model, batch) / num_targets
            loss.backward()
            total += loss.item()
        if not math.isfinite(total):
            raise TrainingError(
                "the loss at step {step} of stage {stage} is {loss}; it must be a finite number.",
                hint="Lower the learning rates in the recipe.",
                step=step + 1,
                stage=self.settings.name,
                loss=total,
            )
        self.optimizer.step(scale)
        return total, sum(len(batch.ids_T) for batch in batches)

    def _evaluate(self, step: int) -> None:
        only_said = self.settings.loss_on == "assistant"
        for name, documents in self.held_out.items():
            bits = bits_per_byte(
                self.model,
                self.tokenizer,
                documents,
                self.run.tokens_per_micro_batch,
                assistant_only=only_said,
            )
            self._record({"step": step, "held_out": name, "bits_per_byte": bits})
            self.report(f"  held-out {name}: {bits:.3f} bits per byte")
        for prompt in self.run.sample_prompts:
            self.report(f"  > {prompt}\n    {answer(self.model, self.tokenizer, prompt)}")

    def _resume(self) -> int:
        saved = load_newest(self.folder, self.report)
        if saved is None:
            return 0
        if saved.state["made_from"] != self.made_from:
            raise TrainingError(
                "{folder} holds a run of another recipe or other data.",
                hint="Delete that folder, or give another --out.",
                folder=self.folder,
            )
        restore(self.model, self.optimizer, saved)
        self.report(f"{self.settings.name}: going on after step {saved.state['step']}")
        return saved.state["step"]

    def _save(self, step: int) -> None:
        save(
            self.folder,
            step,
            model=own_tensors(self.model),
            optimizer=self.optimizer.state(),
            state={
                "step": step,
                "num_steps": self.plan.num_steps,
                "made_from": self.made_from,
            },
        )

    def _record(self, entry: Mapping[str, object]) -> None:
        with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def _keep_metrics_before(self, step: int) -> None:
        """Drops lines of steps that will run again, and one that was cut off in writing."""
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        path.write_text("".join(kept), encoding="utf-8")


def own_tensors(model: Llama) -> dict[str, torch.Tensor]:
    """The parameters without the output layer's second name for the tied embedding."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def restore(model: Llama, optimizer: MixedOptimizer, saved: Saved) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(saved.model[name])
    optimizer.load_state(saved.optimizer)
