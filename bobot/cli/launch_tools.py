"""What each tool of `bobot launch` has to be told to ask a bobot server: variables, options, files.

A new tool is one function and one line in TOOLS. Formats as their makers document them in
November 2026.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bobot.cli.launch_files import JsonFile, ToolFile, WholeFile, YamlItem
from bobot.messages import tr

NAME = "bobot"
"""How the tools call the server."""
NO_KEY = "bobot"
"""Tools insist on a key; a server that asks for none takes any."""
AGENT_CONTEXT = 16384
"""Tokens below which a coding agent's first prompt hardly fits."""


@dataclass(frozen=True)
class Place:
    """A server, one of its models, and where the tools' files lie."""

    url: str
    """Without /v1."""
    model: str
    context: int | None
    """Tokens; None where the server does not say."""
    key_env: str | None
    """The variable with the key; None: none is asked for."""
    environ: Mapping[str, str]

    @property
    def v1(self) -> str:
        return f"{self.url}/v1"

    @property
    def key(self) -> str:
        return self.environ.get(self.key_env, "") if self.key_env else NO_KEY

    @property
    def home(self) -> Path:
        return Path(self.environ.get("HOME") or os.path.expanduser("~"))

    @property
    def config(self) -> Path:
        given = self.environ.get("XDG_CONFIG_HOME", "")
        return Path(given) if os.path.isabs(given) else self.home / ".config"


@dataclass(frozen=True)
class Setup:
    """All that a tool needs."""

    environ: dict[str, str] = field(default_factory=dict)
    """With what it is started; the names whose value is the key are in `secret`."""
    secret: tuple[str, ...] = ()
    unset: tuple[str, ...] = ()
    """Variables that would get in the way."""
    options: tuple[str, ...] = ()
    """Of its command line, before the user's own."""
    file: ToolFile | None = None
    """What --write writes; None: there is nothing to write."""
    needs_file: bool = False
    """It can only be started once the file is written."""
    hint: str = ""
    """What is left for the user to do."""


@dataclass(frozen=True)
class Tool:
    program: str
    about: str
    setup: Callable[[Place], Setup]
    is_agent: bool = True
    """It sends long prompts."""


