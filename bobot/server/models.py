"""The models of one server, by name: loaded when they are asked for, within a budget of memory; the
one that has waited longest for a request makes room.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bobot.chat.protocol import ChatModel, ChatRequest, OverloadedError, ParameterError
from bobot.errors import RequestError
from bobot.text import Tokenizer

log = logging.getLogger("bobot.server")

MAX_WAIT_S = 60.0
"""How long a request waits for other models to become idle before it is refused."""
MAX_PAUSE_S = 10.0
"""Between two looks for models that nobody uses."""


@dataclass(frozen=True)
class Facts:
    """What is known of a model without loading it; None where its files do not say."""

    created_s: int = 0
    context: int | None = None
    num_parameters: int | None = None
    size_bytes: int | None = None
    form: str | None = None
    """Of the weights: q8_0, bfloat16, mxfp4 ..."""
    family: str | None = None
    licence: str | None = None
    digest: str | None = None
    owner: str = "bobot"
    path: str | None = None
    is_hosted: bool = False
    """Others run it: what is asked leaves this machine."""
    parent: str | None = None
    """Of an adapter: the model that it changes."""
    routes_to: tuple[str, ...] = ()
    """Of a policy's name: the models it chooses among, some of them perhaps hosted."""


@dataclass(frozen=True)
class Opened:
    """A model in memory. Hosted ones have no tokenizer here."""

    model: ChatModel
    tokenizer: Tokenizer | None = None
    prompt_ids: Callable[[ChatRequest], Awaitable[Sequence[int]]] | None = None
    """The prompt of a conversation as the model reads it, without asking for an answer."""
    counts: Callable[[], Mapping[str, float]] | None = None
    """What its engine counts now, by name."""
    num_slots: int | None = None
    """Answers that it writes at the same time."""


@dataclass(frozen=True)
class Source:
    """A model that can be opened."""

    name: str
    facts: Facts
    num_bytes: Callable[[], int]
    """Memory it will take; may read the headers of its files."""
    open: Callable[..., Awaitable[Opened]]
    """Given its parent, opened, where it has one; the parent stays open as long as it."""


@dataclass(frozen=True)
class Seen:
    """What is remembered of a model that was in memory."""

    context: int | None
    num_slots: int | None
    chat_template: str


State = Literal["absent", "loading", "ready"]


class _Entry:
    def __init__(self, source: Source) -> None:
        self.source = source
        self.opened: Opened | None = None
        self.seen: Seen | None = None
        self.opening: asyncio.Task[Opened] | None = None
        self.num_bytes = 0
        self.num_borrowers = 0
        self.last_used_s = 0.0
        self.goes_when_idle = False

    @property
    def state(self) -> State:
        if self.opened is not None:
            return "ready"
        return "absent" if self.opening is None else "loading"


@dataclass(frozen=True)
class Listed:
    """A model as the listings show it."""

    name: str
    facts: Facts
    state: State
    max_model_len: int | None
    num_bytes: int
    """Memory it takes now."""


