"""What the wire formats share: a call, a reader of its answer, refusals before anything is sent.

A wire format is a module with `chat_call(host, model, request) -> Call` and a `Reader`; hosted.py
has the table.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bobot.chat.protocol import (
    ChatRequest,
    Delta,
    Event,
    Finished,
    Format,
    ParameterError,
    TokenLogprob,
    Usage,
)
from bobot.errors import GatewayError
from bobot.gateway.hosts import Host
from bobot.text.parts import Kind, PartDelta, random_call_id

Reason = Literal["stop", "length", "tool_calls", "content_filter"]

NEUTRAL: dict[str, Any] = {
    "max_tokens": None,
    "top_k": 0,
    "min_p": 0,
    "repetition_penalty": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "logit_bias": {},
    "seed": None,
    "n": 1,
    "stop_token_ids": (),
    "ignore_eos": False,
    "logprobs": None,
}
"""Values that ask for nothing: they need not be sent, nor refused."""


@dataclass(frozen=True)
class Call:
    """One request to a host: a path below its base URL, a JSON body, the headers of the wire."""

    path: str
    body: dict[str, Any]
    key_header: str = "Authorization"
    key_prefix: str = "Bearer "
    headers: Mapping[str, str] = field(default_factory=dict)


def asked(sampling: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that ask for something. Raises ParameterError for a number that is none."""
    given = {}
    for name, value in sampling.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ParameterError("{name} must be a finite number.", param=name, name=name)
        if name not in NEUTRAL or (value is not None and not _is_neutral(NEUTRAL[name], value)):
            given[name] = value
    return {name: value for name, value in given.items() if value is not None}


def _is_neutral(neutral: Any, value: Any) -> bool:
    return value == neutral or (neutral in ((), {}) and len(value) == 0)


def renamed(given: dict[str, Any], names: Mapping[str, str], host: Host) -> dict[str, Any]:
    """The parameters under the names of the wire; ParameterError for one that it can't take."""
    for name in given:
        if name not in names or name in host.refuses:
            raise unsupported(name, host)
    return {names[name]: value for name, value in given.items()}


def unsupported(param: str, host: Host) -> ParameterError:
    return ParameterError(
        "{host} can't do {name}; nothing was sent.",
        param=param,
        code="unsupported_parameter",
        host=host.name,
        name=param,
    )


def check_chat(host: Host, request: ChatRequest, *, continues: bool = False) -> None:
    """Refuses what no host, or not this one, can do with a conversation."""
    if request.is_private:
        raise private_error(host.name)
    if request.continues_last and not continues:
        raise unsupported("continue_final_message", host)
    if request.template_options and "chat_template_kwargs" not in host.accepts:
        raise unsupported("chat_template_kwargs", host)
    check_format(host, request.format)
    check_stop(host, request.stop)


def private_error(name: str) -> ParameterError:
    return ParameterError(
        "this conversation is private: it is not sent to {host}.",
        param="model",
        code="private",
        host=name,
    )


def check_format(host: Host, wanted: Format) -> None:
    if wanted.kind in ("regex", "lark", "gbnf"):
        raise unsupported("grammar", host)


def check_stop(host: Host, stop: tuple[str, ...]) -> None:
    if stop and "stop" in host.refuses:
        raise unsupported("stop", host)
    if host.max_stop is not None and len(stop) > host.max_stop:
        raise ParameterError(
            "{host} takes at most {allowed} stop strings, not {found}.",
            param="stop",
            host=host.name,
            allowed=host.max_stop,
            found=len(stop),
        )


