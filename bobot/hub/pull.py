"""A whole model from the Hub into the Hugging Face cache: planned, checked for room, fetched a few
files at a time, every digest verified.

    plan = plan_pull(hub, entry, "main", quantization=None)
    check_room(plan, room_for(entry.cache))
    path = carry_out(hub, plan, Meter(plan.total_bytes, stop), watch)

One pull works on a repository at a time; other programs may read the cache meanwhile.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from bobot.errors import DownloadError, StorageError
from bobot.hardware import existing_folder
from bobot.hub.cache import CacheEntry, stamp
from bobot.hub.needed import needed_files, quantizations
from bobot.hub.remote import Hub, RemoteFile
from bobot.hub.transfer import Meter, fetch, verify
from bobot.paths import storage_error

NUM_FILES_AT_ONCE = 4
RESERVE_BYTES = 256 << 20
"""Left free on the disk: a full one breaks other programs too."""
WATCH_S = 0.1
STOP_S = 1.0


class Room(NamedTuple):
    """Bytes a disk has left, and a folder on it."""

    free_bytes: int
    folder: Path


@dataclass(frozen=True)
class Plan:
    """What a pull will do: `files` are those the model needs; of these `verified` lie here and were
    checked before, `present` lie here unchecked, and the others are fetched.
    """

    entry: CacheEntry
    revision: str
    commit: str
    licence: str | None
    files: tuple[RemoteFile, ...]
    verified: tuple[RemoteFile, ...]
    present: tuple[RemoteFile, ...]
    left_out_bytes: int
    quantizations: tuple[str, ...]
    """Of a GGUF repository: what can be chosen, the chosen one first; else empty."""

    @property
    def total_bytes(self) -> int:
        return sum(file.size for file in distinct(self.files))

    @property
    def absent(self) -> list[RemoteFile]:
        here = {*self.verified, *self.present}
        return [file for file in distinct(self.files) if file not in here]

    @property
    def missing_bytes(self) -> int:
        """Still to be fetched: the absent files without the parts of them that have arrived."""
        return sum(max(0, file.size - _size(self.entry.partial(file.etag))) for file in self.absent)


def plan_pull(hub: Hub, entry: CacheEntry, revision: str, quantization: str | None) -> Plan:
    """The plan after one look at the Hub and one at the cache; errors as of Hub.list_files and
    needed_files.
    """
    listing = hub.list_files(entry.repository, revision)
    by_name = {file.name: file for file in listing.files}
    files = [by_name[name] for name in needed_files(by_name, quantization)]
    record, verified, present = entry.verified(), [], []
    for file in files:
        path = entry.stored(listing.commit, file.name, file.etag)
        if path is None or path.stat().st_size != file.size:
            continue
        (verified if record.get(file.etag) == stamp(path) else present).append(file)
    return Plan(
        entry=entry,
        revision=revision,
        commit=listing.commit,
        licence=listing.licence,
        files=tuple(files),
        verified=tuple(verified),
        present=tuple(present),
        left_out_bytes=sum(file.size for file in listing.files) - sum(f.size for f in files),
        quantizations=_quantizations(by_name, files),
    )


def _quantizations(names: Iterable[str], files: list[RemoteFile]) -> tuple[str, ...]:
    choices = quantizations(names)
    taken = {file.name for file in files}
    chosen = [tag for tag, parts in choices.items() if parts[0] in taken]
    return (*chosen, *(tag for tag in choices if tag not in chosen)) if chosen else ()


def room_for(folder: Path) -> Room:
    """The free space of the disk on which `folder` lies or will lie."""
    return Room(shutil.disk_usage(existing_folder(folder)).free, folder)


def check_room(plan: Plan, room: Room) -> None:
    """Raises StorageError unless the disk holds what is still to be fetched."""
    if plan.missing_bytes and plan.missing_bytes + RESERVE_BYTES > room.free_bytes:
        raise StorageError(
            "{repository} needs {needed} more on the disk of {folder}; {free} are free.",
            hint="Free some space, or put the cache on another disk: export HF_HOME=/other/folder",
            repository=plan.entry.repository,
            needed=_gib(plan.missing_bytes + RESERVE_BYTES),
            free=_gib(room.free_bytes),
            folder=room.folder,
        )


def carry_out(hub: Hub, plan: Plan, meter: Meter, watch: Callable[[], None]) -> Path:
    """The snapshot folder with every file of the plan in place and verified.

    `watch` is called in this thread about ten times a second until then; an exception out of it,
    KeyboardInterrupt too, stops the pull with all that has arrived kept.
    """
    with _locked(plan.entry):
        for file in distinct(plan.verified):
            meter.advance(file.size)
            meter.finish_file()
        _bring_all(hub, plan, meter, watch)
        etags = {file.name: file.etag for file in plan.files}
        return plan.entry.publish(plan.commit, plan.revision, etags)


def _bring_all(hub: Hub, plan: Plan, meter: Meter, watch: Callable[[], None]) -> None:
    record = plan.entry.verified()

    def bring(file: RemoteFile) -> tuple[RemoteFile, list[int]]:
        path = plan.entry.stored(plan.commit, file.name, file.etag)
        if path is not None and path.stat().st_size == file.size:
            return file, verify(file, path, plan.entry.repository, meter)
        return file, stamp(fetch(hub, plan.entry.repository, plan.commit, file, plan.entry, meter))

    pool = ThreadPoolExecutor(NUM_FILES_AT_ONCE)
    unverified = [file for file in plan.files if file not in plan.verified]
    futures = {pool.submit(bring, file) for file in distinct(unverified)}
    try:
        while futures:
            done, futures = wait(futures, timeout=WATCH_S, return_when=FIRST_EXCEPTION)
            for future in done:
                file, seen = future.result()
                record[file.etag] = seen
                meter.finish_file()
            if done:
                plan.entry.remember(record)
            watch()
    finally:
        # A thread that waits for a silent server is not waited for; it writes nothing any more.
        meter.stop()
        pool.shutdown(wait=False, cancel_futures=True)
        wait([future for future in futures if future.running()], timeout=STOP_S)


@contextmanager
def _locked(entry: CacheEntry) -> Iterator[None]:
    """Holds the repository's lock, which the system frees when this process ends in any way."""
    path = entry.cache / ".locks" / entry.folder.name / "bobot.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, timeout=0)
        lock.acquire()
    except Timeout as error:
        raise DownloadError(
            "another program is pulling {repository}.",
            hint="Wait until it is done; what it fetches is used by both.",
            repository=entry.repository,
        ) from error
    except OSError as error:
        raise storage_error(path, error) from error
    try:
        yield
    finally:
        lock.release()


def distinct(files: Iterable[RemoteFile]) -> list[RemoteFile]:
    """Without the names whose content another name has too: content is fetched and kept once."""
    return list({file.etag: file for file in files}.values())


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / (1 << 30):,.1f} GiB"
