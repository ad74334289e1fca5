"""A host of models on this machine's loopback that speaks one of the four wire formats, written
from the hosts' public API references, with faults on demand.

    with running_host("anthropic", [("text", "halo")]) as host:
        host.faults = [Refuse(529, {...}), Cut(after=2)]     # for its next answers
        host.requests                                        # what was asked, in order

A body with a field that the API does not know is refused, as the real ones do.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, NamedTuple
from urllib.parse import urlsplit

KEY = "sk-test-0123456789abcdef"
Part = tuple[str, ...]
"""("text", TEXT), ("reasoning", TEXT) or ("tool_call", ID, NAME, ARGUMENTS)"""


class Request(NamedTuple):
    path: str
    headers: Mapping[str, str]
    body: Any


@dataclass
class Refuse:
    """An answer with this status instead."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Cut:
    """The connection ends after so many events."""

    after: int


@dataclass
class End:
    """The stream ends properly after so many events, as if that were all."""

    after: int


@dataclass
class Insert:
    """So many events, then these bytes, then the rest."""

    after: int
    content: bytes


@dataclass
class Hold:
    """After so many events nothing comes any more, until `release` is set."""

    after: int
    release: threading.Event = field(default_factory=threading.Event)


Fault = Refuse | Cut | End | Insert | Hold


@dataclass
class Usage:
    prompt: int = 40
    completion: int = 12
    cached: int = 8
    reasoning: int = 5


class FakeHost:
    def __init__(self, wire: str, parts: Sequence[Part], reason: str = "stop") -> None:
        self.wire = wire
        self.parts = list(parts)
        self.reason = reason
        """stop, length or content_filter."""
        self.stop_sequence: str | None = None
        self.usage = Usage()
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.whole = False
        """Answers without a stream, whatever was asked."""
        self.addresses: list[Any] = []
        """Of the client, for each request: equal ones came over one connection."""
        self.never_ends = False
        """Streams stay open after their last event."""
        self.gone = threading.Event()
        """Set when a client has hung up in the middle of an answer."""
        host = self
        self.server = _Server(("127.0.0.1", 0), type("H", (_Handler,), {"host": host}))
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    @property
    def base_url(self) -> str:
        """What stands in hosts.toml; the same ending as that of the real host."""
        return self.root + {"anthropic": "", "gemini": "/v1beta"}.get(self.wire, "/v1")


