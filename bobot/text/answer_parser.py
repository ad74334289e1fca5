"""Answers as structured parts: reasoning, text and tool calls, while the tokens are still coming.

    parser = answer_parser(tokenizer, tools=tools, prompt_ids=ids)
    for token_id in completion:
        for delta in parser.push(token_id): ...
    deltas = parser.finish()

Which family's markers count is read off the tokenizer's special tokens and its chat template,
never off a model's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from bobot.text.answer_grammars import (
    Grammar,
    KimiGrammar,
    LlamaGrammar,
    MakeGrammar,
    MistralGrammar,
    Reasoning,
    TextGrammar,
)
from bobot.text.called_tags import CALL_BEGIN, TagGrammar
from bobot.text.harmony import HarmonyFormat
from bobot.text.harmony_parser import HarmonyGrammar
from bobot.text.markers import Bit, Marker, MarkerCutter
from bobot.text.parts import PartDelta, PartWriter, random_call_id
from bobot.text.tokenizer import Tokenizer

_THINKING = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))
_SLICE = 4096  # characters taken at once: grammars copy what is left of a bit
_TAIL = 16  # ids at the end of a prompt in which it may open the reasoning


Family = Literal["harmony", "kimi", "mistral", "llama", "tags", "text"]
_GRAMMARS: dict[Family, Callable[..., Grammar]] = {
    "kimi": KimiGrammar,
    "mistral": MistralGrammar,
    "tags": TagGrammar,
    "text": TextGrammar,
}


@dataclass(frozen=True)
class AnswerStyle:
    """How answers to one prompt are written."""

    family: Family
    reasoning: Reasoning | None = None
    """None in harmony, whose channels set reasoning off."""


class AnswerParser:
    """Ids, or text, of one answer in; deltas of its parts out."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        make_grammar: MakeGrammar,
        new_call_id: Callable[[], str] = random_call_id,
        *,
        opens_text: bool = True,
    ) -> None:
        self._writer = PartWriter(new_call_id)
        self.grammar: Grammar = make_grammar(self._writer)
        self._cutter = MarkerCutter(tokenizer, self.grammar.markers, opens_text=opens_text)

    def push(self, piece: int | str) -> list[PartDelta]:
        """What is certain with this id, or this bit of text."""
        if isinstance(piece, int):
            return self._taken(self._cutter.push(piece))
        slices = (piece[at : at + _SLICE] for at in range(0, len(piece), _SLICE))
        return [delta for bit in slices for delta in self._taken(self._cutter.push(bit))]

    def finish(self) -> list[PartDelta]:
        """What was held back, at the end of the answer."""
        deltas = self._taken(self._cutter.finish())
        self.grammar.end()
        return deltas + self._writer.drain()

    def _taken(self, bits: Iterable[Bit]) -> list[PartDelta]:
        for bit in bits:
            if isinstance(bit, Marker):
                self.grammar.marker(bit)
            else:
                self.grammar.text(bit)
        return self._writer.drain()


def answer_parser(
    tokenizer: Tokenizer,
    *,
    tools: Sequence | None = None,
    prompt_ids: Sequence[int] = (),
    new_call_id: Callable[[], str] = random_call_id,
    style: AnswerStyle | None = None,
    opens_text: bool = True,
) -> AnswerParser:
    """The parser for answers to this prompt, or of this style. new_call_id names calls that the
    model does not. Not `opens_text`: the answer goes on with a text, and keeps its first space."""
    style = style or answer_style(tokenizer, tools=tools, prompt_ids=prompt_ids)
    if style.family == "harmony":
        return AnswerParser(tokenizer, HarmonyGrammar, new_call_id, opens_text=opens_text)
    if style.family == "llama":
        grammar = partial(LlamaGrammar, has_tools=bool(tools))
    else:
        grammar = _GRAMMARS[style.family]
    make = partial(grammar, reasoning=style.reasoning)
    return AnswerParser(tokenizer, make, new_call_id, opens_text=opens_text)


def answer_style(
    tokenizer: Tokenizer,
    *,
    tools: Sequence | None = None,
    prompt_ids: Sequence[int] = (),
    has_told_tools: bool = False,
) -> AnswerStyle:
    """How answers to this prompt are written.

    Where a chat template has no form for calls they stand in tags; so they do where the tools
    were told in the conversation, for a template that knows none (called_tags.py).
    """
    template = tokenizer.chat_template or ""
    if template == HarmonyFormat.source:
        return AnswerStyle("harmony")

    def writes(marker: str) -> bool:
        return marker in tokenizer.special_tokens or marker in template

    family: Family = "text"
    if has_told_tools:
        family = "tags"
    elif writes("<|tool_calls_section_begin|>"):
        family = "kimi"
    elif writes("[TOOL_CALLS]"):
        family = "mistral"
    elif writes("<|python_tag|>"):
        family = "llama"
    elif tools or writes(CALL_BEGIN):
        family = "tags"
    pair = next((pair for pair in _THINKING if any(map(writes, pair))), None)
    reasoning = None
    if pair is not None:
        reasoning = Reasoning(
            *pair,
            is_open=_ends_with(tokenizer, prompt_ids[-_TAIL:], pair[0]),
            keeps_newlines=family == "kimi",
        )
    return AnswerStyle(family, reasoning)


def _ends_with(tokenizer: Tokenizer, ids: Sequence[int], marker: str) -> bool:
    """Whether the prompt ends with `marker`, white space aside."""
    marker_id = tokenizer.special_tokens.get(marker)
    if marker_id is None:
        return tokenizer.decode(ids).rstrip().endswith(marker)
    after = list(reversed(ids))
    if marker_id not in after:
        return False
    return not tokenizer.decode(reversed(after[: after.index(marker_id)])).strip()
