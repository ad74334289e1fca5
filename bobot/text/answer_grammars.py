"""How each family writes an answer: reasoning in front, text, tool calls in its own markers.

Kimi K2     text<|tool_calls_section_begin|><|tool_call_begin|>functions.NAME:0
            <|tool_call_argument_begin|>{...}<|tool_call_end|><|tool_calls_section_end|>
Mistral     [TOOL_CALLS][{"name": "NAME", "arguments": {...}}], later [TOOL_CALLS]NAME[ARGS]{...}
Llama 3     {"name": "NAME", "parameters": {...}}, <|python_tag|>NAME.call(x="...") or code,
            <function=NAME>{...}</function>

gpt-oss has harmony_parser. A grammar gets text and markers (see markers.py) and writes parts; it
never fails: a call that is cut off or no JSON keeps its text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import NamedTuple, Protocol

from bobot.text.json_spans import ValueEnd, members, string_of
from bobot.text.markers import Marker
from bobot.text.parts import PartWriter

_NAME = re.compile(r"[\w.-]{1,128}")
_PYTHON_CALL = re.compile(r"\s*([\w.]+)\.call\((.*)\)\s*", re.DOTALL)
_PYTHON_VALUE = re.compile(r'(\w+)="(.*?)"(?=\s*(?:,\s*\w+=|$))', re.DOTALL)
_MAX_PYTHON_CALL = 10_000  # characters; the pattern is not linear
_CALL_KEYS = {"type", "id", "name", "parameters", "arguments"}


class Grammar(Protocol):
    markers: tuple[str, ...]

    def text(self, text: str) -> None: ...

    def marker(self, marker: Marker) -> None: ...

    def end(self) -> None: ...


class Reasoning(NamedTuple):
    """How reasoning is set off from the answer."""

    begin: str
    end: str
    is_open: bool = False  # the prompt ends with `begin`
    keeps_newlines: bool = False  # else line breaks around it belong to the markers


class TextGrammar:
    """Text, with reasoning in front where the model has markers for it.

    Spelled in ordinary text, the opening marker counts before anything else only.
    """

    markers: tuple[str, ...] = ()

    def __init__(self, writer: PartWriter, reasoning: Reasoning | None = None) -> None:
        self.writer = writer
        self._reasoning = reasoning
        self._is_thinking = reasoning is not None and reasoning.is_open
        # Characters that are left out before more text.
        self._drops = (
            "\n" if reasoning and reasoning.is_open and not reasoning.keeps_newlines else ""
        )
        self._num_newlines = 0  # at the end of the reasoning so far
        self._is_first = True
        if reasoning is not None:
            self.markers = (*type(self).markers, reasoning.begin, reasoning.end)

    def text(self, text: str) -> None:
        if self._drops:
            text = text.lstrip(self._drops)
        if not text:
            return
        self._drops = ""
        if self._is_thinking:
            self._think(text)
        else:
            self._is_first = self._is_first and not text.strip()
            self.writer.add("text", text)

    def marker(self, marker: Marker) -> None:
        reasoning = self._reasoning
        is_known = reasoning is not None and marker in (reasoning.begin, reasoning.end)
        if reasoning is None or not is_known:
            self.text(str(marker))
        elif marker == reasoning.begin and not self._is_thinking:
            if self._is_first or marker.is_special:
                self._set_thinking(True)
            else:
                self.text(str(marker))
        elif marker == reasoning.end and self._is_thinking:
            self._set_thinking(False)
        elif not marker.is_special:
            self.text(str(marker))

    def end(self) -> None:
        self.writer.close()

    def _set_thinking(self, is_thinking: bool) -> None:
        self._is_thinking = is_thinking
        self._is_first = False
        self._num_newlines = 0
        self._drops = "" if self._reasoning and self._reasoning.keeps_newlines else "\n"
        self.writer.close()

    def _think(self, text: str) -> None:
        """Line breaks wait until more reasoning follows them."""
        if self._reasoning and self._reasoning.keeps_newlines:
            self.writer.add("reasoning", text)
            return
        body = text.rstrip("\n")
        if body:
            body = "\n" * self._num_newlines + body
            self._num_newlines = 0
        self._num_newlines += len(text) - len(text.rstrip("\n"))
        self.writer.add("reasoning", body)


class KimiGrammar(TextGrammar):
    """Each call's id is functions.NAME:INDEX; its arguments are passed on as they come."""

    markers: tuple[str, ...] = (
        "<|tool_calls_section_begin|>",
        "<|tool_calls_section_end|>",
        "<|tool_call_begin|>",
        "<|tool_call_argument_begin|>",
        "<|tool_call_end|>",
    )

    def __init__(self, writer: PartWriter, reasoning: Reasoning | None = None) -> None:
        super().__init__(writer, reasoning)
        self._place = "text"
        self._id: list[str] = []

    def text(self, text: str) -> None:
        if self._place == "id":
            self._id.append(text)
        elif self._place == "arguments":
            self.writer.add("tool_call", text)
        elif self._place == "text" or text.strip():
            super().text(text)

    def marker(self, marker: Marker) -> None:
        if marker not in KimiGrammar.markers:
            (super().marker if self._place == "text" else self.text)(marker)
            return
        if self._place == "id":
            self._open()
        if marker == "<|tool_call_argument_begin|>":
            self._place = "arguments"
            return
        self.writer.close()
        self._is_thinking = False
        self._place = {
            "<|tool_calls_section_end|>": "text",
            "<|tool_call_begin|>": "id",
        }.get(marker, "section")

    def end(self) -> None:
        if self._place == "id":
            self._open()
        super().end()

    def _open(self) -> None:
        call_id = "".join(self._id).strip()
        self._id = []
        self.writer.open_call(re.sub(r":\d+$", "", call_id).removeprefix("functions."), call_id)


