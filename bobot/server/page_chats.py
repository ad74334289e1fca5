"""Conversations for the page: listed, searched, made, changed, removed, exported, imported."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Any
from urllib.parse import unquote_plus

import msgspec

from bobot.chat import persona
from bobot.chat.interchange import exported, import_into, is_export
from bobot.chat.protocol import ParameterError
from bobot.chat.store import Store
from bobot.chat.store_rows import MARKS
from bobot.errors import RequestError
from bobot.server.calls import Call, Reply
from bobot.server.page_bodies import (
    BranchOff,
    Changes,
    NewConversation,
    conversation_object,
    message_object,
)
from bobot.server.page_live import LiveAnswers
from bobot.server.wire import decode

PASSING = "passing-"
"""How the ids of conversations begin that are in memory only."""
LIST_LIMIT = 200
ARENA = "arena"
"""In `extra` of the conversation that a vote has stored: who was compared."""


class Chats:
    """The conversations on the disk, and those that only live as long as the server."""

    def __init__(self, kept: Store) -> None:
        self.kept = kept
        self.passing = Store(None)

    def store_of(self, conversation: str) -> Store:
        return self.passing if is_passing(conversation) else self.kept

    def close(self) -> None:
        self.kept.close()
        self.passing.close()


class ChatRoutes:
    """Each handler does its work in a thread: a write waits for the disk."""

    def __init__(self, chats: Chats, live: LiveAnswers) -> None:
        self._chats = chats
        self._live = live

    async def list(self, call: Call) -> Reply:
        limit, offset = _count(call, "limit", LIST_LIMIT), _count(call, "offset", 0)
        return Reply({"conversations": await asyncio.to_thread(self._list, limit, offset)})

    async def search(self, call: Call) -> Reply:
        text = _query_text(call, "q")
        return Reply({"hits": await asyncio.to_thread(self._search, text)})

    async def create(self, call: Call) -> Reply:
        body = decode(call.body or b"{}", NewConversation)
        return Reply(await asyncio.to_thread(self._create, body), 201)

    async def branch_off(self, call: Call) -> Reply:
        """A conversation of its own from a branch; it is stored where the other one is."""
        body, identity = decode(call.body, BranchOff), call.params["id"]
        if body.message in self._live.running(identity):
            raise RequestError("This answer is still coming; wait, or stop it.")
        return Reply(await asyncio.to_thread(self._branch_off, identity, body), 201)

    async def get(self, call: Call) -> Reply:
        found = await asyncio.to_thread(self._get, call.params["id"])
        return Reply({**found, "running": self._live.running(call.params["id"])})

    async def change(self, call: Call) -> Reply:
        body = decode(call.body, Changes)
        return Reply(await asyncio.to_thread(self._change, call.params["id"], body))

    async def delete(self, call: Call) -> Reply:
        identity = call.params["id"]
        await self._live.stop_all(identity)
        await asyncio.to_thread(self._chats.store_of(identity).delete, identity)
        return Reply({"id": identity, "deleted": True})

    async def tokens(self, call: Call) -> Reply:
        """The tokens of one answer: [text, log-probability, [[text, log-probability] ...]]."""
        store = self._chats.store_of(call.params["id"])
        message = await asyncio.to_thread(store.message, int(call.params["message"]))
        _check_place(message.conversation, call.params["id"])
        return Reply({"tokens": message.extra.get("tokens", [])})

    async def export(self, call: Call) -> Reply:
        identity = call.query.get("conversation")
        store = self._chats.store_of(identity or "")
        ids = None if identity is None else [identity]
        values = await asyncio.to_thread(exported, store, ids)
        name = f"bobot-{time.strftime('%Y-%m-%d')}.json"
        return Reply(values, headers={"content-disposition": f'attachment; filename="{name}"'})

    async def bring_in(self, call: Call) -> Reply:
        try:
            values = msgspec.json.decode(call.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise RequestError("The body is not valid JSON: {reason}.", reason=error) from error
        if not is_export(values):
            raise RequestError(
                "this is neither an export of bobot nor ChatGPT's conversations.json; nothing was"
                " imported."
            )
        report = await asyncio.to_thread(import_into, self._chats.kept, values)
        return Reply(msgspec.to_builtins(report))

    async def personas(self, call: Call) -> Reply:
        found = [persona.load(name) for name in persona.shipped()]
        return Reply(
            {"personas": [{"name": p.name, "about": p.about, "system": p.system} for p in found]}
        )

    # ------------------------------------------------------------------ in a thread

    def _list(self, limit: int, offset: int) -> list[dict[str, Any]]:
        passing = self._chats.passing.conversations() if offset == 0 else []
        kept = self._chats.kept.conversations(limit, offset)
        return [
            *(conversation_object(found, is_kept=False) for found in passing),
            *(conversation_object(found, is_kept=True) for found in kept),
        ]

    def _search(self, text: str) -> list[dict[str, Any]]:
        hits = [*self._chats.passing.search(text), *self._chats.kept.search(text)]
        found: dict[str, dict[str, Any]] = {}
        for hit in hits:
            values = {"id": hit.conversation, "title": hit.title, "message": hit.message}
            found.setdefault(hit.conversation, {**values, "snippet": _pieces(hit.snippet)})
        return list(found.values())

    def _create(self, body: NewConversation) -> dict[str, Any]:
        fields = _fields(body, {})
        if body.head is not msgspec.UNSET:
            raise ParameterError("{param} can't be set yet.", param="head")
        if body.is_kept:
            return self._object(self._chats.kept.create(**fields))
        return self._object(self._chats.passing.create(id=_passing_id(), **fields))

    def _branch_off(self, identity: str, body: BranchOff) -> dict[str, Any]:
        store = self._chats.store_of(identity)
        _check_place(store.message(body.message).conversation, identity)
        extra = {k: v for k, v in store.get(identity).extra.items() if k != ARENA}
        fields: dict[str, Any] = {"extra": extra}
        if isinstance(body.title, str):
            fields["title"] = body.title
        if store is self._chats.passing:
            fields["id"] = _passing_id()
        return self._object(store.branch_off(body.message, **fields))

    def _get(self, identity: str) -> dict[str, Any]:
        messages = self._chats.store_of(identity).messages(identity)
        return {**self._object(identity), "messages": [message_object(m) for m in messages]}

    def _change(self, identity: str, body: Changes) -> dict[str, Any]:
        store = self._chats.store_of(identity)
        fields = _fields(body, store.get(identity).extra)
        if body.head is not msgspec.UNSET:
            _check_place(store.message(body.head).conversation, identity)
            fields["head"] = body.head
        if fields:
            store.change(identity, **fields)
        return self._object(identity)

    def _object(self, identity: str) -> dict[str, Any]:
        is_kept = not is_passing(identity)
        return conversation_object(self._chats.store_of(identity).get(identity), is_kept=is_kept)


def is_passing(identity: str) -> bool:
    """Whether a conversation is in memory only."""
    return identity.startswith(PASSING)


def _passing_id() -> str:
    return f"{PASSING}{secrets.token_hex(8)}"


def _fields(body: Changes, extra: dict[str, Any]) -> dict[str, Any]:
    """The columns that are to be set. Raises ParameterError for a persona that is not shipped."""
    names = ("title", "persona", "system", "model", "is_private")
    given = {name: getattr(body, name) for name in names}
    fields = {name: value for name, value in given.items() if value is not msgspec.UNSET}
    if fields.get("persona") is not None and fields["persona"] not in persona.shipped():
        raise ParameterError(
            "{param} is {found!r}; allowed: {allowed}.",
            param="persona",
            found=fields["persona"],
            allowed=", ".join(persona.shipped()),
        )
    if isinstance(settings := body.settings, msgspec.Struct):
        fields["settings"] = settings.chosen()
    if body.reasoning_effort is not msgspec.UNSET:
        fields["extra"] = {**extra, "reasoning_effort": body.reasoning_effort}
    return fields


def _check_place(found: str, wanted: str) -> None:
    if found != wanted:
        raise ParameterError(
            "{param} is no message of this conversation.", param="message", code="not_found"
        )


def _pieces(snippet: str) -> list[dict[str, Any]]:
    """The snippet as texts, each with whether it is one of the words found."""
    found, is_hit = [], False
    for part in snippet.replace(MARKS[1], MARKS[0]).split(MARKS[0]):
        if part:
            found.append({"text": part, "is_hit": is_hit})
        is_hit = not is_hit
    return found


def _query_text(call: Call, name: str) -> str:
    return unquote_plus(call.query.get(name, ""))


def _count(call: Call, name: str, default: int) -> int:
    text = call.query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ParameterError(
            "{param} is {found!r}; allowed: {allowed}.",
            param=name,
            found=text,
            allowed="0 or more",
        )
    return int(text)
