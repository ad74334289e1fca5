"""From the tokens of one answer to its deltas: parsing, stop strings, why it ended."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from bobot.chat.stop_strings import StopStrings
from bobot.engine import TokenOutput
from bobot.text import Detokenizer
from bobot.text.parts import PartDelta


class Parser(Protocol):
    """AnswerParser, or PlainText."""

    def push(self, piece: int, /) -> list[PartDelta]: ...

    def finish(self) -> list[PartDelta]: ...


class PlainText:
    """Every token is text, as in a prompt that is merely continued. Without a detokenizer the
    tokens have no text."""

    def __init__(self, detokenizer: Detokenizer | None) -> None:
        self._detokenizer = detokenizer

    def push(self, piece: int) -> list[PartDelta]:
        return self._delta(self._detokenizer.push(piece) if self._detokenizer else "")

    def finish(self) -> list[PartDelta]:
        return self._delta(self._detokenizer.finish() if self._detokenizer else "")

    def _delta(self, text: str) -> list[PartDelta]:
        return [PartDelta(part=0, kind="text", text=text)] if text else []


@dataclass(frozen=True)
class Step:
    """What one token brought; the last delta of an answer has its finish_reason."""

    output: TokenOutput
    deltas: list[PartDelta]
    text: str
    """The visible text: that of text parts, blank lines between them."""
    finish_reason: str | None


class TokenReader:
    """Reads one answer. Stop strings count in its text, not in reasoning or calls."""

    def __init__(self, parser: Parser, stop: StopStrings) -> None:
        self.is_finished = False
        self._parser = parser
        self._stop = stop
        self._last = PartDelta(part=0, kind="text")
        self._last_text: int | None = None  # the text part that was shown last
        self._has_calls = False
        self._num_tokens = 0

    @property
    def stop(self) -> str | None:
        """The stop string that ended the answer."""
        return self._stop.hit

    def push(self, output: TokenOutput) -> Step:
        finish_reason: str | None = output.finish_reason
        self._num_tokens += 1
        deltas = []
        if output.token_id is not None and finish_reason != "stop":
            deltas = self._parser.push(output.token_id)
        if finish_reason is not None:
            deltas = deltas + self._parser.finish()
        deltas = self._up_to_stop(deltas, is_last=finish_reason is not None)
        if self._stop.is_hit:
            finish_reason = "stop"
        if finish_reason == "stop" and self._has_calls:
            finish_reason = "tool_calls"
        self.is_finished = finish_reason is not None
        if self.is_finished:
            end = deltas.pop() if deltas else replace(self._last, text="", id="", name="")
            deltas.append(replace(end, finish_reason=finish_reason))
        if deltas:
            deltas[0] = replace(deltas[0], num_tokens=self._num_tokens)
            self._num_tokens = 0
        return Step(output, deltas, "".join(map(self._shown, deltas)), finish_reason)

    def _up_to_stop(self, deltas: list[PartDelta], *, is_last: bool) -> list[PartDelta]:
        """`deltas` without the stop string and what follows it."""
        kept: list[PartDelta] = []
        for delta in deltas:
            if delta.part != self._last.part:
                kept += self._released()
            if self._stop.is_hit:
                break
            self._last = delta
            self._has_calls = self._has_calls or delta.kind == "tool_call"
            text = self._stop.push(delta.text) if delta.kind == "text" else delta.text
            if text or delta.kind == "tool_call":
                kept.append(replace(delta, text=text))
        return kept + self._released() if is_last else kept

    def _released(self) -> list[PartDelta]:
        """What was held back for a stop string that did not come."""
        held = self._stop.finish()
        return [replace(self._last, text=held)] if held else []

    def _shown(self, delta: PartDelta) -> str:
        if delta.kind != "text" or not delta.text:
            return ""
        is_next = self._last_text not in (None, delta.part)
        self._last_text = delta.part
        return f"\n\n{delta.text}" if is_next else delta.text
