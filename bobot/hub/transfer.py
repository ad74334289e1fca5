"""One file from the Hub to the disk: resumed where it broke off, its digest computed on the way.

The content goes into a part file that keeps its name between runs, so that neither a cut
connection nor kill -9 loses what has arrived. It becomes a blob only when its digest is right.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from io import BufferedRandom
from pathlib import Path
from urllib.parse import quote

import httpx2

from bobot.errors import CheckpointError
from bobot.hub.cache import CacheEntry, stamp
from bobot.hub.remote import MAX_ATTEMPTS, Hub, Interrupted, RemoteFile, waiting_time
from bobot.paths import storage_error, sync

READ_BYTES = 1 << 20
MAX_REQUEST_BYTES = 8 << 30
"""Asked for at once. Storage hosts refuse a single answer above some 50 GB, and the address that
they are reached by expires after an hour or so."""


class Stopped(Exception):
    """The user wants no more; raised in the threads that fetch."""


class Meter:
    """What a pull has done so far. The threads that fetch write it, the one that shows it reads."""

    def __init__(self, total_bytes: int, stop: threading.Event) -> None:
        self.total_bytes = total_bytes
        self.done_bytes = 0
        self.received_bytes = 0
        self.num_files_done = 0
        self.waiting = ""
        """Why nothing arrives at the moment; empty while all goes well."""
        self._lock = threading.Lock()
        self._stop = stop

    def stop(self) -> None:
        self._stop.set()

    def check_stopped(self) -> None:
        if self._stop.is_set():
            raise Stopped

    def advance(self, num_bytes: int, received: bool = False) -> None:
        with self._lock:
            self.done_bytes += num_bytes
            if received:
                self.received_bytes += num_bytes
                self.waiting = ""

    def finish_file(self) -> None:
        with self._lock:
            self.num_files_done += 1


class _Part:
    """The open part file with the digest of what it holds; `size` bytes of it are right so far."""

    def __init__(self, file: BufferedRandom, wanted: RemoteFile, meter: Meter) -> None:
        self.file, self.wanted, self.meter = file, wanted, meter
        self.size = 0
        self.digest = new_digest(wanted)
        if os.fstat(file.fileno()).st_size > wanted.size:
            file.truncate(0)
        while chunk := file.read(READ_BYTES):
            meter.check_stopped()
            self._count(chunk)

    def append(self, chunk: bytes) -> None:
        self.meter.check_stopped()
        if self.size + len(chunk) > self.wanted.size:
            raise Interrupted("more bytes came than the file has")
        self.file.write(chunk)
        self._count(chunk, received=True)

    def restart(self) -> None:
        self.file.seek(0)
        self.file.truncate()
        self.meter.advance(-self.size)
        self.size, self.digest = 0, new_digest(self.wanted)

    def _count(self, chunk: bytes, received: bool = False) -> None:
        self.digest.update(chunk)
        self.size += len(chunk)
        self.meter.advance(len(chunk), received)


def new_digest(file: RemoteFile) -> hashlib._Hash:
    """An empty digest of the kind of file.etag: SHA-256, or git's SHA-1 with its header."""
    if len(file.etag) == 64:
        return hashlib.sha256()
    # As git names it; bytes that differ under an equal SHA-1 are no defence, but no harm either.
    return hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)


def fetch(
    hub: Hub, repository: str, commit: str, file: RemoteFile, entry: CacheEntry, meter: Meter
) -> Path:
    """The blob of `file`, complete and checked. Raises DownloadError, StorageError, Stopped, or
    CheckpointError when the content is not what the Hub's digest says; then it is gone.
    """
    partial = entry.partial(file.etag)
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(partial, flags, 0o666)
        with open(descriptor, "r+b") as opened:
            part = _Part(opened, file, meter)
            _receive_all(hub, repository, commit, part)
            opened.flush()
            os.fsync(opened.fileno())
        if part.digest.hexdigest() != file.etag:
            partial.unlink()
            meter.advance(-part.size)
            raise wrong_digest(file, repository)
        blob = entry.blob(file.etag)
        os.replace(partial, blob)
        sync(blob.parent)
    except OSError as error:
        raise storage_error(partial, error) from error
    return blob


def _receive_all(hub: Hub, repository: str, commit: str, part: _Part) -> None:
    failures = 0
    while part.size < part.wanted.size:
        before = part.size
        try:
            _receive(hub, repository, commit, part)
        except Interrupted as error:
            failures = failures + 1 if part.size <= before else 1
            if failures == MAX_ATTEMPTS:
                raise hub.given_up(error) from error
            part.meter.waiting = error.reason
            hub.sleep(waiting_time(error, failures))
        part.meter.check_stopped()


def _receive(hub: Hub, repository: str, commit: str, part: _Part) -> None:
    """Appends what one request brings, from part.size on."""
    stop = min(part.wanted.size, part.size + MAX_REQUEST_BYTES)
    address = f"/{repository}/resolve/{commit}/{quote(part.wanted.name)}"
    with hub.get(address, repository, {"Range": f"bytes={part.size}-{stop - 1}"}) as response:
        start = _first_byte(response)
        if start == 0 and part.size:
            part.restart()  # the server knows no ranges
        if start != part.size:
            raise Interrupted(f"byte {start} came where {part.size} was asked for")
        for chunk in response.iter_raw():
            part.append(chunk)
    if part.size < stop:
        raise Interrupted("the connection was cut")


def _first_byte(response: httpx2.Response) -> int:
    """The position in the file at which the answer begins."""
    if response.status_code != 206:
        return 0
    match = re.match(r"bytes (\d{1,18})-", response.headers.get("Content-Range", ""))
    return int(match[1]) if match else -1


def verify(file: RemoteFile, path: Path, repository: str, meter: Meter) -> list[int]:
    """The stamp of content that lay there before, once its digest is computed and right; else the
    file is removed and CheckpointError raised.
    """
    try:
        before, digest = stamp(path), new_digest(file)
        with path.open("rb") as opened:
            while chunk := opened.read(READ_BYTES):
                meter.check_stopped()
                digest.update(chunk)
                meter.advance(len(chunk))
        if digest.hexdigest() != file.etag:
            path.unlink()
            raise wrong_digest(file, repository)
    except OSError as error:
        raise storage_error(path, error) from error
    return before


def wrong_digest(file: RemoteFile, repository: str) -> CheckpointError:
    return CheckpointError(
        "{repository}: {file} is damaged: its digest is not the one that the Hub states, so it was"
        " removed.",
        hint="Pull again to fetch it anew; if it happens twice, the disk, the network or the"
        " mirror alters files.",
        repository=repository,
        file=file.name,
    )
