"""What bobot made from a model and keeps in its cache folder: its tiles (weights/tile_cache.py),
and the beginnings of prompts that it read (engine/block_files.py).

Beside each file of tiles lies a text with the place of the model it was made from, and one for all
blocks whose names begin like its own.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from bobot.paths import storage_error, user_paths, write_atomic

BLOCK = ".block"
"""How files with a block of the prefix cache end."""
STALE_S = 3600.0
"""After which a file that is still being written belongs to a process that was killed."""


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
    """Deletes what was made from models that are gone, and tiles that a killed process left half
    written; returns the bytes this frees.
    """
    paths, freed = user_paths(environ), 0
    for made in paths.tiles.glob("*.safetensors"):
        source = _source(made)
        if source is None or not os.path.exists(source):
            freed += made.stat().st_size
            forget(made)
    for partial in paths.tiles.glob(".*.partial"):
        with contextlib.suppress(FileNotFoundError):  # it has just been finished
            if time.time() - partial.stat().st_mtime > STALE_S:
                freed += _delete([partial])
    for note in paths.prefixes.glob("*.txt"):
        if not os.path.exists(note.read_text(encoding="utf-8")):
            freed += _delete([*paths.prefixes.glob(f"{note.stem}-*{BLOCK}"), note])
    return freed


def forget_prefixes(environ: Mapping[str, str] | None = None) -> int:
    """Deletes the beginnings of prompts that all models read; returns the bytes this frees. A
    server that runs reads them again.
    """
    folder = user_paths(environ).prefixes
    return _delete([*folder.glob(f"*{BLOCK}"), *folder.glob("*.txt")])


def _delete(files: Iterable[Path]) -> int:
    """The bytes of those that were there: a server may make room at the same time. Raises
    StorageError.
    """
    freed = 0
    for file in files:
        try:
            num_bytes = file.stat().st_size
            file.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise storage_error(file, error) from error
        freed += num_bytes
    return freed


def _source(made: Path) -> str | None:
    note = _note(made)
    return note.read_text(encoding="utf-8") if note.exists() else None


def _note(made: Path) -> Path:
    return made.with_suffix(".txt")
