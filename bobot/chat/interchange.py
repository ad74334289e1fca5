"""Conversations as JSON: bobot's own form, which loses nothing, and the export of ChatGPT, which is
read only.

A file from elsewhere is hostile: parents may be missing or go round in a circle, any value may be
of any type. What can't be read is counted and named, the rest is imported; what was imported
before is left as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bobot.chat.store import Store
from bobot.chat.store_rows import NewMessage
from bobot.errors import NotFoundError, StorageError

FORM = 1
MAX_BYTES = 1 << 30
_MESSAGE_FIELDS = ("role", "content", "reasoning", "model", "usage", "finish_reason", "extra")
_MESSAGE_FIELDS += ("created",)
_FIELDS = ("title", "created", "updated", "persona", "system", "settings", "extra", "model")
_FIELDS += ("is_private",)
_ROLES = ("system", "user", "assistant", "tool")


@dataclass
class Report:
    """What an import did."""

    num_added: int = 0
    num_known: int = 0
    """Conversations that were there already."""
    skipped: list[str] = field(default_factory=list)
    """Title and reason of each that could not be read."""


def exported(store: Store, conversations: Iterable[str] | None = None) -> dict[str, Any]:
    """The conversations with these ids (None: all) as JSON values."""
    if conversations is None:
        conversations = [conversation.id for conversation in store.conversations(limit=-1)]
    return {
        "bobot_conversations": FORM,
        "conversations": [_export(store, c) for c in conversations],
    }


def _export(store: Store, identity: str) -> dict[str, Any]:
    conversation = asdict(store.get(identity))
    messages = []
    for message in store.messages(identity):
        values = asdict(message)
        messages.append({key: values[key] for key in ("id", "parent", *_MESSAGE_FIELDS)})
    return {**conversation, "messages": messages}


def read_file(path: Path) -> Any:
    """The JSON values in a file. Raises NotFoundError or StorageError."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise StorageError("{file} is too large to be imported.", file=path)
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise NotFoundError("there is no file {file}.", file=path) from error
    except OSError as error:
        raise StorageError(
            "{file}: can't read: {reason}.", file=path, reason=error.strerror
        ) from error
    except (ValueError, RecursionError) as error:
        raise StorageError("{file} is not valid JSON.", file=path) from error


def import_into(store: Store, values: Any) -> Report:
    """Adds the conversations of one of bobot's own exports or of ChatGPT's conversations.json.

    Raises StorageError where it is neither.
    """
    if _is_own_export(values):
        return _import(store, values.get("conversations"), _own)
    if _is_chatgpt_export(values):
        return _import(store, values, _chatgpt)
    raise StorageError(
        "this is neither an export of bobot nor ChatGPT's conversations.json; nothing was imported."
    )


def is_export(values: Any) -> bool:
    """Whether import_into reads these values."""
    return _is_own_export(values) or _is_chatgpt_export(values)


def _is_own_export(values: Any) -> bool:
    return isinstance(values, dict) and values.get("bobot_conversations") == FORM


def _is_chatgpt_export(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(v, dict) and "mapping" in v for v in values)


@dataclass(frozen=True)
class _Read:
    """A conversation that can be added: its fields, and its messages by key, parents first."""

    source: str
    fields: dict[str, Any]
    messages: dict[Any, tuple[Any, NewMessage]]
    """Key -> (key of the parent or None, message)."""
    head: Any


def _import(store: Store, conversations: Any, read: Any) -> Report:
    report = Report()
    for values in conversations if isinstance(conversations, list) else []:
        title = values.get("title") if isinstance(values, dict) else None
        try:
            found = read(values)
            is_known = store.has_source(found.source) or _is_own(store, found.source)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            report.skipped.append(f"{str(title)[:60]}: {type(error).__name__} {error}"[:200])
            continue
        if is_known:
            report.num_known += 1
        else:
            _add(store, found)
            report.num_added += 1
    return report


def _is_own(store: Store, source: str) -> bool:
    try:
        store.get(source.removeprefix("bobot:"))
    except NotFoundError:
        return False
    return True


def _add(store: Store, found: _Read) -> None:
    with store.transaction():
        conversation = store.create(**found.fields, source=found.source)
        ids: dict[Any, int] = {}
        for key, (parent, message) in found.messages.items():
            ids[key] = store.add(conversation, ids.get(parent), message)
        updated = found.fields.get("updated") or found.fields.get("created")
        fields = {} if updated is None else {"updated": updated}
        head = ids.get(found.head, max(ids.values(), default=None))
        store.change(conversation, head=head, **fields)


# ---------------------------------------------------------------------- bobot's own form


