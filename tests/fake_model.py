"""A stand-in for LocalModel: words are tokens, the answer is the question with a greeting."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

from bobot.text.parts import Kind, PartDelta


class Piece(str):
    finish_reason: str | None = None


class FakeModel:
    """Takes the calls that the chat makes of LocalModel and notes them in `calls`."""

    def __init__(
        self,
        answer: str = "",
        max_model_len: int = 100,
        template: str | None = "yes",
        name: str = "fake",
        parts: Sequence[tuple[Kind, str]] = (),
        finish_reason: str = "stop",
    ) -> None:
        """parts: (kind, text) of each part of an answer; of a call, "NAME ARGUMENTS"."""
        self.name = name
        self.fixed_answer = answer
        self.parts = parts
        self.finish_reason = finish_reason
        self.max_model_len = max_model_len
        self.num_parameters = 1_500_000
        self.last_stats: Any = None
        self.calls: list[dict[str, Any]] = []
        self.closed = 0
        self.default_sampling = {"temperature": 0.7}
        self.tokenizer = SimpleNamespace(
            chat_template=template,
            encode_chat=lambda messages, **options: self._encode_chat(messages),
            takes=lambda variable: variable == "reasoning_effort" and bool(parts),
        )

    def _encode_chat(self, messages: list[dict[str, str]]) -> list[int]:
        return [0 for message in messages for _ in message["content"].split()]

    def encode(self, text: str) -> list[int]:
        return [0 for _ in text.split()]

    def answer(
        self, messages: Any, stream: bool = False, **sampling: Any
    ) -> Generator[PartDelta, None, None]:
        self.calls.append({"messages": messages, **sampling})
        answer = self.fixed_answer or f"You said: {messages[-1]['content']}"
        parts = self.parts or [("text", answer)]
        texts = [text for _, text in parts]
        kinds = [number for number, text in enumerate(texts) for _ in text.split(" ")]
        pieces = self._stream(" ".join(texts), len(self._encode_chat(messages)), sampling)
        return self._deltas(parts, kinds, pieces)

    def _deltas(
        self, parts: Any, kinds: list[int], pieces: Iterator[Piece]
    ) -> Generator[PartDelta, None, None]:
        """Each piece as a delta of the part in which its word stands."""
        before, follows_name = -1, False
        try:
            for number, piece in zip(kinds, pieces, strict=False):
                kind, is_first = parts[number][0], number != before
                text = piece.lstrip(" ") if is_first and before >= 0 else str(piece)
                name = text if is_first and kind == "tool_call" else ""
                text = text.lstrip(" ") if follows_name else text
                follows_name = bool(name)
                yield PartDelta(
                    part=number,
                    kind=kind,
                    text="" if name else text,
                    name=name,
                    num_tokens=1,
                    finish_reason=piece.finish_reason,
                )
                before = number
        finally:
            pieces.close()  # type: ignore[attr-defined]

    def generate(self, prompt: str, **sampling: Any) -> Iterator[Piece]:
        self.calls.append({"prompt": prompt, **sampling})
        return self._stream(self.fixed_answer or " and so on.", len(prompt.split()), sampling)

    def _stream(self, answer: str, num_prompt: int, sampling: dict[str, Any]) -> Iterator[Piece]:
        words = answer.split(" ")
        limit = sampling.get("max_tokens") or len(words)
        count, reason = 0, None
        try:
            for index, word in enumerate(words[:limit]):
                count += 1
                piece = Piece(word if index == 0 else f" {word}")
                if index + 1 == len(words[:limit]):
                    reason = piece.finish_reason = (
                        self.finish_reason if limit >= len(words) else "length"
                    )
                yield piece
        finally:
            self.closed += 1
            self.last_stats = SimpleNamespace(
                num_prompt_tokens=num_prompt,
                num_completion_tokens=count,
                num_cached_tokens=0,
                time_to_first_token_s=0.25,
                decode_s=1.0,
                finish_reason=reason,
                tokens_per_s=12.5,
            )