@contextmanager
def running_host(wire: str, parts: Sequence[Part], reason: str = "stop") -> Iterator[FakeHost]:
    host = FakeHost(wire, parts, reason)
    try:
        yield host
    finally:
        for fault in host.faults:
            if isinstance(fault, Hold):
                fault.release.set()
        host.server.shutdown()
        host.server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that hung up is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    host: FakeHost

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"null")
        host = self.host
        headers = {name.lower(): value for name, value in self.headers.items()}
        host.requests.append(Request(self.path, headers, body))
        host.addresses.append(self.client_address)
        fault = host.faults.pop(0) if host.faults else None
        if isinstance(fault, Refuse):
            return self._json(fault.status, fault.body, fault.headers)
        wire = WIRES[host.wire]
        if problem := wire.problem(urlsplit(self.path).path, headers, body):
            return self._json(problem[0], wire.error(*problem))
        if host.wire == "openai" and self.path.endswith("/embeddings"):
            return self._json(200, _embeddings(body))
        is_stream = body.get("stream") or "streamGenerateContent" in self.path
        if host.whole or not is_stream:
            return self._json(200, wire.whole(host, body))
        return self._stream(wire.events(host, body), fault)

    def _json(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        given = {"Content-Type": "application/json", "Content-Length": str(len(content))}
        for name, value in {**given, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _stream(self, events: list[bytes], fault: Fault | None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for number, event in enumerate(events):
                if fault is not None and number == fault.after:  # type: ignore[union-attr]
                    if isinstance(fault, Cut):
                        self.close_connection = True
                        return
                    if isinstance(fault, End):
                        break
                    if isinstance(fault, Insert):
                        self._chunk(fault.content)
                    if isinstance(fault, Hold):
                        self._hold(fault)
                # in two pieces: an event may be cut anywhere
                middle = len(event) // 2
                self._chunk(event[:middle])
                self._chunk(event[middle:])
            while self.host.never_ends:
                self._chunk(b": ping\n\n")
                time.sleep(0.02)
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.host.gone.set()
            self.close_connection = True

    def _hold(self, fault: Hold) -> None:
        """Pings until the client is gone, so that its going is noticed."""
        while not fault.release.is_set():
            self._chunk(b": ping\n\n")
            time.sleep(0.02)

    def _chunk(self, content: bytes) -> None:
        if content:
            self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
            self.wfile.flush()


def _event(data: Any, name: str | None = None) -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data)}\n\n".encode()


def _bits(text: str, size: int = 5) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


def _unknown(body: Mapping[str, Any], known: set[str]) -> tuple[int, str, str] | None:
    extra = sorted(set(body) - known)
    return (400, "invalid_request_error", f"Unknown parameter: {extra[0]}") if extra else None


def _embeddings(body: Any) -> dict[str, Any]:
    texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
    data = [
        {"object": "embedding", "index": index, "embedding": [3.0, 4.0 * index]}
        for index, _ in enumerate(texts)
    ]
    usage = {"prompt_tokens": 7, "total_tokens": 7}
    return {"object": "list", "data": data[::-1], "model": body["model"], "usage": usage}


class OpenAI:
    """chat/completions and completions."""

    known: ClassVar[set[str]] = {
        *("model", "messages", "prompt", "suffix", "stream", "stream_options", "temperature"),
        *("top_p", "presence_penalty", "frequency_penalty", "seed", "n", "logit_bias", "logprobs"),
        *("top_logprobs", "max_tokens", "max_completion_tokens", "stop", "tools", "tool_choice"),
        *("parallel_tool_calls", "response_format", "reasoning_effort", "input"),
        *("encoding_format", "top_k", "min_p", "chat_template_kwargs"),
    }

    @classmethod
    def problem(cls, path: str, headers: Any, body: Any) -> tuple[int, str, str] | None:
        if headers.get("authorization") != f"Bearer {KEY}":
            masked = f"{KEY[:8]}****{KEY[-4:]}"
            return 401, "invalid_api_key", f"Incorrect API key provided: {masked}."
        if body["model"] == "no-such-model":
            return 404, "model_not_found", "The model `no-such-model` does not exist"
        for message in body.get("messages", ()):
            if set(message) - {"role", "content", "tool_calls", "tool_call_id", "name"}:
                return 400, "invalid_request_error", f"unexpected field in {message}"
        return _unknown(body, cls.known)

    @staticmethod
    def error(status: int, code: str, message: str) -> dict[str, Any]:
        kind = "invalid_request_error"
        return {"error": {"message": message, "type": kind, "param": None, "code": code}}

    @classmethod
    def _choices(cls, host: FakeHost, body: Any, n: int) -> Iterator[dict[str, Any]]:
        """(delta) of the answer number n."""
        yield {"role": "assistant", "content": ""}
        number = 0
        for kind, *rest in host.parts:
            if kind == "tool_call":
                call_id, name, arguments = rest
                head = {"id": call_id, "type": "function", "index": number}
                yield {"tool_calls": [{**head, "function": {"name": name, "arguments": ""}}]}
                for bit in _bits(arguments):
                    yield {"tool_calls": [{"index": number, "function": {"arguments": bit}}]}
                number += 1
            else:
                key = "content" if kind == "text" else "reasoning_content"
                for bit in _bits(rest[0] + (f" #{n}" if n else "")):
                    yield {key: bit}

    @classmethod
    def _usage(cls, host: FakeHost) -> dict[str, Any]:
        usage = host.usage
        return {
            "prompt_tokens": usage.prompt,
            "completion_tokens": usage.completion,
            "total_tokens": usage.prompt + usage.completion,
            "prompt_tokens_details": {"cached_tokens": usage.cached, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
        }

    @staticmethod
    def _reason(host: FakeHost) -> str:
        called = any(part[0] == "tool_call" for part in host.parts)
        return "tool_calls" if called and host.reason == "stop" else host.reason

    @classmethod
    def events(cls, host: FakeHost, body: Any) -> list[bytes]:
        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1}
        head["model"] = body["model"] + "-2024-08-06"
        if "prompt" in body:
            return cls._text_events(host, body)
        with_usage = (body.get("stream_options") or {}).get("include_usage")
        extra = {"usage": None} if with_usage else {}
        events = []
        for n in range(body.get("n") or 1):
            for delta in cls._choices(host, body, n):
                choice = {"index": n, "delta": delta, "logprobs": None, "finish_reason": None}
                if body.get("logprobs") and delta.get("content"):
                    choice["logprobs"] = _logprobs(delta["content"], body["top_logprobs"])
                events.append(_event({**head, **extra, "choices": [choice]}))
            end = {"index": n, "delta": {}, "finish_reason": cls._reason(host)}
            events.append(_event({**head, **extra, "choices": [end]}))
        if with_usage:
            events.append(_event({**head, "choices": [], "usage": cls._usage(host)}))
        return [*events, b"data: [DONE]\n\n"]

    @classmethod
    def _text_events(cls, host: FakeHost, body: Any) -> list[bytes]:
        head = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": body["model"]}
        bits = _bits(host.parts[0][1])
        events = []
        for position, bit in enumerate(bits):
            reason = host.reason if position + 1 == len(bits) else None
            choice = {"index": 0, "text": bit, "finish_reason": reason, "logprobs": None}
            events.append(_event({**head, "choices": [choice]}))
        events.append(_event({**head, "choices": [], "usage": cls._usage(host)}))
        return [*events, b"data: [DONE]\n\n"]

    @classmethod
    def whole(cls, host: FakeHost, body: Any) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": None}
        for kind, *rest in host.parts:
            if kind == "tool_call":
                call_id, name, arguments = rest
                call = {"id": call_id, "type": "function"}
                call["function"] = {"name": name, "arguments": arguments}  # type: ignore[assignment]
                message.setdefault("tool_calls", []).append(call)
            else:
                message["content" if kind == "text" else "reasoning_content"] = rest[0]
        choice = {"index": 0, "message": message, "finish_reason": cls._reason(host)}
        head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1}
        model = body["model"] + "-2024-08-06"
        return {**head, "model": model, "choices": [choice], "usage": cls._usage(host)}


