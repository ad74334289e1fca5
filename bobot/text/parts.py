"""What an answer is made of: reasoning, text and tool calls, whole or as they come.

A parser (answer_parser) turns the ids or the text of an answer into `PartDelta`s; `parts_of` puts
them together. Formats and their markers are elsewhere: nothing here knows one.
"""

from __future__ import annotations

import json
import secrets
import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

Kind = Literal["reasoning", "text", "tool_call"]
REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")
"""Names of a message's reasoning, in the order in which they count."""

_ID_LETTERS = string.ascii_letters + string.digits


@dataclass(frozen=True, kw_only=True)
class PartDelta:
    """A bit of one part. A tool call's first delta has its id and name; the text is arguments."""

    part: int
    """Number of the part in its answer, from 0."""
    kind: Kind
    text: str = ""
    id: str = ""
    name: str = ""
    num_tokens: int = 0
    """Tokens since the last delta; 0 where nobody counted."""
    finish_reason: str | None = None
    """stop, length or tool_calls in the last delta of an answer."""


@dataclass(frozen=True)
class Part:
    """One part. The text of a tool call is its arguments, exactly as the model wrote them."""

    kind: Kind
    text: str
    id: str = ""
    name: str = ""
    num_tokens: int = 0

    @cached_property
    def arguments(self) -> dict[str, Any] | None:
        """The arguments of a tool call; None when its text is no JSON object."""
        try:
            values = json.loads(self.text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            return None
        return values if isinstance(values, dict) else None

    @property
    def is_malformed(self) -> bool:
        """Whether this is a tool call that nobody can run: no name, or arguments that are no JSON
        object."""
        return self.kind == "tool_call" and (self.arguments is None or not self.name)

    def as_call(self, *, arguments_as_text: bool = True) -> dict[str, Any]:
        """The tool call in the form of OpenAI's API. Many chat templates want the arguments as an
        object instead; malformed ones stay text."""
        arguments = None if arguments_as_text else self.arguments
        function = {"name": self.name, "arguments": self.text if arguments is None else arguments}
        return {"id": self.id, "type": "function", "function": function}


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def parts_of(deltas: Iterable[PartDelta]) -> list[Part]:
    """The parts that these deltas add up to; a part without text is left out unless it is a
    call."""
    found: dict[int, list[PartDelta]] = {}
    for delta in deltas:
        found.setdefault(delta.part, []).append(delta)
    parts = [
        Part(
            kind=bits[0].kind,
            text="".join(bit.text for bit in bits),
            id="".join(bit.id for bit in bits),
            name="".join(bit.name for bit in bits),
            num_tokens=sum(bit.num_tokens for bit in bits),
        )
        for _, bits in sorted(found.items())
    ]
    return [part for part in parts if part.text or part.kind == "tool_call"]


def joined(parts: Iterable[Part], kind: Kind) -> str:
    """The text of all parts of one kind, blank lines between them."""
    return "\n\n".join(part.text for part in parts if part.kind == kind)


def as_message(parts: Iterable[Part], *, arguments_as_text: bool = True) -> dict[str, Any]:
    """The answer as a message of the conversation, for the next prompt."""
    parts = list(parts)
    message: dict[str, Any] = {"role": "assistant", "content": joined(parts, "text")}
    if reasoning := joined(parts, "reasoning"):
        message["reasoning_content"] = reasoning
    calls = [part for part in parts if part.kind == "tool_call"]
    if calls:
        message["tool_calls"] = [c.as_call(arguments_as_text=arguments_as_text) for c in calls]
    return message


def reasoning_of(message: Mapping[str, Any]) -> Any:
    """The reasoning of a message under the first of its names; None if there is none."""
    return next((message[key] for key in REASONING_KEYS if message.get(key) is not None), None)


def random_call_id() -> str:
    """Nine letters and digits: every family takes such an id, Mistral no other."""
    return "".join(secrets.choice(_ID_LETTERS) for _ in range(9))


class PartWriter:
    """Numbers the parts of one answer and gathers their deltas for the next drain()."""

    def __init__(self, new_call_id: Callable[[], str]) -> None:
        self.new_call_id = new_call_id
        self.kind: Kind | None = None
        """Of the part that is open."""
        self._count = 0
        self._deltas: list[PartDelta] = []

    def add(self, kind: Kind, text: str) -> None:
        """More text of the open part, or of a new one where another kind or none is open."""
        if not text:
            return
        if kind != self.kind:
            self._open(kind)
        self._deltas.append(PartDelta(part=self._count - 1, kind=kind, text=text))

    def open_call(self, name: str, call_id: str = "") -> None:
        """Begins a tool call; add("tool_call", ...) goes on with its arguments."""
        self._open("tool_call")
        call_id = call_id or self.new_call_id()
        self._deltas.append(
            PartDelta(part=self._count - 1, kind="tool_call", id=call_id, name=name)
        )

    def call(self, name: str, arguments: str, call_id: str = "") -> None:
        """A whole tool call."""
        self.open_call(name, call_id)
        self.add("tool_call", arguments)
        self.close()

    def close(self) -> None:
        """Ends the open part."""
        self.kind = None

    def drain(self) -> list[PartDelta]:
        deltas, self._deltas = self._deltas, []
        return deltas

    def _open(self, kind: Kind) -> None:
        self.kind = kind
        self._count += 1
