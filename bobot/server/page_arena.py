"""The arena: one question, two models, a vote, and the ratings that the votes make.

A pair that is not voted on lives in memory; a vote stores both sides as one conversation, whose
branches they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import secrets
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from bobot.chat import elo
from bobot.chat.protocol import ChatRequest, Delta, Event, Finished, ParameterError, Usage
from bobot.chat.store import Store
from bobot.chat.store_rows import NewMessage
from bobot.errors import NotFoundError, RequestError
from bobot.gateway.wire import private_error
from bobot.server.calls import Call, Reply, Stream, openai_stream
from bobot.server.failures import failure_of, openai_error
from bobot.server.page_bodies import NewPair, PairQuestion, PairVote
from bobot.server.page_chats import ARENA
from bobot.server.running import Runner
from bobot.server.wire import decode, sse

MAX_PAIRS = 200
"""Pairs in memory; the oldest gives way."""


@dataclass
class _Side:
    model: str
    turns: list[dict[str, Any]] = field(default_factory=list)
    """Question and answer in turn: {role, content, reasoning, usage}."""


@dataclass
class _Pair:
    sides: tuple[_Side, _Side]
    asked: NewPair
    is_busy: bool = False


class ArenaRoutes:
    def __init__(self, runner: Runner, store: Store, rng: random.Random | None = None) -> None:
        self._runner = runner
        self._store = store
        self._rng = rng or random.SystemRandom()
        self._pairs: dict[str, _Pair] = {}

    async def create(self, call: Call) -> Reply:
        """The order of the two is drawn where the pair is blind."""
        body = decode(call.body or b"{}", NewPair)
        names = self._drawn(body)
        while len(self._pairs) >= MAX_PAIRS:
            del self._pairs[next(iter(self._pairs))]
        pair = _Pair((_Side(names[0]), _Side(names[1])), body)
        identity = secrets.token_hex(8)
        self._pairs[identity] = pair
        shown = None if body.is_blind else names
        return Reply({"id": identity, "is_blind": body.is_blind, "models": shown}, 201)

    async def ask(self, call: Call) -> Stream:
        """Both answers as they come; each frame says of which side (0, 1) it is."""
        pair = self._pair(call)
        body = decode(call.body, PairQuestion)
        if pair.is_busy:
            raise RequestError("The two are answering; wait, or stop them.")
        return openai_stream(self._answers(call, pair, body.content))

    async def vote(self, call: Call) -> Reply:
        """Keeps the vote; says who was who, and what the last answers took. A pair can be voted on
        once.
        """
        body = decode(call.body, PairVote)
        pair = self._pair(call)
        if pair.is_busy or not all(side.turns for side in pair.sides):
            raise RequestError("There are no two answers to judge yet.")
        del self._pairs[call.params["id"]]
        conversation = await asyncio.to_thread(_keep, self._store, pair, body)
        names = [side.model for side in pair.sides]
        usage = [side.turns[-1]["usage"] for side in pair.sides]
        return Reply({"models": names, "conversation": conversation, "usage": usage})

    async def ratings(self, call: Call) -> Reply:
        blind_only = call.query.get("blind_only") == "true"

        def rated() -> list[elo.Rating]:
            return elo.ratings(vote.outcome for vote in self._store.votes(blind_only=blind_only))

        found = await asyncio.to_thread(rated)
        return Reply({"ratings": [dataclasses.asdict(rating) for rating in found]})

    def _drawn(self, body: NewPair) -> list[str]:
        """A hosted model, or a policy, takes part only where it is named: what is asked leaves the
        machine.
        """
        models = self._runner.models
        given = [None if name is None else models.name_of(name) for name in body.models]
        known = [(one.name, one.facts) for one in models.listed()]
        local = [name for name, facts in known if not (facts.is_hosted or facts.routes_to)]
        free = [name for name in local if name not in given]
        if given[0] is not None and given[0] == given[1]:
            raise ParameterError("{param}: the two models are the same.", param="models")
        hosted = {name for name, facts in known if facts.is_hosted}
        if body.is_private and (barred := hosted.intersection(given)):
            raise private_error(min(map(str, barred)))
        num_wanted = given.count(None)
        if len(free) < num_wanted:
            raise RequestError("The arena needs two models; bobot pull gets another one.")
        drawn = iter(self._rng.sample(free, num_wanted))
        names = [next(drawn) if name is None else name for name in given]
        if body.is_blind:
            self._rng.shuffle(names)
        return names

    def _pair(self, call: Call) -> _Pair:
        pair = self._pairs.get(call.params["id"])
        if pair is None:
            raise NotFoundError("no pair {id!r} is open in the arena.", id=call.params["id"])
        return pair

    async def _answers(self, call: Call, pair: _Pair, question: str) -> AsyncGenerator[bytes, None]:
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(64)

        async def one(number: int) -> None:
            frames = self._side(call, pair, number, question)
            async with contextlib.aclosing(frames):
                async for frame in frames:
                    await queue.put(frame)
            await queue.put(None)

        pair.is_busy = True
        tasks = [asyncio.ensure_future(one(number)) for number in range(2)]
        num_open = len(tasks)
        try:
            while num_open:
                frame = await queue.get()
                if frame is None:
                    num_open -= 1
                else:
                    yield frame
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            pair.is_busy = False

    async def _side(
        self, call: Call, pair: _Pair, number: int, question: str
    ) -> AsyncGenerator[bytes, None]:
        """What was said stays with the pair, also when it is stopped. A blind side's error does
        not say whose it is.
        """
        side = pair.sides[number]
        answer = {"role": "assistant", "content": "", "reasoning": "", "usage": None}
        asked = {"role": "user", "content": question}
        try:
            request = _request(pair.asked, [*side.turns, asked])
            events = self._runner.run(call, side.model, request)
            async with contextlib.aclosing(events):
                async for event in events:
                    if (values := _taken(answer, event)) is not None:
                        yield sse({"side": number, **values})
        except Exception as error:  # noqa: BLE001  told to the reader; the other side goes on
            failure = openai_error(failure_of(error))["error"]
            if pair.asked.is_blind:
                failure["message"] = failure["message"].replace(side.model, "?")
            yield sse({"side": number, "type": "error", "error": failure})
        finally:
            if answer["content"] or answer["reasoning"]:
                side.turns += [asked, answer]


def _request(asked: NewPair, turns: list[dict[str, Any]]) -> ChatRequest:
    system = [{"role": "system", "content": asked.system}] if asked.system else []
    said = [{"role": turn["role"], "content": turn["content"]} for turn in turns]
    return ChatRequest(
        messages=(*system, *said),
        sampling=asked.settings.chosen(),
        is_private=asked.is_private,
    )


def _taken(answer: dict[str, Any], event: Event) -> dict[str, Any] | None:
    """The event joins the answer; what of it is sent. Names of models are not."""
    if isinstance(event, Delta):
        kind = "reasoning" if event.part.kind == "reasoning" else "text"
        answer["content" if kind == "text" else "reasoning"] += event.part.text
        num = max(1, len(event.token_ids))
        return {"type": kind, "text": event.part.text, "num": num}
    if isinstance(event, Finished):
        return {"type": "finished", "reason": event.reason}
    if isinstance(event, Usage):
        answer["usage"] = dataclasses.asdict(event)
        return {"type": "done", "num": event.completion_tokens}
    return None


def _keep(store: Store, pair: _Pair, vote: PairVote) -> str:
    """The vote, and both sides below the question they share."""
    first = pair.sides[0].turns[0]["content"]
    with store.transaction():
        first_side, second_side = pair.sides
        names = (first_side.model, second_side.model)
        arena = {"models": list(names), "winner": vote.winner, "is_blind": pair.asked.is_blind}
        conversation = store.create(
            title=" ".join(first.split())[:60],
            system=pair.asked.system,
            settings=pair.asked.settings.chosen(),
            is_private=pair.asked.is_private,
            extra={ARENA: arena},
        )
        root = store.add(conversation, None, NewMessage(role="user", content=first))
        for side in pair.sides:
            head = root
            for turn in side.turns[1:]:
                said = NewMessage(**turn, model=side.model if turn["role"] == "assistant" else None)
                head = store.add(conversation, head, said)
        store.vote(*names, vote.winner, is_blind=pair.asked.is_blind, conversation=conversation)
    return conversation
