"""Who may call a server that trusts its own machine: the Host and Origin headers.

A page anywhere can make a browser send requests to 127.0.0.1. A name that its owner points at
127.0.0.1 (DNS rebinding) would even let it read the answers. So the Host must be an address or a
name of this machine, and the Origin, where a browser sends one, a page of this machine. Neither
stops programs; keys do.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

from bobot.server.failures import DoorError

OWN_SUFFIXES = (".localhost", ".internal")
"""Domains that no name server outside hands out (RFC 6761; ICANN 2024 for .internal)."""

CORS = {
    "access-control-allow-methods": "GET, POST, DELETE, OPTIONS",
    "access-control-expose-headers": "x-request-id, retry-after",
    "access-control-max-age": "600",
}


def own_names() -> frozenset[str]:
    """Names of this machine."""
    name = socket.gethostname().lower()
    return frozenset({"localhost", name, f"{name}.local", socket.getfqdn().lower()})


def check_host(host: str | None, names: frozenset[str]) -> None:
    """DoorError 403 unless the Host header is an address or one of `names`."""
    name = _hostname(f"//{host or ''}")
    if name is None or not (_is_address(name) or name in names or name.endswith(OWN_SUFFIXES)):
        raise DoorError(
            "The server does not answer to the name {host!r}; bobot serve --allow-host allows it.",
            status=403,
            code="host_not_allowed",
            host=host or "",
        )


def check_origin(origin: str | None, host: str | None, allowed: tuple[str, ...]) -> None:
    """DoorError 403 unless a browser's page is of this server, this machine or `allowed`."""
    if origin is None or origin in allowed or "*" in allowed:
        return
    scheme, _, place = origin.partition("://")
    name = _hostname(origin)
    is_web = scheme in ("http", "https") and name is not None
    if is_web and (place == host or name == "localhost" or _is_loopback(name or "")):
        return
    raise DoorError(
        "Pages of {origin!r} may not call this server; bobot serve --allow-origin allows them.",
        status=403,
        code="origin_not_allowed",
        origin=origin,
    )


def cors_headers(origin: str | None, asked: Mapping[str, str]) -> dict[str, str]:
    """What lets an allowed page read the answer; never with credentials of the browser."""
    if origin is None:
        return {}
    headers = {"access-control-allow-origin": origin, "vary": "origin", **CORS}
    wanted = asked.get("access-control-request-headers")
    return {**headers, "access-control-allow-headers": wanted} if wanted else headers


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches `address`, on which a server listens."""
    return address == "localhost" or _is_loopback(address.strip("[]"))


def _hostname(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for one that is no number
    except ValueError:
        return None
    return (parts.hostname or "").rstrip(".") or None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(name: str) -> bool:
    return _is_address(name) and ipaddress.ip_address(name).is_loopback
