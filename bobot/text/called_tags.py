"""Tool calls in tags, for models whose chat template has no form of its own for them.

    <tool_call>
    {"name": "get_weather", "arguments": {"city": "Jakarta"}}
    </tool_call>

The form of Nous Research's Hermes models, which many templates have taken over. A template that
knows no tools at all gets them told in the system message, calls and results of the past as text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bobot.text.answer_grammars import JsonCalls, TextGrammar
from bobot.text.markers import Marker
from bobot.text.parts import PartWriter

CALL_BEGIN, CALL_END = "<tool_call>", "</tool_call>"
RESULT_BEGIN, RESULT_END = "<tool_response>", "</tool_response>"


class TagGrammar(TextGrammar):
    """Reads an answer with calls in tags; see answer_grammars.Grammar."""

    markers: tuple[str, ...] = (CALL_BEGIN, CALL_END)

    def __init__(self, writer: PartWriter, reasoning: Any = None) -> None:
        super().__init__(writer, reasoning)
        self._call: JsonCalls | None = None

    def text(self, text: str) -> None:
        if self._call is not None:
            self._call.push(text)
        else:
            super().text(text)

    def marker(self, marker: Marker) -> None:
        if marker not in TagGrammar.markers:
            (super().marker if self._call is None else self.text)(marker)
        elif marker == CALL_BEGIN and self._call is None and not self._is_thinking:
            self.writer.close()
            self._call = JsonCalls(self.writer)
        elif marker == CALL_END and self._call is not None:
            self._end_call()
            self._drops = " \n"
        else:
            self.text(str(marker))

    def end(self) -> None:
        self._end_call()
        super().end()

    def _end_call(self) -> None:
        if self._call is not None:
            self._call.end()
            self.writer.close()
        self._call = None


def told(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping]) -> list[dict[str, Any]]:
    """The conversation for a template that knows no tools: they stand in the system message, past
    calls in the text of the assistant, their results in messages of the user.
    """
    shown = [_shown(message) for message in messages]
    if not tools:
        return shown
    lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    text = (
        "You can call these functions, one JSON object in each line:\n"
        f"{lines}\n"
        f"To call one, answer with\n{CALL_BEGIN}\n"
        '{"name": "the name", "arguments": {"the argument": "its value"}}\n'
        f"{CALL_END}\nThe result follows in {RESULT_BEGIN}{RESULT_END}."
    )
    if shown and shown[0]["role"] in ("system", "developer"):
        shown[0] = {**shown[0], "content": f"{shown[0].get('content') or ''}\n\n{text}".strip()}
        return shown
    return [{"role": "system", "content": text}, *shown]


def _shown(message: Mapping[str, Any]) -> dict[str, Any]:
    if message["role"] == "tool":
        content = f"{RESULT_BEGIN}\n{message.get('content') or ''}\n{RESULT_END}"
        return {"role": "user", "content": content}
    calls = message.get("tool_calls")
    if not calls:
        return dict(message)
    shown = {key: value for key, value in message.items() if key != "tool_calls"}
    parts = [shown.get("content") or "", *_written(calls)]
    return {**shown, "content": "\n".join(part for part in parts if part)}


def _written(calls: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    for call in calls:
        function = call.get("function", call)
        arguments = function["arguments"]
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        name = json.dumps(function["name"], ensure_ascii=False)
        yield f'{CALL_BEGIN}\n{{"name": {name}, "arguments": {arguments}}}\n{CALL_END}'
