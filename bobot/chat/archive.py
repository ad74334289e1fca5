"""The terminal chat's view of the store: sessions under names.

A session is a line of messages, the store a tree: saving looks for the line in the tree and adds
what is new, so that an undone or repeated answer stays there as a branch. Conversations that
earlier versions kept as files, one JSON each, are brought in once; the files stay as they are.
"""

from __future__ import annotations

import json
import logging
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bobot.chat.answer_writer import AnswerWriter
from bobot.chat.interchange import exported
from bobot.chat.messages import Message
from bobot.chat.session import Session
from bobot.chat.store import Store
from bobot.chat.store_rows import Conversation, NewMessage
from bobot.errors import BobotError, NotFoundError, StorageError, UsageError

FILE_VERSION = 1
MAX_FILE_BYTES = 64 << 20
_NAME = re.compile(r"[^\W_][\w .-]{0,63}")
_ID = re.compile(r"[0-9a-f]{16}")

log = logging.getLogger("bobot.chat")


@dataclass(frozen=True)
class Entry:
    """One saved conversation, for a list."""

    name: str
    """Its id where it was never given a name."""
    title: str
    num_turns: int


class Archive:
    """The conversations of one store. `files`: the folder in which earlier versions kept them."""

    def __init__(self, store: Store, files: Path | None = None) -> None:
        self.store = store
        for path in sorted(files.glob("*.json")) if files and files.is_dir() else []:
            self._bring_in(path)

    def save(self, session: Session, name: str | None = None, model: str | None = None) -> str:
        """Stores the conversation under `name`, its own name, or one made from the time; the
        session takes that name. Raises UsageError for a name that can't be one, StorageError when
        writing fails.
        """
        chosen = name or session.name or self._name_from_time()
        _check(chosen)
        with self.store.transaction():
            found = self._find(chosen)
            identity = found.id if found else self.store.create(name=chosen)
            if not (found and found.title):
                self.store.change(identity, title=_title(session))
            head = None
            for message in session.messages:
                said = _new(message, model)
                known = self.store.child(identity, head, said)
                head = self.store.add(identity, head, said) if known is None else known
            extra = {**self.store.get(identity).extra, **_extra(session)}
            self.store.change(identity, **_fields(session), extra=extra, head=head, model=model)
        session.name = chosen
        return chosen

    def answering(self, session: Session, model: str) -> AnswerWriter:
        """Stores the conversation, and where its next answer is written while it comes."""
        name = self.save(session, model=model)
        found = self._find(name)
        assert found is not None
        return self.store.begin(found.id, found.head, model)

    def load(self, name: str) -> Session:
        """The saved conversation; raises NotFoundError, or StorageError for one of another form."""
        _check(name)
        found = self._find(name)
        if found is None:
            raise NotFoundError(
                "no saved conversation {name!r}.", hint="/load lists them.", name=name
            )
        session = Session()
        session.name = name
        session.is_private = found.is_private
        try:
            _take_settings(session, found)
        except (KeyError, TypeError, AttributeError, BobotError) as error:
            raise StorageError(
                "the settings of {name!r} are of another form: {reason}.", name=name, reason=error
            ) from error
        session.messages = self._line(found.head)
        return session

    def names(self) -> list[str]:
        """Of the saved conversations, the latest first."""
        return [found.name or found.id for found in self.store.conversations()]

    def has(self, name: str) -> bool:
        return self._find(name) is not None

    def entries(self, limit: int = 20) -> list[Entry]:
        """The saved conversations, the latest first."""
        return [
            Entry(found.name or found.id, found.title, self._num_turns(found))
            for found in self.store.conversations(limit)
        ]

    def search(self, text: str, limit: int = 20) -> list[tuple[str, str]]:
        """(name, what was found) of conversations with all the words of `text`."""
        found: dict[str, str] = {}
        for hit in self.store.search(text, 10 * limit):
            found.setdefault(hit.conversation, hit.snippet)
        conversations = [(self.store.get(key), snippet) for key, snippet in found.items()]
        return [(one.name or one.id, snippet) for one, snippet in conversations[:limit]]

    def exported(self, name: str) -> dict[str, Any]:
        """One conversation with all its branches as JSON values."""
        found = self._find(name)
        assert found is not None
        return exported(self.store, [found.id])

    def _num_turns(self, found: Conversation) -> int:
        return sum(message.role == "user" for message in self.store.branch(found.head))

    def _find(self, name: str) -> Conversation | None:
        found = self.store.named(name)
        if found is None and _ID.fullmatch(name):
            try:
                return self.store.get(name)
            except NotFoundError:
                return None
        return found

    def _line(self, head: int | None) -> list[Message]:
        """The shown branch as question and answer in turn; results of tools stay in the store."""
        line: list[Message] = []
        for message in self.store.branch(head):
            if message.role in ("user", "assistant") and message.content:
                if line and line[-1].role == message.role == "assistant":
                    said = f"{line.pop().content}\n\n{message.content}"
                    line.append(Message("assistant", said, message.reasoning, message.model))
                elif line or message.role == "user":
                    said = (message.role, message.content, message.reasoning, message.model)
                    line.append(Message(*said))
        return line

    def _name_from_time(self) -> str:
        stem = time.strftime("%Y-%m-%d-%H%M%S")
        number = 1
        while self.store.named(name := stem if number == 1 else f"{stem}-{number}"):
            number += 1
        return name

    # ------------------------------------------------------------------ files of earlier versions

    def _bring_in(self, path: Path) -> None:
        """Adds the conversation in a file, unless that was done before; a damaged file is told in
        the log and looked at again next time.
        """
        source = f"file:{path.name}"
        if self.store.has_source(source):
            return
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise ValueError("too large")
            document = json.loads(path.read_text(encoding="utf-8"))
            if document["bobot_conversation"] != FILE_VERSION:
                raise ValueError("another version")
            session = Session.from_dict(document)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, BobotError) as error:
            log.warning("%s can't be read and was left out: %s", path, error)
            return
        changed = path.stat().st_mtime
        model = document.get("model")
        with self.store.transaction():
            is_free = _is_name(path.stem) and self.store.named(path.stem) is None
            name = path.stem if is_free else self._name_from_time()
            self.save(session, name, model if isinstance(model, str) else None)
            found = self.store.named(name)
            assert found is not None
            self.store.change(found.id, source=source, created=changed, updated=changed)


