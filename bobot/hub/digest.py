"""One digest for a whole model, so that two people can tell whether they have the same one.

It is what `sha256sum FILES | sha256sum` prints for the model's files in order of their names:
weights, settings and tokenizer, without licence and model card. Digests that a pull has verified
are taken from the cache's record; other files are read, unless they are large.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from bobot.errors import NotFoundError
from bobot.hub.cache import CacheEntry, stamp
from bobot.hub.needed import is_document, needed_files

MAX_READ_BYTES = 256 << 20
"""Read at once for a digest that no pull has recorded; more would make `bobot show` wait."""


def model_digest(path: Path, parts: Iterable[Path]) -> str | None:
    """64 hexadecimal digits for the model at `path` (for a GGUF file: its `parts`), or None when
    more than MAX_READ_BYTES would have to be read.
    """
    files = _files_of(path) if path.is_dir() else {part.name: part for part in parts}
    known = {name: _recorded(file) for name, file in files.items()}
    unknown_bytes = sum(file.stat().st_size for name, file in files.items() if not known[name])
    if not files or unknown_bytes > MAX_READ_BYTES:
        return None
    return digest_of({name: known[name] or _sha256(file) for name, file in files.items()})


def digest_of(digests: Mapping[str, str]) -> str:
    """The digest of files by name -> SHA-256 of the content."""
    lines = [f"{digests[name]}  {name}\n" for name in sorted(digests)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _files_of(folder: Path) -> dict[str, Path]:
    names = [
        file.relative_to(folder).as_posix()
        for pattern in ("*", "*/*")
        for file in folder.glob(pattern)
        if file.is_file()
    ]
    try:
        return {name: folder / name for name in needed_files(names) if not is_document(name)}
    except NotFoundError:
        return {}  # a config without weights is no model that could be compared


def _recorded(file: Path) -> str | None:
    """The SHA-256 that a pull computed for a file of the cache, if nobody wrote to it since."""
    if not file.is_symlink():
        return None
    # One step only: a blob may itself be a link into the store that repositories share.
    blob = Path(os.path.normpath(file.parent / os.readlink(file)))
    folder = blob.parent.parent
    if blob.parent.name != "blobs" or not folder.name.startswith("models--"):
        return None
    entry = CacheEntry(folder.parent, folder.name.removeprefix("models--").replace("--", "/", 1))
    is_verified = entry.verified().get(blob.name) == stamp(blob)
    return blob.name if is_verified and len(blob.name) == 64 else None


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
