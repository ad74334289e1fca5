"""One whole answer of a model: its parts, why it ended, and the message it becomes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bobot.text.parts import Part, PartDelta, as_message, joined, parts_of


@dataclass(frozen=True)
class Answer:
    parts: tuple[Part, ...]
    finish_reason: str | None
    """stop, length or tool_calls; None when the answer was not read to its end."""
    message: dict[str, Any]
    """For the next prompt of the same model: role, content, reasoning_content, tool_calls."""

    @classmethod
    def of(cls, deltas: Iterable[PartDelta], *, arguments_as_text: bool = True) -> Answer:
        """The answer that these deltas add up to; see Tokenizer.takes_argument_text."""
        deltas = list(deltas)
        parts = tuple(parts_of(deltas))
        finish_reason = next((d.finish_reason for d in reversed(deltas) if d.finish_reason), None)
        return cls(parts, finish_reason, as_message(parts, arguments_as_text=arguments_as_text))

    @property
    def text(self) -> str:
        """What the user reads: no reasoning, no calls."""
        return joined(self.parts, "text")

    @property
    def reasoning(self) -> str:
        return joined(self.parts, "reasoning")

    @property
    def tool_calls(self) -> tuple[Part, ...]:
        """Each with id, name and arguments; some may be malformed."""
        return tuple(part for part in self.parts if part.kind == "tool_call")
