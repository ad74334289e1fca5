"""The models on this machine: the embedded one, those in bobot's folder, those in the Hugging Face
cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from bobot.errors import BobotError
from bobot.hub.manifest import GgufReader, Manifest, describe
from bobot.hub.names import EMBEDDED, embedded_folder, huggingface_cache, is_model, snapshot
from bobot.paths import user_paths


def models(environ: Mapping[str, str] | None = None) -> Iterator[tuple[str, Path]]:
    """(name to type, path) of each model found, the embedded one first."""
    if is_model(embedded_folder()):
        yield EMBEDDED, embedded_folder()
    yield from _in_own_folder(user_paths(environ).models)
    yield from _in_huggingface_cache(huggingface_cache(environ))


def manifests(
    read_gguf: GgufReader, environ: Mapping[str, str] | None = None
) -> tuple[list[Manifest], list[tuple[str, BobotError]]]:
    """The manifest of every model, and (name, error) of those whose files are damaged."""
    readable, damaged = [], []
    for name, path in models(environ):
        try:
            readable.append(describe(name, path, read_gguf))
        except BobotError as error:
            damaged.append((name, error))
    return readable, damaged


def _in_own_folder(folder: Path) -> Iterator[tuple[str, Path]]:
    """FOLDER/NAME and FOLDER/ORG/NAME, and GGUF files in either place by their path."""
    for path in _entries(folder):
        if path.suffix == ".gguf":
            yield str(path), path
        elif is_model(path):
            yield path.name, path
        elif path.is_dir():
            for inner in _entries(path):
                if inner.suffix == ".gguf":
                    yield str(inner), inner
                elif is_model(inner):
                    yield f"{path.name}/{inner.name}", inner


def _in_huggingface_cache(folder: Path) -> Iterator[tuple[str, Path]]:
    for entry in _entries(folder):
        if entry.name.startswith("models--") and (path := snapshot(entry)):
            yield entry.name.removeprefix("models--").replace("--", "/"), path


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