def _is_name(text: str) -> bool:
    return bool(_NAME.fullmatch(text)) and not text.endswith((".", " "))


def _check(name: str) -> None:
    if not _is_name(name):
        raise UsageError(
            "{name!r} can't name a conversation; allowed: up to 64 letters, digits, blanks"
            " and . _ -, a letter or digit first.",
            name=name,
        )


def _new(message: Message, model: str | None) -> NewMessage:
    by = (message.model or model) if message.role == "assistant" else None
    return NewMessage(
        role=message.role,  # type: ignore[arg-type]
        content=message.content,
        reasoning=message.reasoning,
        model=by,
    )


def _fields(session: Session) -> dict[str, Any]:
    """The columns of Conversation that a session decides."""
    values = session.as_dict()
    own = {name: values[name] for name in ("persona", "system", "settings")}
    return {**own, "updated": time.time(), "is_private": session.is_private}


def _extra(session: Session) -> dict[str, Any]:
    values = session.as_dict()
    return {name: values[name] for name in ("persona_system", "reasoning_effort")}


def _title(session: Session) -> str:
    first = session.messages[0].content if session.messages else ""
    return " ".join(first.split())[:60]


def _take_settings(session: Session, found: Conversation) -> None:
    """Persona, system prompt and sampling of a conversation, which the web chat may have made."""
    known = {**session.as_dict(), "system": found.system, "messages": []}
    known["settings"] = found.settings
    if found.persona is not None:
        known["persona"] = found.persona
    known |= {key: value for key, value in found.extra.items() if key in known}
    fresh = Session.from_dict(known)
    session.persona, session.own_system = fresh.persona, fresh.own_system
    session.settings, session.reasoning_effort = fresh.settings, fresh.reasoning_effort
