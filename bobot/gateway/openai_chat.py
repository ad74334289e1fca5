"""OpenAI's chat/completions, completions and embeddings, which xAI and most other hosts speak too.

Source: OpenAI's API reference and its OpenAPI description, version 2.3.0. Reasoning comes under
the names `reasoning_content` (DeepSeek, xAI, llama.cpp) or `reasoning` (vLLM, OpenRouter).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bobot.chat.protocol import (
    ChatRequest,
    Event,
    Format,
    ParameterError,
    TextRequest,
    TokenLogprob,
    Usage,
)
from bobot.gateway.hosts import Host
from bobot.gateway.wire import (
    AnswerReader,
    Call,
    Reason,
    asked,
    check_chat,
    check_format,
    check_stop,
    renamed,
    unsupported,
)

PLAIN = (
    *("temperature", "top_p", "presence_penalty", "frequency_penalty"),
    *("seed", "n", "logit_bias", "logprobs"),
)
"""Parameters with the same name here and there."""
UNKNOWN_ID = -1
"""The token id in a TokenLogprob: hosts tell pieces, not ids."""
_FINISH: dict[str, Reason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


def chat_call(host: Host, model: str, request: ChatRequest) -> Call:
    check_chat(host, request)
    body: dict[str, Any] = {
        "model": model,
        "messages": [_message(message) for message in request.messages],
        **_sampling(host, request.sampling),
        **_streaming(host),
    }
    if "logprobs" in body:
        body["top_logprobs"], body["logprobs"] = body["logprobs"], True
    if request.stop:
        body["stop"] = list(request.stop)
    if request.tools:
        body["tools"] = [dict(tool) for tool in request.tools]
        body["tool_choice"] = tool_choice(request.tool_choice)
        if not request.parallel_tool_calls:
            body["parallel_tool_calls"] = False
    if request.format.kind != "text":
        body["response_format"] = _response_format(request.format)
    if request.reasoning_effort is not None:
        body["reasoning_effort"] = request.reasoning_effort
    if request.template_options:
        body["chat_template_kwargs"] = dict(request.template_options)
    return Call("/chat/completions", body)


def text_call(host: Host, model: str, request: TextRequest) -> Call:
    if request.prompt_logprobs is not None:
        raise unsupported("prompt_logprobs", host)
    if request.format.kind != "text":
        raise unsupported("response_format", host)
    check_format(host, request.format)
    check_stop(host, request.stop)
    prompt = request.prompt if isinstance(request.prompt, str) else list(request.prompt)
    body: dict[str, Any] = {
        "model": model,
        "prompt": prompt,
        **_sampling(host, request.sampling, max_tokens_name="max_tokens"),
        **_streaming(host),
    }
    if request.stop:
        body["stop"] = list(request.stop)
    if request.suffix:
        body["suffix"] = request.suffix
    if "logprobs" in body:
        raise unsupported("logprobs", host)
    return Call("/completions", body)


def _sampling(
    host: Host, sampling: Mapping[str, Any], max_tokens_name: str | None = None
) -> dict[str, Any]:
    names = {name: name for name in (*PLAIN, *host.accepts)}
    names["max_tokens"] = max_tokens_name or host.max_tokens_name
    body = renamed(asked(sampling), names, host)
    if "logit_bias" in body:
        body["logit_bias"] = {str(key): bias for key, bias in body["logit_bias"].items()}
    if "stop_token_ids" in body:
        body["stop_token_ids"] = list(body["stop_token_ids"])
    return body


def _streaming(host: Host) -> dict[str, Any]:
    return {"stream": True, "stream_options": {"include_usage": True}} if host.streams else {}


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """What was thought before earlier answers is not sent: hosts refuse or ignore it."""
    known = ("role", "content", "tool_calls", "tool_call_id", "name")
    return {key: message[key] for key in known if message.get(key) is not None}


def tool_choice(choice: str) -> Any:
    kind, _, name = choice.partition(":")
    return {"type": "function", "function": {"name": name}} if kind == "function" else choice


def _response_format(wanted: Format) -> dict[str, Any]:
    if wanted.kind == "json_object":
        return {"type": "json_object"}
    schema = {"name": "answer", "schema": wanted.schema, "strict": True}
    return {"type": "json_schema", "json_schema": schema}


class Reader(AnswerReader):
    """The chunks of chat/completions or completions, or the one object of an answer in one."""

    def read(self, data: dict[str, Any]) -> Iterator[Event]:
        self.start(data.get("model"), None)
        for choice in self.items(data, "choices"):
            yield from self._choice(choice)
        if usage := self.table(data, "usage"):
            self.usage = self._usage(usage)

    def _choice(self, choice: dict[str, Any]) -> Iterator[Event]:
        index = self.count(choice, "index") or 0
        self.start(None, index)
        message = self.table(choice, "delta") or self.table(choice, "message")
        for name in ("reasoning_content", "reasoning"):
            if message.get(name):
                yield from self.text("reasoning", message[name], index)
                break
        pieces = self._logprobs(self.table(choice, "logprobs"))
        text = message.get("content") or message.get("refusal") or choice.get("text") or ""
        yield from self.text("text", text, index, pieces)
        for position, call in enumerate(self.items(message, "tool_calls")):
            function = self.table(call, "function")
            key = position if call.get("index") is None else self.count(call, "index")
            yield from self.call(
                key, call.get("id"), function.get("name"), function.get("arguments"), index
            )
        reason = choice.get("finish_reason")
        if reason is not None:
            yield from self.finish(self.reason(_FINISH, reason), index)

    def _logprobs(self, logprobs: dict[str, Any]) -> tuple[TokenLogprob, ...]:
        return tuple(
            TokenLogprob(
                UNKNOWN_ID,
                self._piece(entry),
                self._logprob(entry),
                tuple(
                    (UNKNOWN_ID, self._piece(other), self._logprob(other))
                    for other in self.items(entry, "top_logprobs")
                ),
            )
            for entry in self.items(logprobs, "content")
        )

    def _piece(self, entry: dict[str, Any]) -> bytes:
        values, token = entry.get("bytes"), entry.get("token")
        if values is None and isinstance(token, str):
            return token.encode("utf-8", "surrogatepass")
        if not isinstance(values, list) or not all(
            isinstance(value, int) and 0 <= value < 256 for value in values
        ):
            raise self.wrong("logprobs")
        return bytes(values)

    def _logprob(self, entry: dict[str, Any]) -> float:
        value = entry.get("logprob")
        if not isinstance(value, int | float):
            raise self.wrong("logprobs")
        return float(value)

    def _usage(self, usage: dict[str, Any]) -> Usage:
        prompt = self.table(usage, "prompt_tokens_details")
        completion = self.table(usage, "completion_tokens_details")
        reasoning = self.count(completion, "reasoning_tokens")
        num_prompt = self.count(usage, "prompt_tokens") or 0
        num_completion = self.count(usage, "completion_tokens") or 0
        # xAI counts reasoning beside the completion, OpenAI within it; the total tells.
        if reasoning and self.count(usage, "total_tokens") == (
            num_prompt + num_completion + reasoning
        ):
            num_completion += reasoning
        return Usage(
            prompt_tokens=num_prompt,
            completion_tokens=num_completion,
            cached_tokens=self.count(prompt, "cached_tokens"),
            reasoning_tokens=reasoning,
        )


def embed_call(model: str, texts: list[str | list[int]]) -> Call:
    return Call("/embeddings", {"model": model, "input": texts, "encoding_format": "float"})


def vectors_of(reader: Reader, data: dict[str, Any]) -> tuple[list[list[float]], int]:
    """The vectors in the order of the texts, of length 1, and the number of tokens."""
    entries = sorted(
        reader.items(data, "data"), key=lambda entry: reader.count(entry, "index") or 0
    )
    vectors = [entry.get("embedding") for entry in entries]
    if not all(
        isinstance(vector, list)
        and vector
        and all(isinstance(value, int | float) for value in vector)
        for vector in vectors
    ):
        raise reader.wrong("embedding")
    return [_unit(vector) for vector in vectors], reader.count(  # type: ignore[arg-type]
        reader.table(data, "usage"), "prompt_tokens"
    ) or 0


def _unit(vector: list[float]) -> list[float]:
    length = sum(value * value for value in vector) ** 0.5
    return [value / length for value in vector] if length else [float(v) for v in vector]


def check_texts(texts: list[str | list[int]]) -> None:
    if not texts:
        raise ParameterError("input has no text.", param="input")
