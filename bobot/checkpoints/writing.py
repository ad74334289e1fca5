"""Files that are written whole or not at all: a temporary file, synced, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedWriter
from pathlib import Path

from bobot.errors import StorageError


@contextmanager
def atomic_file(path: Path) -> Iterator[BufferedWriter]:
    """A file open for writing that appears under `path` only when the block ends well.

    After an error or Ctrl-C `path` is as before and no partial file is left. Raises StorageError
    when the disk is full or the folder can't be written. kill -9 leaves `.NAME.PID.partial`
    behind, never a damaged `path`.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise StorageError(
            "{file} can't be written: {reason}",
            hint="Free some space, or choose another folder.",
            file=path,
            reason=error.strerror,
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
