"""The limits and habits of one server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Chosen by `bobot serve`; times in seconds."""

    is_lenient: bool = False
    """Passes over what is known and not supported, instead of refusing it."""
    is_llama: bool = False
    """Answers as llama-server does where its API and OpenAI's differ under one path."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Sampling of requests that don't say, in the words of SamplingParams."""
    shows_prompt: bool = False
    """Answers a chat with its prompt too, where the request does not say."""
    reasoning_effort: str | None = None
    """Of chats that don't say."""
    needs_key: bool = False
    allowed_hosts: tuple[str, ...] = ()
    """Names under which the server may be called, beside IP addresses and this machine's own."""
    allowed_origins: tuple[str, ...] = ()
    """Web pages that may call it, beside those of this machine; "*": all."""
    max_body_bytes: int = 32 * MIB
    max_head_bytes: int = 64 << 10
    """Of a request's headers."""
    max_calls: int = 256
    """Requests that are worked on or wait."""
    max_answer_s: float = 3600.0
    ping_s: float = 15.0
    drain_s: float = 30.0
    unload_after_s: float | None = None
    """Models unused for so long leave memory; None: when others need the room."""
