"""Saved conversations: one JSON file each, written whole and then renamed, readable by their owner
only.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path

from bobot.chat.session import Session
from bobot.errors import BobotError, NotFoundError, StorageError, UsageError
from bobot.paths import write_atomic

VERSION = 1
MAX_BYTES = 64 << 20
_NAME = re.compile(r"[^\W_][\w .-]{0,63}")


@dataclass(frozen=True)
class Entry:
    """One saved conversation, for a list."""

    name: str
    title: str
    num_turns: int


class Archive:
    """The conversations in one folder, which is created by the first save."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, session: Session, name: str | None = None, model: str | None = None) -> Path:
        """Writes the conversation under `name`, its own name, or one made from the time; the
        session takes that name. Raises UsageError for a name that can't be a file's,
        StorageError when writing fails.
        """
        chosen = name or session.name or self._name_from_time()
        path = self._path(chosen)
        document = {"bobot_conversation": VERSION, "model": model, **session.as_dict()}
        write_atomic(path, json.dumps(document, ensure_ascii=False, indent=1).encode())
        session.name = chosen
        return path

    def load(self, name: str) -> Session:
        """The saved conversation; raises NotFoundError, or StorageError for a damaged file."""
        path = self._path(name)
        if not path.is_file():
            raise NotFoundError(
                "no saved conversation {name!r}.", hint="/load lists them.", name=name
            )
        try:
            if path.stat().st_size > MAX_BYTES:
                raise ValueError
            document = json.loads(path.read_text(encoding="utf-8"))
            if document["bobot_conversation"] != VERSION:
                raise ValueError
            session = Session.from_dict(document)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, BobotError) as error:
            raise StorageError(
                "{file} is damaged or of another version.",
                hint="Nothing was changed; delete it or mend it by hand.",
                file=path,
            ) from error
        session.name = name
        return session

    def entries(self) -> list[Entry]:
        """The saved conversations, the latest first; damaged files are left out."""
        if not self.folder.is_dir():
            return []
        paths = [path for path in self.folder.glob("*.json") if _NAME.fullmatch(path.stem)]
        paths.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
        return [entry for path in paths if (entry := self._entry(path))]

    def _entry(self, path: Path) -> Entry | None:
        try:
            session = self.load(path.stem)
        except BobotError:
            return None
        first = session.messages[0].content if session.messages else ""
        return Entry(path.stem, " ".join(first.split())[:60], session.num_turns)

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name) or name.endswith((".", " ")):
            raise UsageError(
                "{name!r} can't name a conversation; allowed: up to 64 letters, digits, blanks"
                " and . _ -, a letter or digit first.",
                name=name,
            )
        return self.folder / f"{name}.json"

    def _name_from_time(self) -> str:
        stem = time.strftime("%Y-%m-%d-%H%M%S")
        taken = {path.stem for path in self.folder.glob(f"{stem}*.json")}
        numbered = (f"{stem}-{number}" for number in range(2, len(taken) + 3))
        return next(name for name in (stem, *numbered) if name not in taken)
