"""Who answers over the internet: addresses, keys, models and prices, read from hosts.toml.

The user's own hosts.toml, in bobot's configuration folder, adds hosts, or models and prices of the
shipped ones:

    [hosts.desk]                                  # named desk:MODEL from now on
    wire = "openai"                               # one of WIRES
    base_url = "https://desk.example/v1"
    key_env = "DESK_API_KEY"                      # leave it out where no key is asked for
    accepts = ["top_k", "min_p"]                  # beyond OpenAI's own parameters

    [hosts.desk.models]
    "big-model" = { context_length = 131072, input = 0.5, output = 1.5, as_of = "2026-11-21" }

Keys themselves stand in the environment only, never in a file.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from bobot.chat.protocol import Usage
from bobot.errors import ConfigError, UsageError
from bobot.hub.names import aliases
from bobot.paths import user_paths

WIRES = ("openai", "openai-responses", "anthropic", "gemini")
EXTENSIONS = (
    *("top_k", "min_p", "repetition_penalty", "stop_token_ids", "ignore_eos"),
    "chat_template_kwargs",
)
"""What some OpenAI-compatible hosts know beside OpenAI's own parameters; a host `accepts` them."""
MAX_FILE_BYTES = 1 << 20
_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
_DATE = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{8})$")
_NOT_NAMES = ("http", "https", "hf")
_MILLION = 1e6


