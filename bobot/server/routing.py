"""The names of a policy as models of the server: whoever a policy chooses is borrowed like any
other model.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence

from bobot import gateway
from bobot.chat.protocol import ChatModel, ChatRequest
from bobot.errors import BobotError
from bobot.gateway.policy import Policy
from bobot.gateway.routed import RoutedModel
from bobot.gateway.spending import Ledger
from bobot.server.models import Facts, Models, Opened, Source

log = logging.getLogger("bobot.server")

OWNER = "policy"


class Routing:
    """One policy among the `models` of a server; `find` makes the source of a model that is not
    served yet.
    """

    def __init__(
        self, policy: Policy, models: Models, find: Callable[[str], Source], ledger: Ledger
    ) -> None:
        self.policy = policy
        self._models = models
        self._find = find
        self._ledger = ledger
        self._hosted = frozenset(filter(gateway.is_hosted, policy.models))
        self._served: dict[str, str] = {}
        """Name in the policy -> name here."""

    def sources(self) -> list[Source]:
        """One for each name of the policy. They take no memory of their own."""
        models = self.policy.models
        hosted = tuple(filter(self._hosted.__contains__, models))
        facts = Facts(owner=OWNER, routes_to=models, hosted_routes=hosted)
        return [
            Source(name, facts, lambda: 0, lambda name=name: self._open(name))
            for name in self.policy.names
        ]

    def serve_models(self) -> None:
        """Has every model that the policy names served. Raises the error of the local one; another
        that can't be opened now, as a hosted one without its key, is told in the log.
        """
        for name in self.policy.models:
            try:
                self._add(name, self._find(name))
            except BobotError as error:
                if name == self.policy.local:
                    raise
                log.warning("%s: %s can't answer now: %s", self.policy.name, name, error)

    @contextlib.asynccontextmanager
    async def borrow(self, name: str) -> AsyncIterator[ChatModel]:
        """The model that the policy calls so, kept in memory inside the block."""
        async with self._opened(name) as opened:
            yield opened.model

    @contextlib.asynccontextmanager
    async def _opened(self, name: str) -> AsyncIterator[Opened]:
        if name not in self._served:
            self._add(name, await asyncio.to_thread(self._find, name))
        async with self._models.borrow(self._served[name]) as opened:
            yield opened

    def _add(self, name: str, source: Source) -> None:
        """The same files are served once, whatever they are called."""
        path = source.facts.path
        same = (one.name for one in self._models.listed() if path and one.facts.path == path)
        self._served[name] = next(same, source.name)
        if self._served[name] == source.name:
            self._models.add(source)

    async def _open(self, name: str) -> Opened:
        """Loads the local model with it; where that fails, others may still answer."""
        try:
            async with self.borrow(self.policy.local):
                pass
        except BobotError as error:
            log.warning("%s: %s can't answer now: %s", name, self.policy.local, error)
        model = RoutedModel(self.policy, name, self.borrow, self._hosted.__contains__, self._ledger)
        local = self._served.get(self.policy.local, self.policy.local)
        return Opened(model, prompt_ids=self._prompt_ids, text_model=local)

    async def _prompt_ids(self, request: ChatRequest) -> Sequence[int]:
        """As the local model reads it; nobody is asked."""
        async with self._opened(self.policy.local) as opened:
            assert opened.prompt_ids is not None, "a local model says how it reads"
            return await opened.prompt_ids(request)
