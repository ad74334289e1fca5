"""What `bobot serve` serves: models and settings made of its options."""

from __future__ import annotations

import argparse
import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bobot.cli.routing import policy_of
from bobot.errors import RequestError, UsageError

if TYPE_CHECKING:
    from bobot.gateway.policy import Policy
    from bobot.server.library import Library
    from bobot.server.models import Models
    from bobot.server.settings import Settings

GIB = 1 << 30
EFFORT = "reasoning_effort"
RAM_SHARE = 0.9
"""Of the memory that is free when the server starts, what models may take."""


def settings_of(args: argparse.Namespace, *, needs_key: bool) -> Settings:
    """Raises UsageError for a default that no request could have."""
    from bobot.chat.requests import sampling_params
    from bobot.server.settings import Settings

    defaults = _defaults(args.default)
    effort = defaults.pop(EFFORT, None)
    try:
        sampling_params(defaults)
    except RequestError as error:
        raise UsageError("--default: {problem}", problem=error) from error
    return Settings(
        is_lenient=args.lenient,
        is_llama=args.llama_server,
        shows_prompt=args.show_prompt,
        reasoning_effort=None if effort is None else str(effort),
        defaults=defaults,
        needs_key=needs_key,
        allowed_hosts=tuple(args.allow_host),
        allowed_origins=tuple(args.allow_origin),
        max_calls=args.max_queue,
        drain_s=args.drain_seconds,
        unload_after_s=args.unload_after,
    )


def models_of(args: argparse.Namespace, shelf: Library, ending: contextlib.ExitStack) -> Models:
    """The models in the order in which they were named; without names all, the policy's last."""
    from bobot.gateway.spending import Ledger, spending_file
    from bobot.server.adapters import adapter_sources
    from bobot.server.models import Models
    from bobot.server.routing import Routing

    served = Models([], _budget_bytes(args.memory), any_model=args.any_model)
    routing = None
    if (policy := _policy(args)) is not None:
        ledger = ending.enter_context(contextlib.closing(Ledger(spending_file())))
        routing = Routing(policy, served, shelf.source, ledger)
    routes = {source.name: source for source in routing.sources()} if routing else {}
    named = [routes.get(name) or shelf.source(name) for name in args.models]
    named = named or shelf.sources([])
    for source in [*named, *adapter_sources(args.adapter, named)]:
        served.add(source)
    if routing is not None:
        for source in routes.values():
            served.add(source)
        routing.serve_models()
    return served


def _policy(args: argparse.Namespace) -> Policy | None:
    """The policy, if it is to be served: where models are named, it has to be named too."""
    policy = policy_of(args.policy)
    if policy is None or args.policy is not None or not args.models:
        return policy
    return policy if set(args.models) & set(policy.names) else None


def _defaults(given: list[str]) -> dict[str, Any]:
    """Name -> value, JSON where it is some."""
    found: dict[str, Any] = {}
    for item in given:
        name, sign, value = item.partition("=")
        if not sign or not name:
            raise UsageError("--default is {found!r}; it must be NAME=VALUE.", found=item)
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def template_of(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("can't read {path}: {reason}.", path=file, reason=error) from error


def _budget_bytes(memory_gib: float | None) -> int:
    from bobot import hardware

    if memory_gib is not None:
        return int(memory_gib * GIB)
    return int(hardware.detect().ram_available_bytes * RAM_SHARE)
