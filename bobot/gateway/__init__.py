"""Models of others as ChatModels: OpenAI, Gemini, xAI, Anthropic, and every host that speaks one of
their wire formats, with the user's own keys. No vendor's SDK, no torch.

    model = gateway.open_model("openai:gpt-4o")
    async for event in model.chat(ChatRequest(messages=({"role": "user", "content": "halo"},))): ...
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from bobot.errors import NotFoundError
from bobot.gateway.blocking import BlockingModel
from bobot.gateway.hosted import HostedModel
from bobot.gateway.hosts import load_hosts

__all__ = ["BlockingModel", "HostedModel", "is_hosted", "model_names", "open_model"]


def is_hosted(name: str, environ: Mapping[str, str] | None = None) -> bool:
    """Whether `name` is HOST:MODEL of a known host. Raises ConfigError for a broken hosts.toml."""
    host, colon, model = name.partition(":")
    return bool(colon and model and model.isprintable()) and host in load_hosts(environ)


def open_model(name: str, environ: Mapping[str, str] | None = None) -> HostedModel:
    """The hosted model called HOST:MODEL. Nothing is sent yet, and the model need not be listed.

    Raises NotFoundError for an unknown host, GatewayError where the key is not in the environment,
    UsageError for an address or a key that can't be one.
    """
    host, _, model = name.partition(":")
    hosts = load_hosts(environ)
    if host not in hosts or not model:
        raise NotFoundError(
            "{name!r} is no hosted model; a name is HOST:MODEL, and the hosts are {hosts}.",
            name=name,
            hosts=", ".join(hosts),
        )
    return HostedModel(hosts[host], model, environ)


def model_names(environ: Mapping[str, str] | None = None) -> list[str]:
    """HOST:MODEL of every listed model whose host has its key in the environment."""
    environ = os.environ if environ is None else environ
    return [
        f"{host.name}:{model}"
        for host in load_hosts(environ).values()
        if host.key_env is None or environ.get(host.key_env)
        for model in host.models
    ]
