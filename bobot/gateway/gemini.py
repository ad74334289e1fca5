"""Google's Gemini API: generateContent and streamGenerateContent. Source: its reference,
version v1beta.

A call of a tool comes whole, never in pieces. The key goes in a header, not in the address.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from bobot.chat.protocol import ChatRequest, Event, Usage
from bobot.gateway.anthropic_messages import arguments_of
from bobot.gateway.hosts import Host
from bobot.gateway.wire import AnswerReader, Call, Reason, asked, check_chat, renamed, unsupported

_NAMES = {
    "max_tokens": "maxOutputTokens",
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "seed": "seed",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
}
_FINISH: dict[str, Reason] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    **dict.fromkeys(
        (
            *("SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII"),
            *("IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "MODEL_ARMOR"),
        ),
        "content_filter",
    ),
}
_MODES = {"auto": "AUTO", "none": "NONE", "required": "ANY", "function": "ANY"}
# Gemini 3 wants back the signature that it gave each call; this word stands for calls whose
# signature is not known (its documentation of thought signatures).
_WANTS_SIGNATURE = re.compile(r"gemini-([3-9]|\d\d)")
_NO_SIGNATURE = "skip_thought_signature_validator"


def chat_call(host: Host, model: str, request: ChatRequest) -> Call:
    check_chat(host, request)
    if request.tools and not request.parallel_tool_calls:
        raise unsupported("parallel_tool_calls", host)
    config = renamed(asked(request.sampling), _NAMES, host)
    if request.stop:
        config["stopSequences"] = list(request.stop)
    if request.format.kind != "text":
        config["responseMimeType"] = "application/json"
    if request.format.kind == "json_schema":
        config["responseJsonSchema"] = request.format.schema
    thinking: dict[str, Any] = {"includeThoughts": True}
    if request.reasoning_effort is not None:
        thinking["thinkingLevel"] = request.reasoning_effort.upper()
    config["thinkingConfig"] = thinking
    body: dict[str, Any] = {
        "contents": _contents(request.messages, model),
        "generationConfig": config,
    }
    system = [message["content"] for message in request.messages if message["role"] == "system"]
    if system:
        body["systemInstruction"] = {"parts": [{"text": text} for text in system]}
    if request.tools:
        body["tools"] = [{"functionDeclarations": [_tool(tool) for tool in request.tools]}]
        body["toolConfig"] = {"functionCallingConfig": _mode(request.tool_choice)}
    verb = "streamGenerateContent?alt=sse" if host.streams else "generateContent"
    return Call(f"/models/{quote(model, safe='')}:{verb}", body, "x-goog-api-key", "")


def _contents(messages: tuple[Mapping[str, Any], ...], model: str) -> list[dict[str, Any]]:
    """Turns of parts; the result of a tool is a user's part that names the function."""
    names: dict[Any, str] = {}
    turns: list[dict[str, Any]] = []
    for message in messages:
        if message["role"] == "system":
            continue
        for call in message.get("tool_calls") or ():
            names[call.get("id")] = call["function"]["name"]
        role = "model" if message["role"] == "assistant" else "user"
        parts = _parts(message, names, model)
        if turns and turns[-1]["role"] == role:
            turns[-1]["parts"] += parts
        else:
            turns.append({"role": role, "parts": parts})
    return turns


def _parts(message: Mapping[str, Any], names: Mapping[Any, str], model: str) -> list[dict]:
    text = message.get("content") or ""
    if message["role"] == "tool":
        name = message.get("name") or names.get(message.get("tool_call_id"), "")
        return [{"functionResponse": {"name": name, "response": _response(text)}}]
    parts: list[dict[str, Any]] = [{"text": text}] if text else []
    for call in message.get("tool_calls") or ():
        function = call["function"]
        part: dict[str, Any] = {
            "functionCall": {
                "name": function["name"],
                "args": arguments_of(function["arguments"]),
            }
        }
        if _WANTS_SIGNATURE.match(model):
            part["thoughtSignature"] = _NO_SIGNATURE
        parts.append(part)
    return parts


def _response(text: str) -> dict[str, Any]:
    """The API wants an object: the result itself if it is one."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return {"result": text}
    return values if isinstance(values, dict) else {"result": text}


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = tool["function"]
    found = {"name": function["name"], "description": function.get("description") or ""}
    if function.get("parameters"):
        found["parametersJsonSchema"] = function["parameters"]
    return found


def _mode(choice: str) -> dict[str, Any]:
    kind, _, name = choice.partition(":")
    return {"mode": _MODES[kind]} | ({"allowedFunctionNames": [name]} if name else {})


class Reader(AnswerReader):
    """The responses of streamGenerateContent, or the one of generateContent."""

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self._num_calls = 0

    def read(self, data: dict[str, Any]) -> Iterator[Event]:
        self.start(data.get("modelVersion"))
        for candidate in self.items(data, "candidates")[:1]:
            for part in self.items(self.table(candidate, "content"), "parts"):
                yield from self._part(part)
            reason = candidate.get("finishReason")
            if reason is not None:
                yield from self.finish(self.reason(_FINISH, reason))
        if usage := self.table(data, "usageMetadata"):
            self.usage = self._usage(usage)
        if self.table(data, "promptFeedback").get("blockReason"):
            yield from self.finish("content_filter")

    def _part(self, part: dict[str, Any]) -> Iterator[Event]:
        if "functionCall" in part:
            call = self.table(part, "functionCall")
            arguments = json.dumps(self.table(call, "args"), ensure_ascii=False)
            self._num_calls += 1
            yield from self.call(self._num_calls, call.get("id"), call.get("name"), arguments)
        elif "text" in part:
            yield from self.text("reasoning" if part.get("thought") else "text", part["text"])

    def _usage(self, usage: dict[str, Any]) -> Usage:
        """Thoughts are billed as output, and stand beside the candidates' tokens."""
        reasoning = self.count(usage, "thoughtsTokenCount")
        return Usage(
            prompt_tokens=self.count(usage, "promptTokenCount") or 0,
            completion_tokens=(self.count(usage, "candidatesTokenCount") or 0) + (reasoning or 0),
            cached_tokens=self.count(usage, "cachedContentTokenCount"),
            reasoning_tokens=reasoning,
        )
