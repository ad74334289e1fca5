"""Full blocks of the KV cache as files: one folder, one bound of bytes, the least recently used go
first. Bytes only; what they mean is disk_cache.py's.

The folder is the index: a block is there if its file is, so that any number of processes may share
it. A file is written beside its place and renamed, and never changed: a kill -9 leaves the whole
block or none. What lies there is believed only after every check of `read`; anything else is
removed with a line in the log. Nothing is synced, since the checksum finds what a power cut tore.

A block tells what was said (its keys can be turned back into text): the folder is 0700, each file
0600. Not guarded against: somebody who may write into the folder can write a block that passes.

    header   magic and version, identity of the model, hash of the block, bytes, CRC-32 of all else
    payload  the block
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import stat
import struct
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bobot.hub.made import BLOCK, STALE_S
from bobot.paths import make_private_folder, storage_error

MAGIC = b"bobotKV\x01"
HEADER = struct.Struct("<8s32s32sQ")
CHECKSUM = struct.Struct("<I")
"""CRC-32 misses one damage in four billion and is read at the speed of the disk; SHA-256 would take
five times as long, and does not keep out more of those who can write here."""
HEADER_BYTES = HEADER.size + CHECKSUM.size
PARTIAL = ".partial"
ROOM_BYTES = 2 << 30
"""Stays free on the disk."""
MARGIN = 16
"""A sixteenth of the bound is made free at once, and the folder read again after as much was
written: others write there too."""

_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_OPEN_FLAGS |= getattr(os, "O_BINARY", 0)

log = logging.getLogger("bobot.engine")


@dataclass(frozen=True)
class _Found:
    path: str
    num_bytes: int
    used_ns: int


class BlockFiles:
    """The blocks of one model, `block_bytes` each, among those of others in the same folder.

    `identity` (32 bytes) is a digest of everything that decides what a block of given tokens
    holds. One thread writes, another may read. Raises StorageError where the folder can't be made
    private.
    """

    def __init__(self, folder: Path, identity: bytes, block_bytes: int, max_bytes: int) -> None:
        self.folder = folder
        self.identity = identity
        self.block_bytes = block_bytes
        self.file_bytes = HEADER_BYTES + block_bytes
        self.max_bytes = max_bytes
        self._has_failed = False
        self._unread_bytes = 0
        """Written by us since the folder was read."""
        self.num_bytes = 0
        """In the folder, as far as known; 0: it is to be read."""
        try:
            self._make_room(0)
        except OSError as error:
            raise storage_error(folder, error) from error

    @property
    def name(self) -> str:
        """How the names of this model's files begin."""
        return self.identity[:8].hex()

    def path_of(self, block_hash: bytes) -> Path:
        return self.folder / f"{self.name}-{block_hash.hex()}{BLOCK}"

    def has(self, block_hash: bytes) -> bool:
        """There is a file; whether it is whole, `read` says."""
        return os.path.exists(self.path_of(block_hash))

    def read(self, block_hash: bytes, payload: memoryview) -> bool:
        """Fills `payload` (`block_bytes` long) with the block; False where there is none, and for
        a file that is not exactly what was once written, which is removed.
        """
        path = self.path_of(block_hash)
        try:
            with open(path, "rb", buffering=0, opener=_opened) as file:
                problem = self._problem_of(file, block_hash, payload)
        except FileNotFoundError:
            return False
        except OSError as error:
            problem = str(error.strerror or error)
        if problem:
            log.warning("%s is no block of the prefix cache: %s; removed", path, problem)
            _remove(path)
        return not problem

    def _problem_of(self, file, block_hash: bytes, payload: memoryview) -> str:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            return "not a plain file"
        if status.st_size != self.file_bytes:
            return f"{status.st_size} bytes instead of {self.file_bytes}"
        header = file.read(HEADER_BYTES)
        if header[: HEADER.size] != self._header(block_hash):
            return "of another version, model or text"
        if file.readinto(payload) != self.block_bytes:
            return "cut short"
        if CHECKSUM.pack(_checksum(header[: HEADER.size], payload)) != header[HEADER.size :]:
            return "its checksum is wrong"
        return ""

    def write(self, block_hash: bytes, payload: memoryview) -> bool:
        """Stores a block; False where it could not be, which is logged once in a row."""
        assert len(payload) == self.block_bytes
        try:
            if not self._make_room(self.file_bytes):
                return False
            header = self._header(block_hash)
            checksum = CHECKSUM.pack(_checksum(header, payload))
            self._put(self.path_of(block_hash), header + checksum, payload)
        except OSError as error:
            if not self._has_failed:
                log.warning("%s: a block of the prefix cache was not kept: %s", self.folder, error)
            self._has_failed = True
            self.num_bytes = 0
            return False
        self._has_failed = False
        self.num_bytes += self.file_bytes
        self._unread_bytes += self.file_bytes
        return True

    def touch(self, block_hashes: Sequence[bytes]) -> None:
        """The blocks of a prefix, its beginning first, are used now. The beginning goes last: a
        block is of no use without those before it.
        """
        now_ns = time.time_ns()
        for number, block_hash in enumerate(block_hashes):
            used_ns = now_ns - 1000 * number
            with contextlib.suppress(FileNotFoundError):
                os.utime(self.path_of(block_hash), ns=(used_ns, used_ns))

    def _header(self, block_hash: bytes) -> bytes:
        return HEADER.pack(MAGIC, self.identity, block_hash, self.block_bytes)

    def _put(self, path: Path, head: bytes, payload: memoryview) -> None:
        """Its name is given to the file when it is whole. mkstemp makes it 0600."""
        descriptor, partial = tempfile.mkstemp(dir=self.folder, suffix=PARTIAL)
        try:
            with open(descriptor, "wb", buffering=0) as file:
                if file.write(head) != len(head) or file.write(payload) != len(payload):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.replace(partial, path)
        except BaseException:
            _remove(Path(partial))
            raise

    def _make_room(self, num_bytes: int) -> bool:
        """Whether so many more bytes stay within the bound, once the oldest files are gone."""
        is_known = self._unread_bytes <= self.max_bytes // MARGIN and self.num_bytes > 0
        if is_known and self.num_bytes + num_bytes <= self.max_bytes:
            return True
        make_private_folder(self.folder)  # again, where somebody has deleted it
        self.folder.chmod(0o700)
        found = sorted(self._list(), key=lambda file: file.used_ns, reverse=True)
        total = sum(file.num_bytes for file in found)
        bound = min(self.max_bytes, total + shutil.disk_usage(self.folder).free - ROOM_BYTES)
        if total + num_bytes > bound:
            while found and total + num_bytes > bound - bound // MARGIN:
                oldest = found.pop()
                _remove(Path(oldest.path))
                total -= oldest.num_bytes
        self.num_bytes, self._unread_bytes = total, 0
        return total + num_bytes <= bound

    def _list(self) -> Iterator[_Found]:
        """The block files of all models; what killed processes left is removed."""
        with os.scandir(self.folder) as entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue  # another process made room
                if entry.name.endswith(BLOCK):
                    yield _Found(entry.path, status.st_size, status.st_mtime_ns)
                elif entry.name.endswith(PARTIAL) and time.time() - status.st_mtime > STALE_S:
                    _remove(Path(entry.path))


def _opened(path: str, flags: int) -> int:
    """Neither follows a link nor waits for a pipe."""
    del flags
    return os.open(path, _OPEN_FLAGS)


def _checksum(header: bytes, payload: memoryview) -> int:
    return zlib.crc32(payload, zlib.crc32(header))


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:  # a folder of that name, or one that is not ours to change
        log.warning("%s can't be removed: %s", path, error)
