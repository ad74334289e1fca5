"""Taking a model off the disk: out of bobot's own folder or the Hugging Face cache, no other."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import scan_cache_dir

from bobot.errors import UnsafeFileError, UsageError
from bobot.hub.cache import CacheEntry, huggingface_cache
from bobot.hub.names import (
    EMBEDDED,
    Reference,
    gguf_called,
    gguf_parts,
    not_found,
    reference,
    repository_ggufs,
    snapshot,
)
from bobot.paths import storage_error, user_paths


@dataclass(frozen=True)
class Removal:
    """The files and folders that go, and the bytes this frees. `entry` is set where a repository
    leaves the cache as a whole.
    """

    paths: tuple[Path, ...]
    size_bytes: int
    entry: CacheEntry | None = None


def plan_removal(name: str, environ: Mapping[str, str] | None = None) -> Removal:
    """What removing `name` would do; nothing is touched. UsageError or UnsafeFileError for what is
    not ours to remove, NotFoundError for what is not here.
    """
    if name == EMBEDDED:
        raise UsageError("the embedded model is part of bobot; it goes when bobot is uninstalled.")
    found = reference(name)
    models = user_paths(environ).models
    is_path = os.path.exists(name)
    own = Path(os.path.abspath(name)) if is_path else models / (found.repository if found else name)
    if os.path.lexists(own) and _is_inside(own, models):
        return _from_own_folder(name, own, found.quantization if found and not is_path else None)
    if is_path:
        raise UsageError(
            "{path} is neither in {models} nor in the Hugging Face cache; bobot removes models"
            " only there.",
            hint="Delete it yourself if it is yours.",
            path=own,
            models=models,
        )
    if found:
        entry = CacheEntry(huggingface_cache(environ), found.repository)
        if os.path.lexists(entry.folder):
            return _from_cache(name, entry, found)
    raise not_found(name, found)


def remove(removal: Removal) -> None:
    """Carries it out. Raises StorageError."""
    try:
        if removal.entry and any(_shared_blobs(removal.entry)):
            _release_shared_blobs(removal.entry)
        for path in removal.paths:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(removal.paths[0], error) from error


def _from_own_folder(name: str, own: Path, quantization: str | None) -> Removal:
    if quantization is None:
        return _removal([own] if own.is_dir() else gguf_parts(own))
    file = gguf_called(quantization, repository_ggufs(own), own)
    if file is None:
        raise not_found(name, reference(name))
    return _removal(gguf_parts(file))


def _from_cache(name: str, entry: CacheEntry, found: Reference) -> Removal:
    if entry.folder.is_symlink() or not _is_inside(entry.folder, entry.cache):
        raise UnsafeFileError(
            "{folder} leads out of the cache by a link; bobot removes nothing there.",
            hint="Delete {target} yourself if it is yours.",
            folder=entry.folder,
            target=entry.folder.resolve(),
        )
    shared_bytes = sum(blob.stat().st_size for blob in _shared_blobs(entry))
    everything = _removal([entry.folder])
    whole = Removal(everything.paths, everything.size_bytes + shared_bytes, entry)
    folder = snapshot(entry.folder)
    models = repository_ggufs(folder) if folder else {}
    if found.quantization is None:
        return whole
    file = gguf_called(found.quantization, models, folder) if folder else None
    if file is None:
        raise not_found(name, found)
    if len(models) == 1:
        return whole
    return _removal(_links_and_blobs(entry, gguf_parts(file)))


def _links_and_blobs(entry: CacheEntry, files: Iterable[Path]) -> list[Path]:
    """Each file's blob, and the links of every snapshot that lead to it."""
    blobs = {os.readlink(file).rpartition("/")[2] for file in files if file.is_symlink()}
    links = [path for path in (entry.folder / "snapshots").rglob("*") if path.is_symlink()]
    ours = [link for link in links if os.readlink(link).rpartition("/")[2] in blobs]
    plain = [file for file in files if not file.is_symlink()]
    return [*ours, *plain, *(entry.blob(blob) for blob in blobs)]


def _removal(paths: Iterable[Path]) -> Removal:
    paths = tuple(paths)
    return Removal(paths, sum(file.lstat().st_size for path in paths for file in _files(path)))


def _files(path: Path) -> Iterator[Path]:
    """The regular files at or below `path`; links are not followed."""
    found = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
    return (file for file in found if file.is_file() and not file.is_symlink())


def _is_inside(path: Path, folder: Path) -> bool:
    """Whether removing `path` takes away something below `folder`, links on the way resolved."""
    return path.parent.resolve().is_relative_to(folder.resolve())


def _shared_blobs(entry: CacheEntry) -> Iterator[Path]:
    """Blobs that huggingface_hub keeps once for several repositories, behind a link."""
    return (blob for blob in (entry.folder / "blobs").glob("*") if blob.is_symlink())


def _release_shared_blobs(entry: CacheEntry) -> None:
    """Has huggingface_hub remove the repository; it alone knows who else uses a shared blob."""
    for repository in scan_cache_dir(entry.cache).repos:
        if repository.repo_type == "model" and repository.repo_id == entry.repository:
            commits = [revision.commit_hash for revision in repository.revisions]
            scan_cache_dir(entry.cache).delete_revisions(*commits).execute()
