"""A file mapped into memory, and tensors that lie in it without a copy.

The mapping is private and copy-on-write: pages come from the file when they are touched and are
shared with other processes; a write to a tensor stays in this process. The swap reservation that
such a mapping would need is waived (MAP_NORESERVE), so that a file larger than memory can be
mapped.

Limit: a file that somebody truncates while it is mapped kills the process at the next access
(SIGBUS).
"""

from __future__ import annotations

import math
import mmap
import os
import stat
import sys
from pathlib import Path

import torch
from torch import Tensor

from bobot.errors import CheckpointError

# Python's mmap names this flag from 3.13 on; the number is that of Linux on x86-64, ARM and RISC-V.
_NO_RESERVE = 0x4000 if sys.platform == "linux" else 0


class MappedFile:
    """One regular, non-empty file of weights; mapped as long as it or a tensor of it lives."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # A named pipe in the place of a file must not block the open.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise CheckpointError(
                "{file} can't be read: {reason}", file=path, reason=error.strerror
            ) from error
        try:
            self._map = self._open(descriptor)
        finally:
            os.close(descriptor)
        self.size = len(self._map)
        self._refuse_placeholder()

    def _open(self, descriptor: int) -> mmap.mmap:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError("{file} is not a regular file", file=self.path)
        if status.st_size == 0:
            raise CheckpointError(
                "{file} is empty (0 bytes)", hint="Download it again.", file=self.path
            )
        flags = mmap.MAP_PRIVATE | _NO_RESERVE
        try:
            return mmap.mmap(descriptor, 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        except OSError as error:
            raise CheckpointError(
                "{file} can't be mapped into memory: {reason}",
                file=self.path,
                reason=error.strerror,
            ) from error

    def _refuse_placeholder(self) -> None:
        start = self.read(0, 256)
        if start.startswith(b"version https://git-lfs.github.com/spec/"):
            raise CheckpointError(
                "{file} is a git-LFS pointer of {size} bytes, not the weights",
                hint="Run 'git lfs pull' in its folder, or download the file itself.",
                file=self.path,
                size=self.size,
            )
        if start.lstrip().lower().startswith((b"<!doctype html", b"<html", b"<?xml")):
            raise CheckpointError(
                "{file} is a web page, not the weights",
                hint="The download needed a login or failed; download it again.",
                file=self.path,
            )

    def read(self, start: int, stop: int) -> bytes:
        return self._map[start:stop]

    def buffer(self) -> memoryview:
        return memoryview(self._map)

    def tensor(self, start: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        """The bytes at `start` as a tensor. A copy only if `start` is no multiple of the element
        size.

        The range must lie within the file; the readers have checked that.
        """
        count = math.prod(shape)
        stop = start + count * dtype.itemsize
        assert 0 <= start <= stop <= self.size
        if count == 0:
            return torch.empty(shape, dtype=dtype)
        if start % dtype.itemsize == 0:
            return torch.frombuffer(self._map, dtype=dtype, count=count, offset=start).view(shape)
        return self._aligned(start, dtype, shape)

    def _aligned(self, start: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        """A copy, read past the mapping: its pages would double the memory that it takes."""
        tensor = torch.empty(shape, dtype=dtype)
        left = tensor.view(-1).view(torch.uint8).numpy().data
        with open(self.path, "rb", buffering=0) as file:
            file.seek(start)
            while left:
                count = file.readinto(left)
                if not count:
                    raise CheckpointError("{file} was cut off while it was read", file=self.path)
                left = left[count:]
        return tensor