class MistralGrammar(TextGrammar):
    markers: tuple[str, ...] = ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]")

    def __init__(self, writer: PartWriter, reasoning: Reasoning | None = None) -> None:
        super().__init__(writer, reasoning)
        self._place = "text"
        self._name: list[str] = []
        self._id: list[str] = []
        self._calls = JsonCalls(writer)

    def text(self, text: str) -> None:
        if self._place == "calls" and (text := text if self._name else text.lstrip()):
            if text[0] in "[{" and not self._name:
                self._place = "json"
            else:
                self._name_and_more(text)
                return
        if self._place == "json":
            text = self._calls.push(text)
            if self._calls.is_done and text:
                self._place, self._drops = "text", " \n"
        if self._place == "arguments":
            self.writer.add("tool_call", text)
        elif self._place == "id":
            self._id.append(text)
        elif self._place == "text":
            super().text(text)

    def marker(self, marker: Marker) -> None:
        if marker == "[TOOL_CALLS]":
            self._finish_call()
            self._is_thinking = False
            self._place = "calls"
        elif marker == "[CALL_ID]" and self._place == "calls":
            self._place = "id"
        elif marker == "[ARGS]" and self._place in ("calls", "id"):
            self._open()
        elif self._place == "text" and marker not in MistralGrammar.markers:
            super().marker(marker)
        else:
            self.text(str(marker))

    def end(self) -> None:
        self._finish_call()
        super().end()

    def _name_and_more(self, text: str) -> None:
        """A name up to its arguments, which may follow without a marker."""
        name, brace, arguments = text.partition("{")
        self._name.append(name)
        if brace:
            self._open()
            self.text(brace + arguments)

    def _open(self) -> None:
        name, call_id = "".join(self._name).strip(), "".join(self._id).strip()
        self._name, self._id = [], []
        self._place = "arguments"
        if _NAME.fullmatch(name):
            self.writer.open_call(name, call_id)
        else:
            self.writer.open_call("", call_id)
            self.writer.add("tool_call", name)

    def _finish_call(self) -> None:
        if self._place in ("calls", "id") and self._name:
            self._open()
        if self._place == "json":
            self._calls.end()
        self._calls = JsonCalls(self.writer)
        self.writer.close()


