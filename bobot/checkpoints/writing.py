"""Files of weights that are written whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedWriter
from pathlib import Path

from torch import Tensor

from bobot.errors import StorageError
from bobot.paths import replacing


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor to be written: what is known of it before its values are there.

    kind is the file format's name of its type; `pieces` gives the values along the first axis, in
    order, one piece in memory at a time.
    """

    kind: str
    shape: tuple[int, ...]
    pieces: Callable[[], Iterable[Tensor]]


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
