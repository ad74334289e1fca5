"""The Hugging Face cache on disk, shared with every program that uses huggingface_hub: where things
lie in it, and which of its files were checked.

    models--ORG--NAME/refs/main                  the commit that a name stands for
    models--ORG--NAME/blobs/ETAG                 a file's content; its name is the content's digest
    models--ORG--NAME/blobs/ETAG.incomplete      the beginning of one, while it is downloaded
    models--ORG--NAME/snapshots/COMMIT/FILE      a link to its blob
    models--ORG--NAME/.bobot-verified.json       ours: blobs whose digest was computed and was right
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bobot.errors import UnsafeFileError
from bobot.paths import storage_error, write_atomic


def huggingface_cache(environ: Mapping[str, str] | None = None) -> Path:
    """The folder of models--ORG--NAME entries: HF_HUB_CACHE, HF_HOME/hub, or
    ~/.cache/huggingface/hub.
    """
    environ = os.environ if environ is None else environ
    if folder := environ.get("HF_HUB_CACHE"):
        return Path(folder).expanduser()
    return huggingface_home(environ) / "hub"


def huggingface_home(environ: Mapping[str, str]) -> Path:
    """The folder of the cache and of the token that `hf auth login` saves."""
    if folder := environ.get("HF_HOME"):
        return Path(folder).expanduser()
    home = Path(environ.get("HOME") or os.path.expanduser("~"))
    return Path(environ.get("XDG_CACHE_HOME") or home / ".cache") / "huggingface"


@dataclass(frozen=True)
class CacheEntry:
    """The folder of one repository in the cache; nothing of it has to exist yet."""

    cache: Path
    repository: str

    @property
    def folder(self) -> Path:
        return self.cache / f"models--{self.repository.replace('/', '--')}"

    def blob(self, etag: str) -> Path:
        return self.folder / "blobs" / etag

    def partial(self, etag: str) -> Path:
        return self.folder / "blobs" / f"{etag}.incomplete"

    def snapshot(self, commit: str) -> Path:
        return self.folder / "snapshots" / commit

    def stored(self, commit: str, name: str, etag: str) -> Path | None:
        """The file's content where it lies: its blob, or the snapshot's own file on a disk without
        links.
        """
        for path in (self.blob(etag), self.snapshot(commit) / name):
            if path.is_file():
                return path
        return None

    def publish(self, commit: str, revision: str, etags: Mapping[str, str]) -> Path:
        """The snapshot folder, holding every file of name -> etag; `revision` now stands for it.

        Its links appear only here, after all content is in place: a name never leads to half a
        model.
        """
        snapshot = self.snapshot(commit)
        try:
            for name, etag in etags.items():
                self._link(snapshot / PurePosixPath(name), self.blob(etag))
            reference = self.folder / "refs" / revision
            reference.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(snapshot, error) from error
        if revision != commit:
            write_atomic(reference, commit.encode(), mode=0o644)
        return snapshot

    def _link(self, pointer: Path, blob: Path) -> None:
        pointer.parent.mkdir(parents=True, exist_ok=True)
        if not pointer.parent.resolve().is_relative_to(self.folder.resolve()):
            raise UnsafeFileError(
                "{path} leads out of the cache by a link, so nothing was put there.",
                hint="Remove that link.",
                path=pointer.parent,
            )
        if pointer.is_file():
            return
        pointer.unlink(missing_ok=True)
        try:
            pointer.symlink_to(os.path.relpath(blob, pointer.parent))
        except OSError:
            # A disk without links (exFAT): the content itself moves, as huggingface_hub does there.
            os.replace(blob, pointer)

    def verified(self) -> dict[str, list[int]]:
        """etag -> [size, mtime in ns] of the blobs that were checked; {} where nothing is known."""
        try:
            record = json.loads(self._record.read_text(encoding="utf-8"))
            blobs = record["blobs"]
        except (OSError, ValueError, KeyError, TypeError):
            return {}  # a record that can't be read costs a second look, nothing else
        return blobs if isinstance(blobs, dict) else {}

    def remember(self, verified: Mapping[str, list[int]]) -> None:
        """Writes what verified() returns."""
        content = json.dumps({"version": 1, "blobs": dict(verified)}, indent=1)
        write_atomic(self._record, content.encode(), mode=0o644)

    @property
    def _record(self) -> Path:
        return self.folder / ".bobot-verified.json"


def stamp(path: Path) -> list[int]:
    """[size, mtime in ns]: equal as long as nobody wrote to the file."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]