class AnswerReader:
    """Turns the JSON objects of one answer into Deltas and Finisheds; a wire adds `read`.

    Everything a host sends is checked: a wrong type raises GatewayError through `wrong`.
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self.model: str | None = None
        """The name that the host gives the model."""
        self.usage: Usage | None = None
        self.is_complete = False
        """Whether the host has said that the answer is whole."""
        self.num_answers = 1
        self._parts: dict[int, _Parts] = {}

    def read(self, data: dict[str, Any]) -> Iterator[Event]:
        raise NotImplementedError

    @property
    def has_finished(self) -> bool:
        """Whether every answer has ended."""
        ended = [parts.is_finished for parts in self._parts.values()]
        return len(ended) >= self.num_answers and all(ended)

    def text(
        self, kind: Kind, text: Any, index: int = 0, logprobs: tuple[TokenLogprob, ...] = ()
    ) -> Iterator[Event]:
        """More text or reasoning of one answer."""
        parts = self._parts.setdefault(index, _Parts())
        if not isinstance(text, str):
            raise self.wrong("text")
        if text or logprobs:
            part = PartDelta(part=parts.number(kind), kind=kind, text=_unicode(text))
            yield Delta(index, part, logprobs=logprobs)

    def call(
        self, key: Any, call_id: Any, name: Any, arguments: Any, index: int = 0
    ) -> Iterator[Event]:
        """More of the tool call `key` of one answer; a call without an id gets one."""
        parts = self._parts.setdefault(index, _Parts())
        values = (call_id, name, arguments)
        if not isinstance(key, int) or not all(isinstance(value, str | None) for value in values):
            raise self.wrong("tool_calls")
        is_first = key not in parts.calls
        number = parts.call_number(key)
        yield Delta(
            index,
            PartDelta(
                part=number,
                kind="tool_call",
                id=_unicode(call_id or random_call_id()) if is_first else "",
                name=_unicode(name or "") if is_first else "",
                text=_unicode(arguments or ""),
            ),
        )

    def finish(self, reason: Reason, index: int = 0, stop: str | None = None) -> Iterator[Event]:
        """The end of one answer; one that called a tool ends with tool_calls."""
        parts = self._parts.setdefault(index, _Parts())
        if not parts.is_finished:
            parts.is_finished = True
            called = parts.calls and reason == "stop"
            yield Finished(index, "tool_calls" if called else reason, stop)

    def start(self, model: Any, index: int | None = 0) -> None:
        """Notes the name of the model, and that an answer has begun."""
        if isinstance(model, str) and model.isprintable() and 0 < len(model) <= 200:
            self.model = model
        if index is not None:
            self._parts.setdefault(index, _Parts())

    def count(self, values: Mapping[str, Any], name: str) -> int | None:
        """A number of tokens; None where the host does not say."""
        value = values.get(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 40:
            raise self.wrong(name)
        return value

    def table(self, values: Any, name: str) -> dict[str, Any]:
        """The object called `name`; empty where it is missing."""
        found = values.get(name)
        if found is not None and not isinstance(found, dict):
            raise self.wrong(name)
        return found or {}

    def items(self, values: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
        """The list of objects called `name`; empty where it is missing."""
        found = values.get(name)
        if found is None:
            return []
        if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
            raise self.wrong(name)
        return found

    def wrong(self, what: str) -> GatewayError:
        return GatewayError(
            "{host} answers in a form that is not its own: {what}.",
            hint="Is its address right, and its wire?",
            host=self.host.name,
            what=what,
        )

    def reason(self, names: Mapping[str, Reason], reason: Any) -> Reason:
        """The host's reason to end in our words."""
        if not isinstance(reason, str) or reason not in names:
            raise GatewayError(
                "{host} ended the answer with {reason!r}.",
                host=self.host.name,
                reason=str(reason)[:80],
            )
        return names[reason]


def _unicode(text: str) -> str:
    """JSON can hold half of a surrogate pair; it becomes the sign for what can't be shown."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


class _Parts:
    """The numbers of the parts of one answer."""

    def __init__(self) -> None:
        self.calls: dict[int, int] = {}
        self.is_finished = False
        self._kind: Kind | None = None
        self._count = 0

    def number(self, kind: Kind) -> int:
        """Of the open part if it is of this kind, else of a new one."""
        if kind != self._kind:
            self._kind = kind
            self._count += 1
        return self._count - 1

    def call_number(self, key: int) -> int:
        if key not in self.calls:
            self._kind = None
            self.calls[key] = self.number("tool_call")
        return self.calls[key]
