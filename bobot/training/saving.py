"""Checkpoints of a training run that are there whole or not at all.

A checkpoint is a folder `step-N`: `model.safetensors`, `optimizer.safetensors`, `state.json`, and
`manifest.json` with the sha256 of each. It is written as `step-N.tmp`, synced, then renamed; the
two newest stay. No random state is kept because the loop draws no random numbers: the order of the
data follows from the recipe's seed and the step.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bobot.errors import StorageError
from bobot.paths import sync

KEPT = 2


@dataclass(frozen=True)
class Saved:
    """A checkpoint whose files all match its manifest."""

    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]


def save(
    folder: Path,
    step: int,
    *,
    model: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    state: Mapping[str, Any],
) -> None:
    """Writes `folder/step-N` and removes older ones. Raises StorageError if the disk refuses."""
    final = folder / f"step-{step}"
    partial = folder / f"step-{step}.tmp"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(dict(model), partial / "model.safetensors")
        save_file(dict(optimizer), partial / "optimizer.safetensors")
        (partial / "state.json").write_text(json.dumps(dict(state)))
        sums = {path.name: sha256_of(path) for path in sorted(partial.iterdir())}
        (partial / "manifest.json").write_text(json.dumps(sums))
        for path in (*partial.iterdir(), partial):
            sync(path)
        shutil.rmtree(final, ignore_errors=True)
        os.rename(partial, final)
        sync(folder)
    except OSError as error:
        raise StorageError(
            "the checkpoint {folder} can't be written: {reason}",
            hint="Free some space and start again; the run goes on from the last checkpoint.",
            folder=final,
            reason=error.strerror,
        ) from error
    for old in _by_age(folder)[KEPT:]:
        shutil.rmtree(old)


def load_newest(folder: Path, report: Callable[[str], None]) -> Saved | None:
    """The newest checkpoint that is whole; damaged ones are named to `report` and passed over."""
    for path in _by_age(folder):
        try:
            return _load(path)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            report(f"{path} is damaged and is passed over: {error}")
    return None


def _load(path: Path) -> Saved:
    sums = json.loads((path / "manifest.json").read_text())
    for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
        found = sha256_of(path / name)
        if found != sums[name]:
            raise ValueError(f"{name} has sha256 {found}, the manifest says {sums[name]}")
    return Saved(
        model=load_file(path / "model.safetensors"),
        optimizer=load_file(path / "optimizer.safetensors"),
        state=json.loads((path / "state.json").read_text()),
    )


def _by_age(folder: Path) -> list[Path]:
    """Finished checkpoints, newest first."""
    numbered = [
        (int(path.name.removeprefix("step-")), path)
        for path in folder.glob("step-*")
        if path.name.removeprefix("step-").isdigit()
    ]
    return [path for _, path in sorted(numbered, reverse=True)]


def sha256_of(path: Path) -> str:
    """The digest of a file, as sha256sum prints it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
