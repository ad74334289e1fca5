"""A policy's name as the model of a terminal: its local model is loaded at once, others when a rule
first names them.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bobot.errors import UsageError
from bobot.paths import user_paths

if TYPE_CHECKING:
    from bobot.chat.protocol import ChatModel
    from bobot.chat.service import LocalService
    from bobot.gateway import BlockingModel
    from bobot.gateway.policy import Policy


def policy_of(path: Path | None) -> Policy | None:
    """The policy in `path`, or (None) in its usual place, where there need be none. Raises
    ConfigError, UsageError.
    """
    if path is None and not user_paths().policy.is_file():
        return None
    from bobot.gateway.policy import load_policy

    policy = load_policy(path or user_paths().policy)
    if policy is None and path is not None:
        raise UsageError("{file}: there is no such file.", file=path)
    return policy


def policy_named(name: str | None, path: Path | None = None) -> Policy | None:
    """The policy that answers to `name`; with a `path` also to None. A name with : or / is always
    that of a model.
    """
    if path is None and (name is None or any(mark in name for mark in ":/ ")):
        return None
    policy = policy_of(path)
    if policy is None or (name is not None and name not in policy.names):
        return None
    return policy


def routed_model(policy: Policy, name: str, load: Callable[[str], Any]) -> BlockingModel:
    """The model called `name`; `load` gives LocalModels."""
    from bobot import gateway
    from bobot.gateway.routed import RoutedModel
    from bobot.gateway.spending import Ledger, spending_file

    hosted = frozenset(filter(gateway.is_hosted, policy.models))
    shelf = _Shelf(hosted, load)
    shelf.local(policy.local)
    ledger = Ledger(spending_file())
    routed = RoutedModel(policy, name, shelf.borrow, hosted.__contains__, ledger)
    model = gateway.BlockingModel(routed, routes_to=policy.models)
    # The engines' threads and the ledger end with the model, at the latest with the program.
    weakref.finalize(model, shelf.close)
    weakref.finalize(model, ledger.close)
    return model


class _Shelf:
    """Local models stay in memory as long as the program; a hosted one is connected to for one
    answer.
    """

    def __init__(self, hosted: frozenset[str], load: Callable[[str], Any]) -> None:
        self._hosted = hosted
        self._load = load
        self._local: dict[str, LocalService] = {}

    def close(self) -> None:
        while self._local:
            _, service = self._local.popitem()
            service.loop.close(0)

    def local(self, name: str) -> ChatModel:
        if name not in self._local:
            from bobot.chat.service import LocalService

            self._local[name] = LocalService(self._load(name))
        return self._local[name]

    @contextlib.asynccontextmanager
    async def borrow(self, name: str) -> AsyncIterator[ChatModel]:
        if name not in self._hosted:
            yield await asyncio.to_thread(self.local, name)
            return
        from bobot import gateway

        model = gateway.open_model(name)
        try:
            yield model
        finally:
            await model.close()
