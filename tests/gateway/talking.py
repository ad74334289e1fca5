"""A request to a fake host and what came back, for the tests of the gateway."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from fake_hosts import KEY, FakeHost

from bobot.chat.protocol import ChatRequest, Delta, Event, Finished, Started, Usage
from bobot.gateway.hosted import HostedModel
from bobot.gateway.hosts import Host
from bobot.text.parts import Part, parts_of

ENVIRON = {"TEST_KEY": KEY}
QUESTION = ({"role": "user", "content": "halo"},)


class Told(NamedTuple):
    """What the events of one call add up to."""

    events: list[Event]

    def parts(self, index: int = 0) -> list[Part]:
        deltas = [e.part for e in self.events if isinstance(e, Delta) and e.index == index]
        return parts_of(deltas)

    def shape(self, index: int = 0) -> list[tuple[str, ...]]:
        """As the parts of a FakeHost."""
        return [
            (part.kind, part.id, part.name, part.text)
            if part.kind == "tool_call"
            else (part.kind, part.text)
            for part in self.parts(index)
        ]

    @property
    def started(self) -> Started:
        [found] = [event for event in self.events if isinstance(event, Started)]
        return found

    @property
    def finished(self) -> list[Finished]:
        return [event for event in self.events if isinstance(event, Finished)]

    @property
    def usage(self) -> Usage:
        assert isinstance(self.events[-1], Usage)
        return self.events[-1]


def host_of(fake: FakeHost, **options: Any) -> Host:
    name = options.pop("name", "test")
    return Host(name=name, wire=fake.wire, base_url=fake.base_url, key_env="TEST_KEY", **options)


class Waits(list[float]):
    """Notes how long the client would have waited."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)


def ask(
    fake: FakeHost,
    messages: Any = QUESTION,
    *,
    model: str = "m-1",
    host: dict[str, Any] | None = None,
    waits: Waits | None = None,
    environ: dict[str, str] | None = None,
    **request: Any,
) -> Told:
    """The events of one chat request."""

    async def talk() -> Told:
        hosted = HostedModel(
            host_of(fake, **(host or {})),
            model,
            ENVIRON if environ is None else environ,
            Waits() if waits is None else waits,
        )
        try:
            asked = ChatRequest(messages=tuple(messages), **request)
            return Told([event async for event in hosted.chat(asked)])
        finally:
            await hosted.close()

    return asyncio.run(talk())
