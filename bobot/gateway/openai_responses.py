"""OpenAI's responses API, for its models that answer nowhere else. Source: OpenAI's API reference.

Nothing is stored at the host: every call carries the whole conversation and `store` false.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bobot.chat.protocol import ChatRequest, Event, Format, Usage
from bobot.gateway.hosts import Host
from bobot.gateway.wire import AnswerReader, Call, Reason, asked, check_chat, renamed, unsupported

_NAMES = {"max_tokens": "max_output_tokens", "temperature": "temperature", "top_p": "top_p"}
_INCOMPLETE: dict[str, Reason] = {
    "max_output_tokens": "length",
    "content_filter": "content_filter",
}


def chat_call(host: Host, model: str, request: ChatRequest) -> Call:
    check_chat(host, request)
    if request.stop:
        raise unsupported("stop", host)
    body: dict[str, Any] = {
        "model": model,
        "input": [item for message in request.messages for item in _items(message)],
        "store": False,
        **renamed(asked(request.sampling), _NAMES, host),
    }
    if host.streams:
        body["stream"] = True
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
        body["parallel_tool_calls"] = request.parallel_tool_calls
        kind, _, name = request.tool_choice.partition(":")
        body["tool_choice"] = {"type": "function", "name": name} if name else kind
    if request.reasoning_effort is not None:
        body["reasoning"] = {"effort": request.reasoning_effort, "summary": "auto"}
    if request.format.kind != "text":
        body["text"] = {"format": _format(request.format)}
    return Call("/responses", body)


def _items(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    content = message.get("content") or ""
    if message["role"] == "tool":
        yield {
            "type": "function_call_output",
            "call_id": message.get("tool_call_id"),
            "output": content,
        }
        return
    if content:
        yield {"role": message["role"], "content": content}
    for call in message.get("tool_calls") or ():
        yield {"type": "function_call", "call_id": call.get("id"), **call["function"]}


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = tool["function"]
    # strict is true where it is left out, and then refuses most schemas
    return {"type": "function", "strict": False, "parameters": {}, **function}


def _format(wanted: Format) -> dict[str, Any]:
    if wanted.kind == "json_object":
        return {"type": "json_object"}
    return {"type": "json_schema", "name": "answer", "schema": wanted.schema, "strict": True}


class Reader(AnswerReader):
    """The events of a response, or the whole response."""

    def read(self, data: dict[str, Any]) -> Iterator[Event]:
        kind = data.get("type")
        if data.get("object") == "response":
            yield from self._whole(data)
        elif kind == "response.created":
            self.start(self.table(data, "response").get("model"))
        elif kind in ("response.output_text.delta", "response.refusal.delta"):
            yield from self.text("text", data.get("delta"))
        elif kind in ("response.reasoning_summary_text.delta", "response.reasoning_text.delta"):
            yield from self.text("reasoning", data.get("delta"))
        elif kind == "response.output_item.added":
            item = self.table(data, "item")
            if item.get("type") == "function_call":
                key = data.get("output_index")
                yield from self.call(key, item.get("call_id"), item.get("name"), None)
        elif kind == "response.function_call_arguments.delta":
            yield from self.call(data.get("output_index"), None, None, data.get("delta"))
        elif kind in ("response.completed", "response.incomplete"):
            yield from self._end(self.table(data, "response"))

    def _whole(self, response: dict[str, Any]) -> Iterator[Event]:
        self.start(response.get("model"))
        for number, item in enumerate(self.items(response, "output")):
            if item.get("type") == "reasoning":
                for part in self.items(item, "summary"):
                    yield from self.text("reasoning", part.get("text"))
            elif item.get("type") == "function_call":
                name, arguments = item.get("name"), item.get("arguments")
                yield from self.call(number, item.get("call_id"), name, arguments)
            elif item.get("type") == "message":
                for part in self.items(item, "content"):
                    yield from self.text("text", part.get("text") or part.get("refusal"))
        yield from self._end(response)

    def _end(self, response: dict[str, Any]) -> Iterator[Event]:
        usage = self.table(response, "usage")
        if usage:
            self.usage = Usage(
                prompt_tokens=self.count(usage, "input_tokens") or 0,
                completion_tokens=self.count(usage, "output_tokens") or 0,
                cached_tokens=self.count(
                    self.table(usage, "input_tokens_details"), "cached_tokens"
                ),
                reasoning_tokens=self.count(
                    self.table(usage, "output_tokens_details"), "reasoning_tokens"
                ),
            )
        if response.get("status") == "completed":
            yield from self.finish("stop")
        else:
            reason = self.table(response, "incomplete_details").get("reason")
            reason = reason or response.get("status")
            yield from self.finish(self.reason(_INCOMPLETE, reason))
        self.is_complete = True