class LlamaGrammar(TextGrammar):
    """Calls in plain text count only where the model was given tools."""

    markers: tuple[str, ...] = ("<|python_tag|>",)
    _TAGS = ("<function=", "</function>")

    def __init__(
        self, writer: PartWriter, reasoning: Reasoning | None = None, *, has_tools: bool = False
    ) -> None:
        super().__init__(writer, reasoning)
        if has_tools:
            self.markers = (*self.markers, *self._TAGS)
        self._place = "start" if has_tools else "text"
        self._held: list[str] = []
        self._calls = JsonCalls(writer, is_sure=False)

    def text(self, text: str) -> None:
        if self._place in ("start", "json"):
            self._maybe_json(text)
        elif self._place == "python":
            self._held.append(text)
        elif self._place == "name":
            self._tag_name(text)
        elif self._place == "arguments":
            self.writer.add("tool_call", text)
        else:
            super().text(text)

    def marker(self, marker: Marker) -> None:
        if marker == "<|python_tag|>" and self._place != "python":
            self.end()
            self._place = "python"
        elif marker == "<function=" and self._place in ("start", "text"):
            self._release()
            self._place = "name"
        elif marker == "</function>" and self._place == "arguments":
            self.writer.close()
            self._place, self._drops = "text", " \n"
        elif self._place == "text":
            super().marker(marker)
        else:
            self.text(str(marker))

    def end(self) -> None:
        if self._place == "json":
            self._plain(self._calls.end())
        elif self._place == "python":
            self._python("".join(self._held))
            self._held = []
        else:
            self._release()
        super().end()

    def _maybe_json(self, text: str) -> None:
        """An answer that begins with a brace is a call unless it turns out not to be."""
        if self._place == "start":
            self._held.append(text)
            if not text.strip():
                return
            text = "".join(self._held).lstrip()
            if text[0] != "{":
                self._release()
                return
            self._held = []
            self._place = "json"
        rest = self._calls.push(text)
        if rest:
            self._plain(rest)

    def _plain(self, text: str) -> None:
        self._place = "text"
        self._drops = " \n" if self._calls.num_calls else ""
        super().text(text)

    def _release(self) -> None:
        """What was held back is text after all."""
        held, self._held = "".join(self._held), []
        if self._place == "name":
            held = f"<function={held}"
        self._place = "text"
        super().text(held)

    def _tag_name(self, text: str) -> None:
        self._held.append(text)
        name, bracket, rest = "".join(self._held).partition(">")
        if bracket and _NAME.fullmatch(name):
            self._held = []
            self.writer.open_call(name)
            self._place = "arguments"
            self.writer.add("tool_call", rest)
        elif bracket or len(name) > 128:
            self._release()

    def _python(self, text: str) -> None:
        """What follows <|python_tag|>: JSON calls, a call of a built-in tool, or code."""
        calls = JsonCalls(self.writer)
        builtin = _PYTHON_CALL.fullmatch(text) if len(text) <= _MAX_PYTHON_CALL else None
        if text.lstrip().startswith("{"):
            calls.push(text.lstrip())
            calls.end()
        elif builtin:
            values = dict(_PYTHON_VALUE.findall(builtin[2]))
            self.writer.call(builtin[1], json.dumps(values, ensure_ascii=False))
        elif text.strip():
            self.writer.call("python", json.dumps({"code": text}, ensure_ascii=False))


class JsonCalls:
    """Calls written as JSON objects, alone, in a list, or one after the other.

    is_sure: they can be nothing else, so that an object of another form is a malformed call.
    """

    def __init__(self, writer: PartWriter, *, is_sure: bool = True) -> None:
        self.writer = writer
        self.is_sure = is_sure
        self.is_done = False
        self.num_calls = 0
        self._is_list = False
        self._object: list[str] = []
        self._end = ValueEnd()

    def push(self, text: str) -> str:
        """The rest of `text` that belongs to no call."""
        while text and not self.is_done:
            if not self._object:
                text = self._between(text)
                continue
            size = self._end.push(text)
            self._object.append(text[:size])
            if size is None:
                return ""
            text = text[size:]
            whole, self._object = "".join(self._object), []
            if not self._call(whole):
                self.is_done = True
                return whole + text
        return text

    def end(self) -> str:
        """Text that is no call; a call that was cut off is written."""
        whole, self._object = "".join(self._object), []
        return "" if not whole or self._call(whole) else whole

    def _between(self, text: str) -> str:
        """Skips to the next object; what follows the last one is done."""
        shown = text.lstrip(" \t\r\n,;" if self.num_calls or self._is_list else " \t\r\n")
        if shown.startswith("[") and self.is_sure and not self._is_list:
            self._is_list = True
            return shown[1:]
        if shown.startswith("]") and self._is_list:
            self.is_done = True
            return shown[1:]
        if shown.startswith("{"):
            self._object, self._end = [""], ValueEnd()
            return shown
        if shown and self.is_sure and self._is_list:
            self._object, self._end = [""], ValueEnd()
            self._end.push("{")  # what is no object runs to the end of the answer
            return shown
        self.is_done = bool(shown)
        return text if shown else ""

    def _call(self, text: str) -> bool:
        """Writes the call that this object is; whether it is one."""
        found = members(text)
        name = string_of(found.get("name", ""))
        arguments = found.get("arguments", found.get("parameters"))
        is_call = name is not None and arguments is not None and set(found) <= _CALL_KEYS
        if not is_call and not self.is_sure:
            return False
        self.num_calls += 1
        if name is None:
            self.writer.call("", text)
            return True
        arguments = "{}" if arguments is None else arguments
        self.writer.call(
            name, string_of(arguments) or arguments, string_of(found.get("id", "")) or ""
        )
        return True


MakeGrammar = Callable[[PartWriter], Grammar]
