"""Where bobot keeps a user's files, and how it writes them: XDG folders, and write-then-rename.

Nothing is created or read when this module is imported. Models live in data/models, conversations
in data/chats.db, the typed lines in state/history; nothing goes into ~/.bobot.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BufferedWriter
from pathlib import Path

from bobot.errors import StorageError


@dataclass(frozen=True)
class UserPaths:
    """The four folders of one user; none of them has to exist yet."""

    config: Path
    data: Path
    state: Path
    cache: Path

    @property
    def models(self) -> Path:
        return self.data / "models"

    @property
    def chats(self) -> Path:
        """Where earlier versions kept conversations, one file each."""
        return self.data / "chats"

    @property
    def store(self) -> Path:
        return self.data / "chats.db"

    @property
    def tiles(self) -> Path:
        return self.cache / "tiles"

    @property
    def prefixes(self) -> Path:
        """Keys and values of prompts: as private as the conversations themselves."""
        return self.cache / "prefixes"

    @property
    def policy(self) -> Path:
        return self.config / "policy.toml"

    @property
    def history(self) -> Path:
        return self.state / "history"


def user_paths(environ: Mapping[str, str] | None = None, platform: str = sys.platform) -> UserPaths:
    """XDG_*_HOME where set (a relative one is ignored, as the XDG specification says), else the
    platform's own place: ~/.local/share and its siblings, ~/Library, %LOCALAPPDATA%."""
    environ = os.environ if environ is None else environ
    home = Path(environ.get("HOME") or os.path.expanduser("~"))
    if platform == "darwin":
        support = home / "Library" / "Application Support"
        defaults = (support, support, support, home / "Library" / "Caches")
    elif platform == "win32":
        local = Path(environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
        defaults = (local, local, local, local)
    else:
        share = home / ".local"
        defaults = (home / ".config", share / "share", share / "state", home / ".cache")
    names = ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME")
    folders = [
        _absolute(environ.get(name)) or usual for name, usual in zip(names, defaults, strict=True)
    ]
    return UserPaths(*(folder / "bobot" for folder in folders))


def _absolute(value: str | None) -> Path | None:
    return Path(value) if value and os.path.isabs(value) else None


def make_private_folder(folder: Path) -> None:
    """Creates `folder` and its parents; the folder itself can be read by its owner only."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(folder, error) from error


@contextlib.contextmanager
def replacing(path: Path, mode: int | None = None) -> Iterator[BufferedWriter]:
    """A file open for writing that takes the place of `path` only when the block ends well.

    It is written beside `path`, synced, then renamed: a reader or a kill -9 sees the old content or
    the new, never a part. After an error or Ctrl-C `path` is as before and no partial file is left.
    `mode` sets the permissions, and keeps others out while it is written; None leaves them to the
    user's umask. Raises OSError.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    first_mode = 0o666 if mode is None else 0o600
    try:
        with open(
            partial, "wb", opener=lambda name, flags: os.open(name, flags, first_mode)
        ) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            os.chmod(partial, mode)
        os.replace(partial, path)
        sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Makes the disk hold what was written to a file, or the names that a folder has now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Writes a whole file in the way of `replacing`, its folder created if need be. Raises
    StorageError.
    """
    make_private_folder(path.parent)
    try:
        with replacing(path, mode) as file:
            file.write(content)
    except OSError as error:
        raise storage_error(path, error) from error


def storage_error(path: Path, error: OSError) -> StorageError:
    """The StorageError that says why `path` could not be written, with the next step."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            "{path}: the disk is full, nothing was written.",
            hint="Free some space and try again.",
            path=path,
        )
    return StorageError("{path}: can't write: {reason}.", path=path, reason=error.strerror or error)