def _logprobs(text: str, num_top: int) -> dict[str, Any]:
    def entry(token: str, logprob: float) -> dict[str, Any]:
        return {"token": token, "logprob": logprob, "bytes": list(token.encode())}

    top = [entry(chr(65 + rank), -1.0 - rank) for rank in range(num_top)]
    return {"content": [{**entry(text, -0.25), "top_logprobs": top}], "refusal": None}


class Responses:
    known: ClassVar[set[str]] = {
        *("model", "input", "store", "stream", "max_output_tokens", "temperature", "top_p"),
        *("tools", "parallel_tool_calls", "tool_choice", "reasoning", "text"),
    }
    error = OpenAI.error

    @classmethod
    def problem(cls, path: str, headers: Any, body: Any) -> tuple[int, str, str] | None:
        if headers.get("authorization") != f"Bearer {KEY}":
            return 401, "invalid_api_key", "Incorrect API key provided."
        return _unknown(body, cls.known)

    @classmethod
    def _items(cls, host: FakeHost) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        for number, (kind, *rest) in enumerate(host.parts):
            item: dict[str, Any] = {"id": f"item_{number}", "status": "completed"}
            if kind == "tool_call":
                call_id, name, arguments = rest
                item |= {"type": "function_call", "call_id": call_id, "name": name}
                item["arguments"] = arguments
            elif kind == "reasoning":
                item |= {"type": "reasoning", "summary": [{"type": "summary_text"}]}
                item["summary"][0]["text"] = rest[0]
            else:
                text = {"type": "output_text", "text": rest[0], "annotations": [], "logprobs": []}
                item |= {"type": "message", "role": "assistant", "content": [text]}
            items.append(item)
        return items

    @classmethod
    def whole(cls, host: FakeHost, body: Any, done: bool = True) -> dict[str, Any]:
        usage = host.usage
        is_cut = host.reason != "stop"
        cause = {"length": "max_output_tokens", "content_filter": "content_filter"}
        counts = {
            "input_tokens": usage.prompt,
            "output_tokens": usage.completion,
            "total_tokens": usage.prompt + usage.completion,
            "input_tokens_details": {"cached_tokens": usage.cached},
            "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        }
        return {
            "id": "resp_1",
            "object": "response",
            "created_at": 1,
            "model": body["model"] + "-2026-01-01",
            "status": "in_progress" if not done else "incomplete" if is_cut else "completed",
            "incomplete_details": {"reason": cause[host.reason]} if is_cut and done else None,
            "error": None,
            "output": cls._items(host) if done else [],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": counts if done else None,
        }

    @classmethod
    def events(cls, host: FakeHost, body: Any) -> list[bytes]:
        found: list[dict[str, Any]] = [
            {"type": "response.created", "response": cls.whole(host, body, done=False)}
        ]
        for number, (item, (kind, *rest)) in enumerate(
            zip(cls._items(host), host.parts, strict=True)
        ):
            place = {"item_id": item["id"], "output_index": number}
            opening = {"content": [], "summary": [], "arguments": ""}
            shell = {k: opening.get(k, v) for k, v in item.items()}
            shell["status"] = "in_progress"
            found.append({"type": "response.output_item.added", "output_index": number})
            found[-1]["item"] = shell
            text = rest[-1]
            if kind == "tool_call":
                name, more = "response.function_call_arguments", {}
                end = {"arguments": text, "name": rest[1]}
            elif kind == "reasoning":
                name, more, end = (
                    "response.reasoning_summary_text",
                    {"summary_index": 0},
                    {"text": text},
                )
                part = {"type": "summary_text", "text": ""}
                kind_of = "response.reasoning_summary_part.added"
                found.append({"type": kind_of, **place, **more, "part": part})
            else:
                name, more = "response.output_text", {"content_index": 0, "logprobs": []}
                end = {"text": text}
                part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
                kind_of = "response.content_part.added"
                found.append({"type": kind_of, **place, "content_index": 0, "part": part})
            found += [{"type": f"{name}.delta", **place, **more, "delta": b} for b in _bits(text)]
            found.append({"type": f"{name}.done", **place, **more, **end})
            found.append({"type": "response.output_item.done", "output_index": number})
            found[-1]["item"] = item
        last = "response.completed" if host.reason == "stop" else "response.incomplete"
        found.append({"type": last, "response": cls.whole(host, body)})
        return [
            _event({**data, "sequence_number": number}, data["type"])
            for number, data in enumerate(found)
        ]


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
        return _unknown(body, cls.known)

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
            for bit in _bits(rest[-1]):
                delta = {"type": name, key: bit}
                found.append({"type": "content_block_delta", **place, "delta": delta})
            if kind == "thinking":
                delta = {"type": "signature_delta", "signature": "c2ln"}
                found.append({"type": "content_block_delta", **place, "delta": delta})
            found.append({"type": "content_block_stop", **place})
        end = {key: message[key] for key in ("stop_reason", "stop_sequence")}
        found.append({"type": "message_delta", "delta": end, "usage": cls._usage(host)})
        found.append({"type": "message_stop"})
        return [_event(data, data["type"]) for data in found]


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
        return _unknown(body, cls.known)

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
            for bit in (_bits(rest[0]) if kind != "tool_call" else [""])
        ]
        return [
            _event(cls._response(host, [cls._part(*piece)], number + 1 == len(pieces)))
            for number, piece in enumerate(pieces)
        ]


WIRES: dict[str, Any] = {
    "openai": OpenAI,
    "openai-responses": Responses,
    "anthropic": Anthropic,
    "gemini": Gemini,
}
