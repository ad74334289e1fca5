"""What a host's refusal means: one of our errors with the host's own words, or another attempt.

The words are cut to a line and never hold a key.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from bobot.chat.protocol import OverloadedError, ParameterError
from bobot.errors import BobotError, GatewayError, NotFoundError, RequestError
from bobot.gateway.hosts import Host

MAX_WORDS = 300
_REPEATABLE = (408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529)
_OVERLOADED = ("overloaded_error", "rate_limit_error", "rate_limit_exceeded", "RESOURCE_EXHAUSTED")
_OVERLOADED += ("UNAVAILABLE", "overloaded", "server_is_overloaded")
_NO_MONEY = re.compile(r"insufficient_quota|credit balance|billing|exceeded your current quota")
_TOO_LONG = re.compile(
    r"context_length_exceeded|maximum context length|prompt is too long|maximum prompt length"
    r"|input token count.*exceeds|exceeds? (the )?(model's )?(available )?context",
    re.IGNORECASE,
)
_BAD_KEY = re.compile(r"API_KEY_INVALID|api[ _]key (not valid|provided)|invalid_api_key", re.I)


@dataclass(frozen=True)
class Refusal:
    """What a host said instead of an answer."""

    status: int | None
    """Of HTTP; None for an error inside a stream."""
    code: str
    param: str
    words: str
    wait_s: float | None = None
    """How long the host asks to wait."""
    repeats: bool | None = None
    """Whether the host says that another attempt may succeed; None: it does not say."""

    @property
    def is_overload(self) -> bool:
        busy = self.status in (429, 503, 529) or self.code in _OVERLOADED
        return busy and not _NO_MONEY.search(f"{self.code} {self.words}")

    @property
    def may_repeat(self) -> bool:
        if self.repeats is not None:
            return self.repeats
        if _NO_MONEY.search(f"{self.code} {self.words}"):
            return False
        return self.status in _REPEATABLE or self.is_overload


def refusal_of(status: int, headers: Mapping[str, str], content: bytes, keys: list[str]) -> Refusal:
    """The refusal in an HTTP answer other than 2xx."""
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        data = None
    repeats = {"true": True, "false": False}.get(headers.get("x-should-retry", ""))
    found = refusal_in(data, keys)
    words = content.decode("utf-8", "replace") if data is None else ""
    return Refusal(
        status=status,
        code=found.code if found else "",
        param=found.param if found else "",
        words=found.words if found else _bounded(words, keys),
        wait_s=_wait_s(headers),
        repeats=repeats,
    )


def refusal_in(data: Any, keys: list[str]) -> Refusal | None:
    """The error that an object of a stream holds, in the shape of any of the hosts; None if none.

    {"error": {"message", "type", "code", "param"}}, {"error": {"code": 429, "message", "status"}},
    {"error": "text"}, {"type": "error", "error": {"type", "message"}},
    {"type": "error", "code", "message"},
    {"type": "response.failed", "response": {"error": {"code", "message"}}}.
    """
    if isinstance(data, list) and len(data) == 1:  # Gemini without alt=sse
        data = data[0]
    if not isinstance(data, dict):
        return None
    error = data.get("error")
    if data.get("type") == "response.failed" and isinstance(data.get("response"), dict):
        error = data["response"].get("error") or "failed"
    if error is None and data.get("type") == "error":
        error = data
    if error is None:
        return None
    if not isinstance(error, dict):
        return Refusal(None, "", "", _bounded(str(error), keys))
    names = [error.get(key) for key in ("code", "status", "type")]
    code = next((name for name in names if isinstance(name, str) and name), "")
    status = error.get("code") if isinstance(error.get("code"), int) else None
    param, words = error.get("param"), error.get("message")
    details = error.get("details")
    if isinstance(details, list) and "API_KEY_INVALID" in str(details)[:4096]:
        code = "API_KEY_INVALID"
    return Refusal(
        status=status,
        code=code[:80],
        param=param[:80] if isinstance(param, str) else "",
        words=_bounded(words if isinstance(words, str) else "", keys),
    )


def _bounded(words: str, keys: list[str]) -> str:
    for key in keys:
        words = words.replace(key, "***")
        words = re.sub(rf"{re.escape(key[:6])}[^\s\"']*", "***", words)  # OpenAI masks its middle
    words = "".join(letter if letter.isprintable() else " " for letter in words[: 4 * MAX_WORDS])
    words = " ".join(words.split()).rstrip(".")
    return words if len(words) <= MAX_WORDS else f"{words[: MAX_WORDS - 3]}..."


def _wait_s(headers: Mapping[str, str]) -> float | None:
    """retry-after-ms, or Retry-After in seconds or as a date."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value):
            return float(value) / unit
    try:
        when = parsedate_to_datetime(headers.get("retry-after", ""))
        return max(0.0, when.timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def error_of(refusal: Refusal, host: Host, model: str) -> BobotError:
    """The error that a user sees."""
    status, words = refusal.status, refusal.words or refusal.code or f"HTTP {refusal.status}"
    about = f"{refusal.code} {refusal.words}"
    if status == 401 or _BAD_KEY.search(about):
        return GatewayError(
            "{host} refuses the key in {variable}.",
            hint="Is it whole, and not revoked? Keys are made at {page}.",
            host=host.name,
            variable=host.key_env or "-",
            page=host.keys_page or host.base_url,
        )
    if status == 404 or refusal.code in ("model_not_found", "not_found_error"):
        return NotFoundError(
            "{host} has no model {model!r} for you: {words}.",
            hint="Check its name.",
            host=host.name,
            model=model,
            words=words,
        )
    if _TOO_LONG.search(about):
        return ParameterError(
            "the conversation is too long for {host}:{model}: {words}.",
            param="messages",
            code="context_length_exceeded",
            host=host.name,
            model=model,
            words=words,
        )
    if refusal.is_overload:
        return OverloadedError(
            "{host} asks to wait: {words}.",
            retry_after_s=refusal.wait_s or 10.0,
            host=host.name,
            words=words,
        )
    return _other(refusal, host, words)


def _other(refusal: Refusal, host: Host, words: str) -> BobotError:
    if refusal.status in (400, 413, 422) and refusal.param:
        return ParameterError(
            "{host} refuses the request: {words}.",
            param=refusal.param,
            code=refusal.code or "invalid_value",
            host=host.name,
            words=words,
        )
    if refusal.status in (400, 413, 422):
        return RequestError("{host} refuses the request: {words}.", host=host.name, words=words)
    if refusal.status is not None and 300 <= refusal.status < 400:
        return GatewayError(
            "{host} answers from another address; your key was not sent there.",
            hint="Is its address right?",
            host=host.name,
        )
    return GatewayError("{host} could not answer: {words}.", host=host.name, words=words)