class Prices(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """US dollars for a million tokens."""

    input: float
    output: float
    cached: float | None = None
    """Of prompt tokens that the host had computed before; None: as `input`."""

    def cost_usd(self, usage: Usage) -> float:
        cached = usage.cached_tokens or 0
        cached_price = self.input if self.cached is None else self.cached
        prompt = (usage.prompt_tokens - cached) * self.input + cached * cached_price
        return (prompt + usage.completion_tokens * self.output) / _MILLION


class LongPrices(Prices, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Those of a request whose prompt has more than `tokens`."""

    tokens: int


class ModelFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is known of one hosted model; None where nobody said."""

    context_length: int | None = None
    max_output: int | None = None
    wire: str | None = None
    """Where the model speaks another wire than its host."""
    input: float | None = None
    output: float | None = None
    cached: float | None = None
    above: LongPrices | None = None
    as_of: str | None = None
    """The day of the prices, and the page they come from; None: those of the host."""
    source: str | None = None

    def cost_usd(self, usage: Usage) -> float | None:
        """What an answer cost by the list price; None for a model without one."""
        if self.input is None or self.output is None:
            return None
        if self.above is not None and usage.prompt_tokens > self.above.tokens:
            return self.above.cost_usd(usage)
        return Prices(input=self.input, output=self.output, cached=self.cached).cost_usd(usage)


class Host(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One company or server, and how it is spoken to."""

    wire: str
    base_url: str
    name: str = ""
    base_url_env: str | None = None
    """The variable that replaces base_url."""
    key_env: str | None = None
    """The variable with the key; None: the host asks for none."""
    keys_page: str | None = None
    """Where a user gets a key."""
    headers_env: dict[str, str] = msgspec.field(default_factory=dict)
    """Header -> variable; sent where the variable is set."""
    max_tokens_name: str = "max_tokens"
    max_stop: int | None = None
    accepts: tuple[str, ...] = ()
    """Of EXTENSIONS."""
    refuses: tuple[str, ...] = ()
    """Parameters of the wire that this host does not know."""
    streams: bool = True
    """False: answers come whole."""
    idle_timeout_s: float = 300.0
    """Seconds without a byte after which an answer is given up."""
    as_of: str | None = None
    source: str | None = None
    models: dict[str, ModelFacts] = msgspec.field(default_factory=dict)

    def facts(self, model: str) -> ModelFacts:
        """What is known of `model`; a dated name (gpt-4o-2024-08-06) counts as its plain one."""
        return self.models.get(model) or self.models.get(_DATE.sub("", model)) or ModelFacts()


class _Added(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a user's file may say of a shipped host: its key never goes to another address."""

    models: dict[str, ModelFacts]


def load_hosts(environ: Mapping[str, str] | None = None) -> dict[str, Host]:
    """Name -> host: the shipped ones and those of the user's file. Raises ConfigError."""
    shipped_text = files("bobot.gateway").joinpath("hosts.toml").read_text(encoding="utf-8")
    hosts = {
        name: _host(name, values, "hosts.toml")
        for name, values in tomllib.loads(shipped_text)["hosts"].items()
    }
    path = hosts_file(environ)
    if path.is_file():
        own = read_toml(path)
        check_keys(path, own, {"hosts"})
        for name, values in _table(path, own, "hosts").items():
            hosts[name] = _joined(path, name, values, hosts)
    return hosts


def hosts_file(environ: Mapping[str, str] | None = None) -> Path:
    """Where a user's own hosts stand; it need not exist."""
    return user_paths(environ).config / "hosts.toml"


def read_toml(path: Path) -> dict[str, Any]:
    """The values of a configuration file; raises ConfigError that says what is wrong with it."""
    try:
        content = path.read_bytes()[: MAX_FILE_BYTES + 1]
        if len(content) > MAX_FILE_BYTES:
            raise ConfigError("{file} is too large for a configuration file.", file=path)
        return tomllib.loads(content.decode())
    except OSError as error:
        raise ConfigError(
            "{file}: can't read: {reason}.", file=path, reason=error.strerror
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError("{file} is not valid TOML: {reason}.", file=path, reason=error) from error


def check_keys(path: Path, values: Mapping[str, Any], known: set[str]) -> None:
    if unknown := sorted(set(values) - known):
        raise ConfigError(
            "{file}: unknown key {name!r}; allowed: {allowed}.",
            file=path,
            name=unknown[0],
            allowed=", ".join(sorted(known)),
        )


def converted(place: str | Path, values: Any, kind: Any) -> Any:
    """`values` as `kind`; raises ConfigError with the path of what is wrong."""
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise ConfigError("{file}: {reason}.", file=place, reason=error) from error


def _table(path: Path, values: Mapping[str, Any], key: str) -> dict[str, Any]:
    return converted(path, values.get(key, {}), dict[str, Any])


def _joined(path: Path, name: str, values: Any, hosts: Mapping[str, Host]) -> Host:
    if name in hosts:
        added = converted(f"{path}: hosts.{name}", values, _Added)
        return msgspec.structs.replace(hosts[name], models={**hosts[name].models, **added.models})
    families = {alias.partition(":")[0] for alias in aliases()}
    if not _NAME.fullmatch(name) or name in _NOT_NAMES or name in families:
        raise ConfigError(
            "{file}: {name!r} can't name a host; allowed: small letters, digits and -, at most 32,"
            " and no name of a local model.",
            file=path,
            name=name,
        )
    host = _host(name, values, path)
    if host.key_env in {other.key_env for other in hosts.values()} - {None}:
        raise ConfigError(
            "{file}: hosts.{name} would get the key in {variable}, which belongs to another host.",
            hint="Give it a variable of its own.",
            file=path,
            name=name,
            variable=host.key_env,
        )
    return host


def _host(name: str, values: Any, path: str | Path) -> Host:
    place = f"{path}: hosts.{name}"
    host = msgspec.structs.replace(converted(place, values, Host), name=name)
    wires = {host.wire, *(facts.wire for facts in host.models.values())} - {None}
    for wire in wires - set(WIRES):
        raise ConfigError(
            "{file}: wire is {found!r}; allowed: {allowed}.",
            file=place,
            found=wire,
            allowed=", ".join(WIRES),
        )
    for found in set(host.accepts) - set(EXTENSIONS):
        raise ConfigError(
            "{file}: accepts has {found!r}; allowed: {allowed}.",
            file=place,
            found=found,
            allowed=", ".join(EXTENSIONS),
        )
    for variable in (host.key_env, host.base_url_env, *host.headers_env.values()):
        if variable is not None and not _VARIABLE.fullmatch(variable):
            raise ConfigError(
                "{file}: {found!r} is no name of an environment variable.",
                hint="Keys stand in the environment, never in a file.",
                file=place,
                found=variable[:4] + "...",
            )
    check_address(host.base_url, place, sends_key=host.key_env is not None)
    return host


def check_address(address: str, place: str, *, sends_key: bool) -> None:
    """Raises UsageError unless `address` is a base URL to which a key may be sent: https, or http
    within a machine or a local network.
    """
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
        is_address = parts.scheme in ("http", "https") and bool(host) and parts.port != 0
        is_address = is_address and not (parts.query or parts.fragment or parts.username)
    except ValueError:
        is_address, host, parts = False, "", None
    if not is_address or parts is None:
        raise UsageError(
            "{place}: {found!r} is no address such as https://api.example.com/v1.",
            place=place,
            found=address,
        )
    if sends_key and parts.scheme == "http" and not _is_near(host):
        raise UsageError(
            "{place}: {found} would send your key over the internet in clear.",
            hint="Use https.",
            place=place,
            found=address,
        )


def _is_near(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith((".local", ".localhost", ".lan"))