def claude(place: Place) -> Setup:
    """https://code.claude.com/docs/en/env-vars and /settings."""
    environ = {"ANTHROPIC_BASE_URL": place.url, "ANTHROPIC_MODEL": place.model}
    for size in ("OPUS", "SONNET", "HAIKU"):
        environ[f"ANTHROPIC_DEFAULT_{size}_MODEL"] = place.model
    environ["CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"] = "1"
    if place.context:
        environ["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] = str(place.context)
    content: dict[str, Any] = {"env": dict(environ)}
    if place.key_env:
        content["apiKeyHelper"] = f"printenv {place.key_env}"
    else:
        content["env"]["ANTHROPIC_AUTH_TOKEN"] = NO_KEY
    folder = place.environ.get("CLAUDE_CONFIG_DIR") or place.home / ".claude"
    return Setup(
        environ={**environ, "ANTHROPIC_AUTH_TOKEN": place.key},
        secret=("ANTHROPIC_AUTH_TOKEN",),
        unset=("ANTHROPIC_API_KEY",),
        file=JsonFile(Path(folder) / "settings.json", content),
    )


def codex(place: Place) -> Setup:
    """https://developers.openai.com/codex/config-advanced: a profile is a file of its own. Tools
    that OpenAI runs, and groups of tools, no other server has: they are left out."""
    values = {
        "model": place.model,
        "model_provider": NAME,
        "web_search": "disabled",
        **({"model_context_window": place.context} if place.context else {}),
    }
    provider = {"name": NAME, "base_url": place.v1, "wire_api": "responses"}
    if place.key_env:
        provider["env_key"] = place.key_env
    tables = {f"model_providers.{NAME}": provider, "features": {"multi_agent": False}}
    folder = Path(place.environ.get("CODEX_HOME") or place.home / ".codex")
    options = [("-c", f"{name}={_toml(value)}") for name, value in values.items()]
    options += [
        ("-c", f"{table}.{name}={_toml(value)}")
        for table, found in tables.items()
        for name, value in found.items()
    ]
    return Setup(
        environ={place.key_env: place.key} if place.key_env else {},
        secret=(place.key_env,) if place.key_env else (),
        options=tuple(word for pair in options for word in pair),
        hint=tr("Once that file is there: codex --profile bobot"),
        file=WholeFile(folder / f"{NAME}.config.toml", _toml_text(values, tables)),
    )


def opencode(place: Place) -> Setup:
    """https://opencode.ai/docs/providers and /config."""
    limit = {"context": place.context, "output": place.context // 4} if place.context else None
    model: dict[str, Any] = {"name": place.model, **({"limit": limit} if limit else {})}
    key = f"{{env:{place.key_env}}}" if place.key_env else NO_KEY
    content = {
        "$schema": "https://opencode.ai/config.json",
        "provider": {
            NAME: {
                "npm": "@ai-sdk/openai-compatible",
                "name": NAME,
                "options": {"baseURL": place.v1, "apiKey": key},
                "models": {place.model: model},
            }
        },
        "model": f"{NAME}/{place.model}",
    }
    environ = {"OPENCODE_CONFIG_CONTENT": json.dumps(content, ensure_ascii=False)}
    if place.key_env:
        environ[place.key_env] = place.key
    return Setup(
        environ=environ,
        secret=(place.key_env,) if place.key_env else (),
        file=JsonFile(place.config / "opencode" / "opencode.json", content),
    )


def continue_(place: Place) -> Setup:
    """https://docs.continue.dev/reference: an entry of `models`."""
    key = f"${{{{ secrets.{place.key_env} }}}}" if place.key_env else NO_KEY
    item = {
        "name": f"{NAME}: {place.model}",
        "provider": "openai",
        "model": place.model,
        "apiBase": place.v1,
        "apiKey": key,
        "roles": ["chat", "edit", "apply"],
    }
    head = {"name": "Local", "version": "1.0.0", "schema": "v1"}
    folder = place.environ.get("CONTINUE_GLOBAL_DIR") or place.home / ".continue"
    file = YamlItem(Path(folder) / "config.yaml", item, below="models", head=head)
    return Setup(options=("--config", str(file.path)), file=file, needs_file=True)


def llm(place: Place) -> Setup:
    """https://llm.datasette.io/en/stable/other-models.html"""
    item: dict[str, Any] = {"model_id": NAME, "model_name": place.model, "api_base": place.v1}
    item |= {"supports_schema": True, "supports_tools": True}
    if place.key_env:
        item["api_key_name"] = NAME
    mac = place.home / "Library" / "Application Support"
    usual = (mac if sys.platform == "darwin" else place.config) / "io.datasette.llm"
    folder = Path(place.environ.get("LLM_USER_PATH") or usual)
    file = YamlItem(folder / "extra-openai-models.yaml", item)
    hint = tr("llm keeps keys itself; give it this server's with: llm keys set bobot")
    return Setup(
        options=("-m", NAME), file=file, needs_file=True, hint=hint if place.key_env else ""
    )


def aider(place: Place) -> Setup:
    """https://aider.chat/docs/llms/openai-compat.html"""
    return Setup(
        environ={"OPENAI_API_BASE": place.v1, "OPENAI_API_KEY": place.key},
        secret=("OPENAI_API_KEY",),
        options=("--model", f"openai/{place.model}"),
    )


def zed(place: Place) -> Setup:
    """https://zed.dev/docs/ai/llm-providers: the key is read from BOBOT_API_KEY."""
    model = {"name": place.model, "display_name": place.model}
    model |= {"max_tokens": place.context or AGENT_CONTEXT}  # type: ignore[dict-item]
    provider = {"api_url": place.v1, "available_models": [model]}
    content = {"language_models": {"openai_compatible": {NAME: provider}}}
    return Setup(
        environ={"BOBOT_API_KEY": place.key},
        secret=("BOBOT_API_KEY",),
        file=JsonFile(place.config / "zed" / "settings.json", content),
        needs_file=True,
    )


def openai(place: Place) -> Setup:
    """Programs on OpenAI's own libraries."""
    return Setup(
        environ={"OPENAI_BASE_URL": place.v1, "OPENAI_API_KEY": place.key},
        secret=("OPENAI_API_KEY",),
    )


def tools() -> dict[str, Tool]:
    return {
        "claude": Tool("claude", "Claude Code", claude),
        "codex": Tool("codex", "OpenAI Codex", codex),
        "opencode": Tool("opencode", "OpenCode", opencode),
        "continue": Tool("cn", "Continue", continue_),
        "aider": Tool("aider", "Aider", aider),
        "zed": Tool("zed", "Zed", zed),
        "llm": Tool("llm", "llm (Datasette)", llm, is_agent=False),
        "openai": Tool("python", "openai-python, openai-node, curl ...", openai, is_agent=False),
    }


def _toml(value: str | int) -> str:
    """A basic string of TOML is one of JSON without surrogates."""
    return json.dumps(value, ensure_ascii=False)


def _toml_text(values: Mapping[str, Any], tables: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [f"{name} = {_toml(value)}" for name, value in values.items()]
    for table, found in tables.items():
        lines += ["", f"[{table}]", *(f"{name} = {_toml(value)}" for name, value in found.items())]
    return "\n".join([*lines, ""])
