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


def forget_missing(environ: Mapping[str, str] | None = None) -> int:
    """Deletes what was made from models that are gone; returns the bytes this frees."""
    freed = 0
    for made in user_paths(environ).tiles.glob("*.safetensors"):
        note = _note(made)
        if not (note.exists() and os.path.exists(note.read_text(encoding="utf-8"))):
            freed += made.stat().st_size
            made.unlink()
            note.unlink(missing_ok=True)
    return freed


def _note(made: Path) -> Path:
    return made.with_suffix(".txt")