class Models:
    """All models of the server; the first is the one that answers where none is named."""

    def __init__(
        self, sources: Iterable[Source], budget_bytes: int, *, any_model: bool = False
    ) -> None:
        self._entries = {source.name: _Entry(source) for source in sources}
        self._budget_bytes = budget_bytes
        self._any_model = any_model
        self._changed = asyncio.Condition()

    @property
    def default_name(self) -> str | None:
        return next(iter(self._entries), None)

    def add(self, source: Source) -> None:
        """Serves one more model, or another one under the same name once that is closed."""
        if source.name not in self._entries:
            self._entries[source.name] = _Entry(source)

    async def remove(self, name: str) -> None:
        """Serves it no longer, nor its adapters. RequestError while it is in use."""
        entry = self._entries[self.name_of(name)]
        if entry.num_borrowers or entry.opening:
            raise RequestError("{name} is in use.", name=name)
        ended = self._with_adapters(entry)
        for other in ended:
            del self._entries[other.source.name]
        await self._close(ended)

    def name_of(self, asked: str | None) -> str:
        """The name of the model that is meant. ParameterError (404) for one that is not served.

        Ollama's clients write NAME:latest for NAME.
        """
        for name in (asked, (asked or "").removesuffix(":latest")):
            if name in self._entries:
                return name
        default = self.default_name
        if default is not None and (asked is None or self._any_model):
            return default
        raise ParameterError(
            "The model {found!r} is not served here; there are: {allowed}.",
            param="model",
            code="model_not_found",
            found=asked or "",
            allowed=", ".join(self._entries) or "none",
        )

    def listed(self) -> list[Listed]:
        return [self.describe(name) for name in self._entries]

    def counts(self) -> dict[str, Mapping[str, float]]:
        """What the engines of loaded models count, by model."""
        loaded = ((name, entry.opened) for name, entry in self._entries.items())
        return {name: found.counts() for name, found in loaded if found and found.counts}

    def describe(self, asked: str) -> Listed:
        """Raises ParameterError (404)."""
        entry = self._entries[self.name_of(asked)]
        opened, facts = entry.opened, entry.source.facts
        context = facts.context if opened is None else opened.model.max_model_len
        return Listed(entry.source.name, facts, entry.state, context, entry.num_bytes)

    @contextlib.asynccontextmanager
    async def borrow(self, asked: str | None) -> AsyncIterator[Opened]:
        """The model, loaded and kept in memory inside this block.

        Raises ParameterError (404), OverloadedError when there is no room for it, and the errors
        of its files.
        """
        entry = self._entries[self.name_of(asked)]
        entry.num_borrowers += 1
        try:
            async with self._parent(entry):
                yield await self._ready(entry)
        finally:
            entry.num_borrowers -= 1
            entry.last_used_s = time.monotonic()
            if entry.goes_when_idle:
                await self._close_if_idle(entry)
            async with self._changed:
                self._changed.notify_all()

    @contextlib.asynccontextmanager
    async def _parent(self, entry: _Entry) -> AsyncIterator[list[Opened]]:
        """The model that it belongs to, borrowed; none for one that stands alone."""
        parent = entry.source.facts.parent
        if parent is None:
            yield []
        else:
            async with self.borrow(parent) as opened:
                yield [opened]

    def release(self, asked: str) -> None:
        """Leaves memory as soon as nobody uses it."""
        self._entries[self.name_of(asked)].goes_when_idle = True

    async def unload(self, asked: str) -> None:
        """Takes it out of memory, now or as soon as nobody uses it."""
        entry = self._entries[self.name_of(asked)]
        entry.goes_when_idle = True
        await self._close_if_idle(entry)

    def seen(self, asked: str | None) -> Seen | None:
        """What is known of a model since it was in memory; None before. Asking is no use of it."""
        return self._entries[self.name_of(asked)].seen

    async def unload_unused(self, after_s: float) -> None:
        """Takes out of memory what nobody has used for so long, until it is cancelled."""
        while True:
            await asyncio.sleep(min(after_s / 4, MAX_PAUSE_S))
            for entry in list(self._entries.values()):
                if time.monotonic() - entry.last_used_s >= after_s:
                    await self._close_if_idle(entry)

    async def close(self) -> None:
        """Closes every model; nobody may be using one."""
        for entry in self._entries.values():
            if entry.opening is not None:
                entry.opening.cancel()
            if entry.opened is not None:
                await entry.opened.model.close()
                entry.opened = None

    async def _ready(self, entry: _Entry) -> Opened:
        if entry.opened is not None:
            return entry.opened
        if entry.opening is None:
            entry.opening = asyncio.ensure_future(self._open(entry))
        # One who leaves does not stop the loading that others wait for.
        return await asyncio.shield(entry.opening)

    async def _open(self, entry: _Entry) -> Opened:
        started_s = time.monotonic()
        try:
            async with self._parent(entry) as parent:
                entry.num_bytes = await asyncio.to_thread(entry.source.num_bytes)
                await self._make_room(entry)
                entry.opened = await entry.source.open(*parent)
            entry.goes_when_idle = False
            entry.last_used_s = time.monotonic()
            entry.seen = _seen(entry.opened)
            took_s = time.monotonic() - started_s
            log.info("%s: loaded in %.1f s", entry.source.name, took_s)
            return entry.opened
        finally:
            entry.opening = None
            if entry.opened is None:
                entry.num_bytes = 0

    async def _make_room(self, entry: _Entry) -> None:
        """Closes idle models, the longest unused first, until the budget holds this one too, and
        its parent. One that alone is larger than the budget is tried when it is alone: the estimate
        is careful, and the system has the last word.
        """
        deadline_s = time.monotonic() + MAX_WAIT_S
        parent = self._entries.get(entry.source.facts.parent or "")
        own_bytes = entry.num_bytes + (0 if parent is None else parent.num_bytes)
        while others := self._others_in_memory(entry, parent):
            if sum(other.num_bytes for other in others) + own_bytes <= self._budget_bytes:
                return
            idle = [other for other in others if not other.num_borrowers and other.opened]
            if idle:
                await self._close_if_idle(min(idle, key=lambda other: other.last_used_s))
                continue
            left_s = deadline_s - time.monotonic()
            async with self._changed:
                try:
                    await asyncio.wait_for(self._changed.wait(), max(0.01, left_s))
                except TimeoutError as error:
                    raise OverloadedError(
                        "There is no memory for {name} while {others} are in use.",
                        retry_after_s=10.0,
                        name=entry.source.name,
                        others=", ".join(other.source.name for other in others),
                    ) from error

    def _others_in_memory(self, *own: _Entry | None) -> list[_Entry]:
        return [other for other in self._entries.values() if other not in own and other.num_bytes]

    def _with_adapters(self, entry: _Entry) -> list[_Entry]:
        """The model behind its adapters, which are idle when it is: in use they borrow it."""
        everyone = self._entries.values()
        adapters = [e for e in everyone if e.source.facts.parent == entry.source.name]
        return [*adapters, entry]

    async def _close_if_idle(self, entry: _Entry) -> None:
        if not entry.num_borrowers and entry.opened is not None:
            await self._close(self._with_adapters(entry))

    async def _close(self, entries: list[_Entry]) -> None:
        """None of them can be borrowed any more from the first moment on."""
        closing: list[tuple[str, Opened]] = []
        for entry in entries:
            if entry.opened is not None:
                closing.append((entry.source.name, entry.opened))
            entry.opened, entry.num_bytes = None, 0
        for name, opened in closing:
            await opened.model.close()
            log.info("%s: unloaded", name)


def _seen(opened: Opened) -> Seen:
    template = opened.tokenizer.chat_template if opened.tokenizer else None
    return Seen(opened.model.max_model_len, opened.num_slots, template or "")


def as_meta(facts: Facts) -> dict[str, Any]:
    """`meta` of a listed model, in llama.cpp's words."""
    return {
        "n_ctx_train": facts.context,
        "n_params": facts.num_parameters,
        "size": facts.size_bytes,
        "ftype": facts.form,
        "family": facts.family,
        "license": facts.licence,
        "digest": facts.digest,
    }
