"""Anthropic's messages API. Source: its API reference and its guide to version 2026-10-21.

`input_tokens` leaves out what was read from or written to the cache; Usage counts everything.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from bobot.chat.protocol import ChatRequest, Event, ParameterError, Usage
from bobot.gateway.hosts import Host
from bobot.gateway.wire import AnswerReader, Call, Reason, asked, check_chat, renamed, unsupported

VERSION = "2026-10-21"
VERSION_WITH_SAMPLING = "2023-06-01"
"""The last one that knows temperature, top_p and top_k; sent where one of them is asked for."""
MAX_OUTPUT = 8192
"""Tokens asked for where neither the user nor hosts.toml says how many: the API wants a number."""
_NAMES = {name: name for name in ("max_tokens", "temperature", "top_p", "top_k")}
_FINISH: dict[str, Reason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


def chat_call(host: Host, model: str, request: ChatRequest) -> Call:
    check_chat(host, request, continues=True)
    if request.format.kind == "json_object":
        raise unsupported("response_format", host)
    system, messages = _conversation(request.messages, host)
    sampling = renamed(asked(request.sampling), _NAMES, host)
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": host.facts(model).max_output or MAX_OUTPUT,
        "messages": messages,
        **sampling,
    }
    if host.streams:
        body["stream"] = True
    if system:
        body["system"] = system
    if request.stop:
        body["stop_sequences"] = list(request.stop)
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
        body["tool_choice"] = _tool_choice(request)
    output: dict[str, Any] = {}
    if request.reasoning_effort is not None:
        output["effort"] = request.reasoning_effort
        body["thinking"] = {"type": "adaptive", "display": "summarized"}
    if request.format.kind == "json_schema":
        output["format"] = {"type": "json_schema", "schema": request.format.schema}
    if output:
        body["output_config"] = output
    version = VERSION_WITH_SAMPLING if set(sampling) - {"max_tokens"} else VERSION
    return Call("/v1/messages", body, "x-api-key", "", {"anthropic-version": version})


def _conversation(
    messages: tuple[Mapping[str, Any], ...], host: Host
) -> tuple[str, list[dict[str, Any]]]:
    """The system prompt, and turns of content blocks; results of tools are a user's blocks."""
    system: list[str] = []
    turns: list[dict[str, Any]] = []
    for index, message in enumerate(messages):
        role = message["role"]
        if role == "system":
            if turns:
                raise ParameterError(
                    "{host} takes system messages only before the first turn.",
                    param=f"messages[{index}].role",
                    host=host.name,
                )
            system.append(message["content"])
            continue
        turn = "user" if role == "tool" else role
        blocks = _blocks(message)
        if turns and turns[-1]["role"] == turn:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": turn, "content": blocks})
    return "\n\n".join(system), turns


def _blocks(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    text = message.get("content") or ""
    if message["role"] == "tool":
        return [
            {"type": "tool_result", "tool_use_id": message.get("tool_call_id"), "content": text}
        ]
    blocks: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
    for call in message.get("tool_calls") or ():
        function = call["function"]
        blocks.append(
            {
                "type": "tool_use",
                "id": call.get("id"),
                "name": function["name"],
                "input": arguments_of(function["arguments"]),
            }
        )
    return blocks


def arguments_of(arguments: Any) -> Any:
    """The arguments of a call in an earlier answer as an object."""
    if not isinstance(arguments, str):
        return arguments
    try:
        values = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise ParameterError(
            "the arguments of a tool call in the conversation are no JSON object.",
            param="messages",
        )
    return values


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = tool["function"]
    found = {
        "name": function["name"],
        "input_schema": function.get("parameters") or {"type": "object", "properties": {}},
    }
    return found | ({"description": function["description"]} if function.get("description") else {})


def _tool_choice(request: ChatRequest) -> dict[str, Any]:
    kind, _, name = request.tool_choice.partition(":")
    choice: dict[str, Any]
    if kind == "function":
        choice = {"type": "tool", "name": name}
    else:
        choice = {"type": {"auto": "auto", "none": "none", "required": "any"}[kind]}
    if not request.parallel_tool_calls and kind != "none":
        choice["disable_parallel_tool_use"] = True
    return choice


class Reader(AnswerReader):
    """The events of a message, or the whole message."""

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self._counts: dict[str, Any] = {}

    def read(self, data: dict[str, Any]) -> Iterator[Event]:
        kind = data.get("type")
        if kind == "message":
            yield from self._whole(data)
        elif kind == "message_start":
            message = self.table(data, "message")
            self.start(message.get("model"))
            self._count(self.table(message, "usage"))
        elif kind == "content_block_start":
            yield from self._block(data.get("index"), self.table(data, "content_block"))
        elif kind == "content_block_delta":
            yield from self._delta(data.get("index"), self.table(data, "delta"))
        elif kind == "message_delta":
            self._count(self.table(data, "usage"))
            yield from self._end(self.table(data, "delta"))
        elif kind == "message_stop":
            self.is_complete = True

    def _whole(self, message: dict[str, Any]) -> Iterator[Event]:
        self.start(message.get("model"))
        for index, block in enumerate(self.items(message, "content")):
            yield from self._block(index, block)
        self._count(self.table(message, "usage"))
        yield from self._end(message)
        self.is_complete = True

    def _block(self, key: Any, block: dict[str, Any]) -> Iterator[Event]:
        kind = block.get("type")
        if kind == "text":
            yield from self.text("text", block.get("text", ""))
        elif kind == "thinking":
            yield from self.text("reasoning", block.get("thinking", ""))
        elif kind == "tool_use":
            values = block.get("input")
            arguments = json.dumps(values, ensure_ascii=False) if values else ""
            yield from self.call(key, block.get("id"), block.get("name"), arguments)
        elif kind != "redacted_thinking":
            raise self.wrong(f"content_block {str(kind)[:40]}")

    def _delta(self, key: Any, delta: dict[str, Any]) -> Iterator[Event]:
        kind = delta.get("type")
        if kind == "text_delta":
            yield from self.text("text", delta.get("text"))
        elif kind == "thinking_delta":
            yield from self.text("reasoning", delta.get("thinking"))
        elif kind == "input_json_delta":
            yield from self.call(key, None, None, delta.get("partial_json"))

    def _end(self, delta: dict[str, Any]) -> Iterator[Event]:
        reason = delta.get("stop_reason")
        if reason is None:
            return
        stop = delta.get("stop_sequence")
        yield from self.finish(
            self.reason(_FINISH, reason), stop=stop if isinstance(stop, str) else None
        )

    def _count(self, usage: dict[str, Any]) -> None:
        """Later numbers replace earlier ones: those of message_delta are totals."""
        self._counts.update({name: n for name, n in usage.items() if n is not None})
        cached = self.count(self._counts, "cache_read_input_tokens")
        written = self.count(self._counts, "cache_creation_input_tokens") or 0
        details = self.table(self._counts, "output_tokens_details")
        self.usage = Usage(
            prompt_tokens=(self.count(self._counts, "input_tokens") or 0) + (cached or 0) + written,
            completion_tokens=self.count(self._counts, "output_tokens") or 0,
            cached_tokens=cached,
            reasoning_tokens=self.count(details, "thinking_tokens"),
        )
