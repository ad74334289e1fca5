"""Harmony read back: what gpt-oss wrote after `<|start|>assistant`, as messages and as parts.

    <|channel|>analysis<|message|>Need the tool.<|end|><|start|>assistant<|channel|>commentary
    to=functions.get_weather <|constrain|>json<|message|>{"city":"Jakarta"}<|call|>

Well-formed completions give the messages of openai-harmony 0.0.8. Others never fail: a message
that is cut off is kept, a <|start|> inside a message ends it, and an answer without any channel is
text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bobot.text.markers import Bit, Marker, MarkerCutter
from bobot.text.parts import Kind, PartWriter, random_call_id
from bobot.text.tokenizer import Tokenizer

MAX_HEADER = 256
"""Characters between <|start|> and <|message|>; more of them are no header."""

_ENDS = ("<|end|>", "<|call|>", "<|return|>")
_ROLES = ("assistant", "user", "system", "developer", "tool")
_NOT_TOOLS = ("", "assistant", "user", "all")


@dataclass
class HarmonyMessage:
    """One message; `name` is a tool's, `recipient` whom it is for."""

    role: str = "assistant"
    name: str | None = None
    channel: str | None = None
    recipient: str | None = None
    content_type: str | None = None
    bits: list[str] = field(default_factory=list)

    @property
    def content(self) -> str:
        return "".join(self.bits)

    @property
    def kind(self) -> Kind:
        """What it is to the reader of the answer; a preamble on the commentary channel is text."""
        if (self.recipient or "") not in _NOT_TOOLS:
            return "tool_call"
        return "reasoning" if self.channel == "analysis" else "text"

    def as_dict(self) -> dict[str, Any]:
        """The form of openai-harmony's Message.to_dict()."""
        content = [{"type": "text", "text": self.content}]
        shown = {"role": self.role, "name": self.name, "content": content}
        extra = {
            "channel": self.channel,
            "recipient": self.recipient,
            "content_type": self.content_type,
        }
        return shown | {key: value for key, value in extra.items() if value is not None}


class HarmonyGrammar:
    """Takes the bits of a completion; see answer_parser.Grammar."""

    markers: tuple[str, ...] = ("<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", *_ENDS)

    def __init__(self, writer: PartWriter) -> None:
        self.messages: list[HarmonyMessage] = []
        self._writer = writer
        self._message: HarmonyMessage | None = None  # None: in a header
        self._header: list[Bit] = []
        self._is_started = False  # whether <|start|> began the header

    def text(self, text: str) -> None:
        if self._message is not None:
            self._add(text)
            return
        self._header.append(text)
        if sum(map(len, self._header)) > MAX_HEADER:
            self._begin(HarmonyMessage())
            self._add("".join(bit for bit in self._header if not isinstance(bit, Marker)))

    def marker(self, marker: Marker) -> None:
        if marker == "<|start|>" or marker in _ENDS:
            self._end_message()
            self._header = []
            self._is_started = marker == "<|start|>"
        elif self._message is not None:
            self._add(str(marker))
        elif marker == "<|message|>":
            self._begin(_message(self._header, self._is_started))
        else:
            self._header.append(marker)

    def end(self) -> None:
        has_marker = any(isinstance(bit, Marker) for bit in self._header)
        text = "".join(self._header)
        is_header = self._is_started or has_marker or text.lstrip().startswith("to=")
        if self._message is None and not is_header and text.strip():
            self._begin(HarmonyMessage())
            self._add(text)
        self._end_message()

    def _begin(self, message: HarmonyMessage) -> None:
        self._message = message
        self.messages.append(message)
        self._writer.close()
        if message.kind == "tool_call":
            self._writer.open_call((message.recipient or "").removeprefix("functions."))

    def _add(self, text: str) -> None:
        assert self._message is not None
        self._message.bits.append(text)
        self._writer.add(self._message.kind, text)

    def _end_message(self) -> None:
        self._message = None
        self._writer.close()


def _message(header: Sequence[Bit], is_started: bool) -> HarmonyMessage:
    """The message that this header opens; words it can't place become the content type."""
    message = HarmonyMessage()
    before: Bit = ""
    for word in _words(header):
        if isinstance(before, Marker) and not isinstance(word, Marker):
            if before == "<|channel|>":
                message.channel = word
            else:
                message.content_type = before + word
        elif word.startswith("to="):
            message.recipient = message.recipient or word.removeprefix("to=")
        elif not isinstance(word, Marker):
            if before or not (is_started or word in _ROLES):
                message.content_type = message.content_type or word
            elif word in _ROLES:
                message.role = word
            else:
                message.role, message.name = "tool", word
        before = word
    return message


def _words(header: Sequence[Bit]) -> list[Bit]:
    words: list[Bit] = []
    text = ""
    for bit in [*header, Marker("")]:
        if isinstance(bit, Marker):
            words += [*text.split(), bit]
            text = ""
        else:
            text += bit
    return words[:-1]


def parse_harmony(tokenizer: Tokenizer, completion: Iterable[int] | str) -> list[HarmonyMessage]:
    """The messages of a whole completion, ids or text."""
    grammar = HarmonyGrammar(PartWriter(random_call_id))
    cutter = MarkerCutter(tokenizer, grammar.markers)
    pieces = [completion] if isinstance(completion, str) else completion
    bits = [bit for piece in pieces for bit in cutter.push(piece)]
    for bit in [*bits, *cutter.finish()]:
        if isinstance(bit, Marker):
            grammar.marker(bit)
        else:
            grammar.text(bit)
    grammar.end()
    return grammar.messages
