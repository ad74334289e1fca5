"""What bobot made from a model and keeps in its cache folder: its tiles (weights/tile_cache.py).

Beside each file lies a text with the place of the model it was made from.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from bobot.paths import user_paths, write_atomic


def remember_source(made: Path, model: Path) -> None:
    """Notes that `made` comes from `model`. Raises StorageError."""
    write_atomic(_note(made), str(model.resolve()).encode())


def made_from(model: Path, environ: Mapping[str, str] | None = None) -> list[Path]:
    """What was made from a model."""
    place = str(model.resolve())
    made = sorted(user_paths(environ).tiles.glob("*.safetensors"))
    return [file for file in made if _source(file) == place]


def made_bytes(model: Path) -> int:
    """What that takes on disk."""
    return sum(file.stat().st_size for file in made_from(model))


def forget(made: Path) -> None:
    """Deletes one file; a process that has it mapped keeps it."""
    made.unlink(missing_ok=True)
    _note(made).unlink(missing_ok=True)


def forget_missing(environ: Mapping[str, str] | None = None) -> int:
    """Deletes what was made from models that are gone; returns the bytes this frees."""
    freed = 0
    for made in user_paths(environ).tiles.glob("*.safetensors"):
        source = _source(made)
        if source is None or not os.path.exists(source):
            freed += made.stat().st_size
            forget(made)
    return freed


def _source(made: Path) -> str | None:
    note = _note(made)
    return note.read_text(encoding="utf-8") if note.exists() else None


def _note(made: Path) -> Path:
    return made.with_suffix(".txt")
