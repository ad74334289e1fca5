"""Files of weights that are written whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedWriter
from pathlib import Path

from bobot.errors import StorageError
from bobot.paths import replacing


@contextmanager
def atomic_file(path: Path) -> Iterator[BufferedWriter]:
    """A file open for writing that appears under `path` only when the block ends well.

    Raises StorageError when the disk is full or the folder can't be written. kill -9 leaves
    `.NAME.PID.partial` behind, never a damaged `path`.
    """
    try:
        with replacing(path) as file:
            yield file
    except OSError as error:
        raise StorageError(
            "{file} can't be written: {reason}",
            hint="Free some space, or choose another folder.",
            file=path,
            reason=error.strerror,
        ) from error
