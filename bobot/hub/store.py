"""The models on this machine: the embedded one, those in bobot's folder, those in the Hugging Face
cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from bobot.errors import BobotError
from bobot.hub.cache import huggingface_cache
from bobot.hub.manifest import GgufReader, Manifest, describe
from bobot.hub.names import (
    EMBEDDED,
    embedded_folder,
    ggufs,
    has_settings,
    is_model,
    repository_ggufs,
    snapshot,
)
from bobot.paths import user_paths


def models(environ: Mapping[str, str] | None = None) -> Iterator[tuple[str, Path]]:
    """(name to type, path) of each model found, the embedded one first."""
    yield from _in_folder(EMBEDDED, embedded_folder())
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
    """FOLDER/NAME and FOLDER/ORG/NAME, and GGUF files that lie in FOLDER itself."""
    for file in ggufs(folder):
        yield str(file), file
    for path in _entries(folder):
        yield from _in_folder(path.name, path)
        if path.is_dir() and not is_model(path):
            for inner in _entries(path):
                yield from _in_folder(f"{path.name}/{inner.name}", inner)


def _in_huggingface_cache(folder: Path) -> Iterator[tuple[str, Path]]:
    for entry in _entries(folder):
        if not entry.name.startswith("models--") or not (path := snapshot(entry)):
            continue
        repository = entry.name.removeprefix("models--").replace("--", "/", 1)
        if has_settings(path):
            yield repository, path
            continue
        found = repository_ggufs(path)
        for tag, file in found.items():
            yield (repository if len(found) == 1 else f"{repository}:{tag}"), file


def _in_folder(name: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """The model of a folder under `name`; several GGUF models each under its path."""
    if has_settings(folder):
        yield name, folder
        return
    found = ggufs(folder)
    for file in found:
        yield (name if len(found) == 1 else str(file)), file


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
