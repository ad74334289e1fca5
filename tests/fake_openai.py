"""OpenAI's two wire formats as a fake host speaks them: chat/completions and completions, and
responses.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from fake_events import KEY, bits, event, unknown

if TYPE_CHECKING:
    from fake_hosts import FakeHost


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
        return unknown(body, cls.known)

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
                for bit in bits(arguments):
                    yield {"tool_calls": [{"index": number, "function": {"arguments": bit}}]}
                number += 1
            else:
                key = "content" if kind == "text" else "reasoning_content"
                for bit in bits(rest[0] + (f" #{n}" if n else "")):
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
                events.append(event({**head, **extra, "choices": [choice]}))
            end = {"index": n, "delta": {}, "finish_reason": cls._reason(host)}
            events.append(event({**head, **extra, "choices": [end]}))
        if with_usage:
            events.append(event({**head, "choices": [], "usage": cls._usage(host)}))
        return [*events, b"data: [DONE]\n\n"]

    @classmethod
    def _text_events(cls, host: FakeHost, body: Any) -> list[bytes]:
        head = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": body["model"]}
        pieces = bits(host.parts[0][1])
        events = []
        for position, bit in enumerate(pieces):
            reason = host.reason if position + 1 == len(pieces) else None
            choice = {"index": 0, "text": bit, "finish_reason": reason, "logprobs": None}
            events.append(event({**head, "choices": [choice]}))
        events.append(event({**head, "choices": [], "usage": cls._usage(host)}))
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
        return unknown(body, cls.known)

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
            found += [{"type": f"{name}.delta", **place, **more, "delta": b} for b in bits(text)]
            found.append({"type": f"{name}.done", **place, **more, **end})
            found.append({"type": "response.output_item.done", "output_index": number})
            found[-1]["item"] = item
        last = "response.completed" if host.reason == "stop" else "response.incomplete"
        found.append({"type": last, "response": cls.whole(host, body)})
        return [
            event({**data, "sequence_number": number}, data["type"])
            for number, data in enumerate(found)
        ]
