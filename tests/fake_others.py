"""The wire formats of Anthropic and of Gemini as a fake host speaks them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar

from fake_events import KEY, bits, event, unknown

if TYPE_CHECKING:
    from fake_hosts import FakeHost


class Anthropic:
    known: ClassVar[set[str]] = {
        *("model", "messages", "max_tokens", "system", "stop_sequences", "stream", "temperature"),
        *("top_k", "top_p", "tools", "tool_choice", "thinking", "output_config", "metadata"),
    }

    @classmethod
    def problem(cls, path: str, headers: Any, body: Any) -> tuple[int, str, str] | None:
        if KEY not in (headers.get("x-api-key"), headers.get("authorization", "")[7:]):
            return 401, "authentication_error", "invalid x-api-key"
        if "anthropic-version" not in headers:
            return 400, "invalid_request_error", "anthropic-version: header is required"
        if headers["anthropic-version"] == "2026-10-21" and {"temperature", "top_k"} & set(body):
            return 400, "invalid_request_error", "temperature, top_k: not in this version"
        if body["model"] == "no-such-model":
            return 404, "not_found_error", "model: no-such-model"
        if not isinstance(body.get("max_tokens"), int):
            return 400, "invalid_request_error", "max_tokens: Field required"
        for message in body["messages"]:
            if message["role"] not in ("user", "assistant"):
                return 400, "invalid_request_error", f"messages: role {message['role']}"
        return unknown(body, cls.known)

    @staticmethod
    def error(status: int, kind: str, message: str) -> dict[str, Any]:
        error = {"type": kind, "message": message}
        return {"type": "error", "error": error, "request_id": "req_1"}

    @staticmethod
    def _reason(host: FakeHost) -> str:
        if host.stop_sequence:
            return "stop_sequence"
        if host.reason == "stop" and any(part[0] == "tool_call" for part in host.parts):
            return "tool_use"
        names = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal"}
        return names[host.reason]

    @staticmethod
    def _usage(host: FakeHost) -> dict[str, Any]:
        usage = host.usage
        return {
            "input_tokens": usage.prompt - usage.cached - 2,
            "cache_read_input_tokens": usage.cached,
            "cache_creation_input_tokens": 2,
            "output_tokens": usage.completion,
            "output_tokens_details": {"thinking_tokens": usage.reasoning},
        }

    @staticmethod
    def _blocks(host: FakeHost) -> list[dict[str, Any]]:
        blocks = []
        for kind, *rest in host.parts:
            if kind == "tool_call":
                call_id, name, arguments = rest
                block = {"type": "tool_use", "id": call_id, "name": name}
                blocks.append({**block, "input": json.loads(arguments)})
            elif kind == "reasoning":
                blocks.append({"type": "thinking", "thinking": rest[0], "signature": "c2ln"})
            else:
                blocks.append({"type": "text", "text": rest[0], "citations": None})
        return blocks

    @classmethod
    def whole(cls, host: FakeHost, body: Any) -> dict[str, Any]:
        return {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": cls._blocks(host),
            "stop_reason": cls._reason(host),
            "stop_sequence": host.stop_sequence,
            "usage": cls._usage(host),
        }

    @classmethod
    def events(cls, host: FakeHost, body: Any) -> list[bytes]:
        message = cls.whole(host, body)
        start = {**message, "content": [], "stop_reason": None, "stop_sequence": None}
        start["usage"] = {**cls._usage(host), "output_tokens": 1}
        found: list[dict[str, Any]] = [{"type": "message_start", "message": start}]
        found.append({"type": "ping"})
        for number, (block, (_, *rest)) in enumerate(
            zip(cls._blocks(host), host.parts, strict=True)
        ):
            kind = block["type"]
            opening = {"text": "", "thinking": "", "signature": "", "input": {}}
            shell = {key: opening.get(key, value) for key, value in block.items()}
            place = {"index": number}
            found.append({"type": "content_block_start", **place, "content_block": shell})
            deltas = {
                "text": ("text_delta", "text"),
                "thinking": ("thinking_delta", "thinking"),
                "tool_use": ("input_json_delta", "partial_json"),
            }
            name, key = deltas[kind]
            for bit in bits(rest[-1]):
                delta = {"type": name, key: bit}
                found.append({"type": "content_block_delta", **place, "delta": delta})
            if kind == "thinking":
                delta = {"type": "signature_delta", "signature": "c2ln"}
                found.append({"type": "content_block_delta", **place, "delta": delta})
            found.append({"type": "content_block_stop", **place})
        end = {key: message[key] for key in ("stop_reason", "stop_sequence")}
        found.append({"type": "message_delta", "delta": end, "usage": cls._usage(host)})
        found.append({"type": "message_stop"})
        return [event(data, data["type"]) for data in found]


class Gemini:
    known: ClassVar[set[str]] = {
        "contents",
        "generationConfig",
        "systemInstruction",
        "tools",
        "toolConfig",
    }

    @classmethod
    def problem(cls, path: str, headers: Any, body: Any) -> tuple[int, str, str] | None:
        if headers.get("x-goog-api-key") != KEY:
            return 400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key."
        if "no-such-model" in path:
            words = "models/no-such-model is not found for API version v1beta"
            return 404, "NOT_FOUND", words
        for content in body["contents"]:
            if content.get("role") not in ("user", "model") or not content["parts"]:
                return 400, "INVALID_ARGUMENT", "Please use a valid role: user, model."
        return unknown(body, cls.known)

    @staticmethod
    def error(status: int, name: str, message: str) -> dict[str, Any]:
        return {"error": {"code": status, "message": message, "status": name}}

    @classmethod
    def _response(cls, host: FakeHost, parts: list[dict], is_last: bool) -> dict[str, Any]:
        usage = host.usage
        names = {"stop": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY"}
        candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": 0}
        if is_last:
            candidate["finishReason"] = names[host.reason]
        counts = {
            "promptTokenCount": usage.prompt,
            "cachedContentTokenCount": usage.cached,
            "candidatesTokenCount": usage.completion - usage.reasoning,
            "thoughtsTokenCount": usage.reasoning,
            "totalTokenCount": usage.prompt + usage.completion,
        }
        head = {"modelVersion": "gemini-test-001", "responseId": "r1"}
        return {"candidates": [candidate], "usageMetadata": counts, **head}

    @staticmethod
    def _part(kind: str, *rest: str) -> dict[str, Any]:
        if kind == "tool_call":
            call_id, name, arguments = rest
            call = {"id": call_id, "name": name, "args": json.loads(arguments)}
            return {"functionCall": call, "thoughtSignature": "c2ln"}
        return {"text": rest[0]} | ({"thought": True} if kind == "reasoning" else {})

    @classmethod
    def whole(cls, host: FakeHost, body: Any) -> dict[str, Any]:
        return cls._response(host, [cls._part(*part) for part in host.parts], True)

    @classmethod
    def events(cls, host: FakeHost, body: Any) -> list[bytes]:
        pieces = [
            (kind, bit) if kind != "tool_call" else (kind, *rest)
            for kind, *rest in host.parts
            for bit in (bits(rest[0]) if kind != "tool_call" else [""])
        ]
        return [
            event(cls._response(host, [cls._part(*piece)], number + 1 == len(pieces)))
            for number, piece in enumerate(pieces)
        ]
