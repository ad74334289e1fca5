"""OpenAI's responses: the routes, and the store that previous_response_id refers to.

A response belongs to the key that made it; no other key can read or continue it.
"""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass
from typing import Any

import msgspec

from bobot.chat.protocol import ChatRequest, ParameterError
from bobot.server.calls import SSE, Call, Reply, Stream
from bobot.server.keys import NO_KEY
from bobot.server.responses import InputBody, ResponseBody, as_items, response_request
from bobot.server.responses_answer import (
    Items,
    error_event,
    finish_response,
    new_response,
    response_events,
)
from bobot.server.running import Gathered, Runner, gather
from bobot.server.settings import Settings
from bobot.server.wire import decode, encode
from bobot.text.parts import as_message

KEPT_S = 30 * 24 * 3600
"""As long as OpenAI keeps them."""


@dataclass(frozen=True)
class Kept:
    """A stored response."""

    items: list[dict[str, Any]]
    history: list[dict[str, Any]]
    """Every message up to its answer, without instructions."""
    response: dict[str, Any]


class ResponseStore:
    """In the database of keys.py."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def forget_old(self) -> None:
        self._database.execute(
            "DELETE FROM responses WHERE created_s < ?", (int(time.time()) - KEPT_S,)
        )

    def keep(self, owner: int, kept: Kept) -> None:
        self._database.execute(
            "INSERT INTO responses VALUES (?, ?, ?, ?, ?, ?)",
            (
                kept.response["id"],
                owner,
                int(time.time()),
                encode(kept.items),
                encode(kept.history),
                encode(kept.response),
            ),
        )

    def find(self, owner: int, response_id: str, param: str) -> Kept:
        """ParameterError (404)."""
        rows = self._database.execute(
            "SELECT * FROM responses WHERE id = ? AND key_id = ?", (response_id, owner)
        )
        row = rows.fetchone()
        if row is None:
            raise ParameterError(
                "There is no response {found!r}.",
                param=param,
                code="not_found",
                found=response_id,
            )
        return Kept(*(msgspec.json.decode(row[name]) for name in ("input", "history", "response")))

    def delete(self, owner: int, response_id: str) -> None:
        self._database.execute(
            "DELETE FROM responses WHERE id = ? AND key_id = ?", (response_id, owner)
        )


class Responses:
    def __init__(self, runner: Runner, settings: Settings, store: ResponseStore) -> None:
        self._runner = runner
        self._is_lenient = settings.is_lenient
        self._store = store

    async def create(self, call: Call) -> Reply | Stream:
        body = decode(call.body, ResponseBody)
        call.is_private |= body.private
        request, history = self._request(call, body)
        response, items = new_response(body), Items(body)
        if call.is_private:
            response["private"] = True

        def ending(output: list[dict[str, Any]], gathered: Gathered) -> dict[str, Any]:
            whole = finish_response(response, output, gathered)
            if body.store is not False:
                said = as_message(gathered.answers[0].parts)
                kept = Kept(as_items(body), [*history, said], whole)
                self._store.keep(_owner(call), kept)
            return whole

        events = self._runner.run(call, body.model, request)
        if body.stream:
            frames = response_events(events, response, items, ending)
            return Stream(frames, SSE, error_event)
        gathered = await gather(events)
        return Reply(ending(items.whole(gathered.answers[0]), gathered))

    async def count(self, call: Call) -> Reply:
        body = decode(call.body, InputBody)
        request, _ = self._request(call, body)
        ids = await self._runner.prompt_ids(body.model, request)
        return Reply({"object": "response.input_tokens", "input_tokens": len(ids)})

    async def get(self, call: Call) -> Reply:
        if call.query.get("stream") == "true":
            raise ParameterError(
                "{param} is not supported here; leave it out.",
                param="stream",
                code="unsupported_parameter",
            )
        return Reply(self._find(call).response)

    async def items(self, call: Call) -> Reply:
        kept = self._find(call)
        data = [
            {"id": f"item_{number}", **item} for number, item in enumerate(reversed(kept.items))
        ]
        if call.query.get("order") == "asc":
            data.reverse()
        return Reply(
            {
                "object": "list",
                "data": data,
                "first_id": data[0]["id"] if data else None,
                "last_id": data[-1]["id"] if data else None,
                "has_more": False,
            }
        )

    async def delete(self, call: Call) -> Reply:
        response_id = self._find(call).response["id"]
        self._store.delete(_owner(call), response_id)
        return Reply({"id": response_id, "object": "response", "deleted": True})

    def _find(self, call: Call) -> Kept:
        return self._store.find(_owner(call), call.params["id"], "response_id")

    def _request(self, call: Call, body: InputBody) -> tuple[ChatRequest, list[dict[str, Any]]]:
        """The request, and its messages without instructions."""
        before: list[dict[str, Any]] = []
        if body.previous_response_id is not None:
            kept = self._store.find(_owner(call), body.previous_response_id, "previous_response_id")
            before = kept.history
            call.is_private |= kept.response.get("private", False)
        request = response_request(body, before, lenient=self._is_lenient)
        skipped = 1 if body.instructions else 0
        return request, [dict(message) for message in request.messages[skipped:]]


def _owner(call: Call) -> int:
    return NO_KEY if call.key is None else call.key.id