def _own(values: dict[str, Any]) -> _Read:
    fields = {name: values[name] for name in _FIELDS}
    kinds = {"title": str, "settings": dict, "extra": dict, "is_private": bool}
    for name, kind in kinds.items():
        if not isinstance(fields[name], kind):
            raise TypeError(name)
    _check_times(fields["created"], fields["updated"])
    _check_texts(fields["persona"], fields["system"], fields["model"])
    messages: dict[Any, tuple[Any, NewMessage]] = {}
    for entry in values["messages"]:
        if entry["parent"] is not None and entry["parent"] not in messages:
            raise ValueError("a message without its parent")
        messages[entry["id"]] = (entry["parent"], _message(entry))
    return _Read(f"bobot:{values['id']}", fields, messages, values["head"])


def _message(entry: dict[str, Any]) -> NewMessage:
    message = NewMessage(**{name: entry[name] for name in _MESSAGE_FIELDS})
    if message.role not in _ROLES or not isinstance(message.extra, dict):
        raise ValueError("a message in another form")
    if not isinstance(message.content, str) or not isinstance(message.reasoning, str):
        raise TypeError("content")
    if not isinstance(message.usage, dict | None):
        raise TypeError("usage")
    _check_texts(message.model, message.finish_reason)
    _check_times(message.created)
    return message


def _check_times(*times: Any) -> None:
    if not all(isinstance(moment, int | float) for moment in times):
        raise TypeError("time")


def _check_texts(*texts: Any) -> None:
    if not all(isinstance(text, str | None) for text in texts):
        raise TypeError("text")


# ---------------------------------------------------------------------- ChatGPT's export


def _chatgpt(values: dict[str, Any]) -> _Read:
    """Nodes that hold nothing (roots, hidden system prompts) are left out; their children move up.
    What the model thought, which stands in nodes of its own, joins the answer below it.
    """
    mapping, kept = values["mapping"], {}
    title = values.get("title")
    place: dict[Any, Any] = {}
    """Node -> the kept node that stands for it as a parent."""
    thoughts: dict[Any, str] = {}
    for key, node in _parents_first(mapping):
        parent = node.get("parent")
        above, thought = place.get(parent), thoughts.get(parent, "")
        role, text, is_thought = _said(node.get("message"))
        if is_thought or not text:
            place[key] = above
            thoughts[key] = "\n\n".join(filter(None, (thought, text)))
            continue
        message = _turn(role, text, node["message"])
        if role == "assistant" and thought:
            message = replace(message, reasoning=thought)
        kept[key] = (above, message)
        place[key] = key
    head = place.get(values.get("current_node"))
    created, updated = (_time(values.get(name)) for name in ("create_time", "update_time"))
    fields: dict[str, Any] = {"title": title if isinstance(title, str) else ""}
    fields |= {"created": created} if created is not None else {}
    fields |= {"updated": updated} if updated is not None else {}
    identity = values.get("conversation_id") or values.get("id")
    if not isinstance(identity, str):
        raise TypeError("id")
    return _Read(f"chatgpt:{identity}", fields, kept, head)


def _parents_first(mapping: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every node after its parent; raises ValueError for nodes that no root leads to."""
    children: dict[Any, list[str]] = {}
    for key, node in mapping.items():
        parent = node.get("parent")
        children.setdefault(parent if parent in mapping else None, []).append(key)
    waiting, num_seen = list(reversed(children.get(None, []))), 0
    while waiting:
        key = waiting.pop()
        num_seen += 1
        yield key, mapping[key]
        waiting += reversed(children.get(key, []))
    if num_seen != len(mapping):
        raise ValueError("messages in a circle")


def _said(message: Any) -> tuple[str, str, bool]:
    """(role, text, whether it is a thought) of a node's message; an empty text for none."""
    if message is None:
        return "user", "", False
    role, content = message["author"]["role"], message.get("content") or {}
    kind = content.get("content_type")
    hidden = (message.get("metadata") or {}).get("is_visually_hidden_from_conversation")
    if hidden or role not in _ROLES or (role == "system" and kind != "text"):
        return role, "", False
    if kind == "thoughts":
        found = [thought.get("content") for thought in content.get("thoughts") or ()]
        return role, "\n\n".join(text for text in found if isinstance(text, str)), True
    if kind == "reasoning_recap":
        return role, "", True
    if isinstance(content.get("parts"), list):
        return role, "\n\n".join(filter(None, map(_part, content["parts"]))), False
    text = content.get("text") or content.get("result")
    if kind == "code" and text:
        return role, f"```\n{text}\n```", False
    return role, text if isinstance(text, str) else "", False


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("content_type") if isinstance(part, dict) else None
    text = part.get("text") if isinstance(part, dict) else None
    return text if isinstance(text, str) else f"[{kind}]"  # pictures and sounds are not in the file


def _turn(role: Any, text: str, message: dict[str, Any]) -> NewMessage:
    model = (message.get("metadata") or {}).get("model_slug")
    return NewMessage(
        role=role,
        content=text,
        model=model if role == "assistant" and isinstance(model, str) else None,
        created=_time(message.get("create_time")),
    )


def _time(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
