r"""What a whole answer may be, as a grammar: reasoning, then text, then calls of the given tools in
the syntax of the model's family.

Forms are those that answer_grammars.py, called_tags.py and harmony_parser.py read back:

    kimi     TEXT <|tool_calls_section_begin|> CALL+ <|tool_calls_section_end|>
    mistral  TEXT [TOOL_CALLS] [CALL, CALL]   or   ([TOOL_CALLS] NAME [ARGS] ARGUMENTS)+
    llama    CALL   or   TEXT that does not begin as one
    tags     TEXT <tool_call> CALL </tool_call> ...
    harmony  messages on the channels analysis and commentary, then final or a call

Special tokens stand in the grammar by their ids, so that no ordinary text can say them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bobot.text.answer_parser import AnswerStyle
from bobot.text.called_tags import CALL_BEGIN, CALL_END
from bobot.text.constraints import Rule, grammar_for, json_schema
from bobot.text.tokenizer import Tokenizer
from bobot.text.tool_schemas import closed

Calls = Literal["none", "allowed", "required"]
_ANY = "/(?s:.+)/"
_NO_CALL = r'& ~/(?s:\s*\{\s*"(name|type|function)"\s*:.*)/ & ~/(?s:.*<function=.*)/'
"""Text of a Llama with tools: nothing that would be read as a call whose arguments nobody saw."""


@dataclass(frozen=True)
class AnswerRules:
    """`text`: what the visible text must look like, None for anything. `tools` as in OpenAI's API;
    `in_text`: the prompt ends within the visible text.
    """

    style: AnswerStyle
    text: Rule | None = None
    tools: Sequence[Mapping[str, Any]] = ()
    calls: Calls = "none"
    is_parallel: bool = True
    in_text: bool = False

    def grammar(self, tokenizer: Tokenizer) -> str:
        """For Constraints.of."""
        return _Writer(self, tokenizer).grammar()


def arguments_rule(tool: Mapping[str, Any]) -> Rule:
    """The arguments of one tool: an object that fits its schema, with no other properties than
    those it names (tool_schemas.py); without a schema there are none. Where the tool is not strict,
    keywords of the schema that can't be enforced are let go, as in OpenAI's API."""
    function = tool["function"]
    schema = {"type": "object", **(function.get("parameters") or {"properties": {}})}
    return json_schema(closed(schema), is_strict=bool(function.get("strict")))


class _Writer:
    """Writes one grammar; every method returns a Lark expression."""

    def __init__(self, rules: AnswerRules, tokenizer: Tokenizer) -> None:
        self.rules = rules
        self.tokenizer = tokenizer
        self.nested: list[Rule] = [] if rules.text is None else [rules.text]
        self.functions: list[tuple[str, str]] = []  # name, rule of its arguments
        for tool in rules.tools if rules.calls != "none" else ():
            self.functions.append((tool["function"]["name"], f"@rule_{len(self.nested)}"))
            self.nested.append(arguments_rule(tool))
        self.terminals = [f"ANY: {_ANY}"]

    def grammar(self) -> str:
        if self.rules.style.family == "harmony":
            start = self._harmony()
        elif self.rules.in_text:
            start = self._answer()
        else:
            start = f"{self._reasoning()} ({self._answer()})"
        return grammar_for(self.nested, "\n".join([f"start: {start}", *self.terminals]))

    def _marker(self, name: str) -> str:
        """A marker of the family: its id if it is a special token, else its letters."""
        token_id = self.tokenizer.special_tokens.get(name)
        return json.dumps(name) if token_id is None else f"<[{token_id}]>"

    def _until(self, marker: str, rule: str) -> str:
        """Any text, then the marker."""
        if marker in self.tokenizer.special_tokens:
            return f"ANY? {self._marker(marker)}"
        self.terminals.append(f"{rule}[lazy]: /(?s:.*)/ {json.dumps(marker)}")
        return rule

    def _reasoning(self) -> str:
        reasoning = self.rules.style.reasoning
        if reasoning is None:
            return ""
        gap = "" if reasoning.keeps_newlines else r" /\n{1,2}/?"
        end = self._until(reasoning.end, "thought") + gap
        return end if reasoning.is_open else f"({self._marker(reasoning.begin)} {end})?"

    def _text(self) -> str:
        return "ANY?" if self.rules.text is None else "@rule_0"

    def _answer(self) -> str:
        """Text or calls, of the families that have no channels."""
        if not self.functions:
            return self._text()
        family, is_required = self.rules.style.family, self.rules.calls == "required"
        if family == "llama":
            return self._llama(is_required)
        if family == "tags":
            return self._tags(is_required)
        calls = self._kimi() if family == "kimi" else self._mistral()
        if is_required:
            return calls
        return f"ANY? ({calls})?" if self.rules.text is None else f"@rule_0 | {calls}"

    def _more(self, call: str, between: str = "") -> str:
        return f"{call} ({between} {call})*" if self.rules.is_parallel else call

    def _either(self, calls: Sequence[str]) -> str:
        return "(" + " | ".join(calls) + ")"

    def _object(self, key: str, more: str = "") -> str:
        """A call as a JSON object, with `more` behind its arguments."""
        heads = (
            json.dumps(f'{{"name": {json.dumps(name)}, "{key}": ') for name, _ in self.functions
        )
        arguments = (rule for _, rule in self.functions)
        pairs = zip(heads, arguments, strict=True)
        return self._either([f'{head} {rule} {more} "}}"' for head, rule in pairs])

    def _kimi(self) -> str:
        begin, middle = self._marker("<|tool_call_begin|>"), "<|tool_call_argument_begin|>"
        call = self._either(
            [
                f"{begin} {json.dumps(f'functions.{name}:')} /[0-9]{{1,3}}/"
                f" {self._marker(middle)} {rule} {self._marker('<|tool_call_end|>')}"
                for name, rule in self.functions
            ]
        )
        first, last = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
        return f"{self._marker(first)} {self._more(call)} {self._marker(last)}"

    def _mistral(self) -> str:
        """The list of the older templates, or the names with [ARGS] where the template has it."""
        begin, template = self._marker("[TOOL_CALLS]"), self.tokenizer.chat_template or ""
        if "[ARGS]" not in template:
            more = r'(", \"id\": \"" /[a-zA-Z0-9]{9}/ "\"")?'
            calls = self._more(self._object("arguments", more), json.dumps(", "))
            return f'{begin} / {{0,2}}/ "[" {calls} "]"'
        middle = self._marker("[ARGS]")
        if "[CALL_ID]" in template:
            middle = f"({self._marker('[CALL_ID]')} /[a-zA-Z0-9]{{9}}/)? {middle}"
        call = self._either(
            [f"{begin} {json.dumps(name)} {middle} {rule}" for name, rule in self.functions]
        )
        return self._more(call)

    def _llama(self, is_required: bool) -> str:
        """One call: the templates take no more."""
        call = f"{self._marker('<|python_tag|>')}? {self._object('parameters')}"
        if is_required:
            return call
        if self.rules.text is not None:
            return f"@rule_0 | {call}"
        self.terminals.append(f"PLAIN: {_ANY} {_NO_CALL}")
        return f"PLAIN? | {call}"

    def _tags(self, is_required: bool) -> str:
        begin = self._marker(CALL_BEGIN)
        body = f"/\\n?/ {self._object('arguments')} /\\n?/ {self._marker(CALL_END)}"
        more = f"(/\\n?/ {begin} {body})*" if self.rules.is_parallel else ""
        if is_required:
            return f"{begin} {body} {more}"
        if self.rules.text is not None:
            return f"@rule_0 | {begin} {body} {more}"
        return f"ANY? | {self._until(CALL_BEGIN, 'lead')} {body} {more}"

    def _harmony(self) -> str:
        """After <|start|>assistant. A call ends the answer: the end tokens include <|call|>."""
        start, channel, message, end, constrain = map(
            self._marker,
            ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|constrain|>"),
        )
        if self.rules.in_text:
            return self._text()
        as_json = f'(" "? {constrain} "json" | " json")?'
        final = f'{channel} "final" {as_json} {message} {self._text()}'
        calls = [
            f"{channel} {json.dumps(f'commentary to=functions.{name}')} {as_json} {message} {rule}"
            for name, rule in self.functions
        ]
        calls += [
            f'{json.dumps(f" to=functions.{name}")} {channel} "commentary" {as_json} {message}'
            f" {rule}"
            for name, rule in self.functions
        ]
        spoken = '("analysis" | "commentary")' if calls else '"analysis"'
        before = f'({channel} {spoken} {message} ANY? {end} {start} "assistant")*'
        last = calls if self.rules.calls == "required" else [final, *calls]
        return f"{before} {self._either(last)}"
