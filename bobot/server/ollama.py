"""Ollama's chat and generate: the request, checked and turned into the protocol's.

num_ctx needs nothing: a prompt is never cut here, one that is too long is refused. Options that
only say how a machine computes (num_gpu, num_thread ...) are passed over; those that would change
the answer and are not supported are refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from bobot.chat.protocol import ChatRequest, Format, ParameterError, TextRequest
from bobot.server.openai_fields import (
    FunctionFields,
    Penalty,
    Seed,
    Share,
    check_names,
    checked_schema,
    stops_of,
)
from bobot.server.wire import encode, refuse_unsupported, unsupported_parameter

UNSUPPORTED_OPTIONS: dict[str, tuple[Any, ...]] = {
    "mirostat": (0,),
    "tfs_z": (0, 1),
    "typical_p": (0, 1),
}
UNSUPPORTED: dict[str, tuple[Any, ...]] = {"images": ([],), "context": ([],), "suffix": ("",)}


class Options(Struct, kw_only=True):
    temperature: Annotated[float, Meta(ge=0)] | None = None
    top_p: Share | None = None
    top_k: Annotated[int, Meta(ge=-1)] | None = None
    min_p: Share | None = None
    repeat_penalty: Annotated[float, Meta(ge=0.01, le=100)] | None = None
    repeat_last_n: Annotated[int, Meta(ge=-1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Seed | None = None
    num_predict: Annotated[int, Meta(ge=-2)] | None = None
    num_ctx: Annotated[int, Meta(ge=0)] | None = None
    stop: str | list[str] | None = None
    mirostat: float | None = None
    tfs_z: float | None = None
    typical_p: float | None = None


class OllamaFunction(Struct, kw_only=True):
    name: str
    arguments: dict[str, Any] | None = None


class OllamaCall(Struct, kw_only=True):
    function: OllamaFunction
    id: str | None = None


class OllamaMessage(Struct, kw_only=True):
    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[OllamaCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class OllamaTool(Struct, kw_only=True):
    function: FunctionFields
    type: str = "function"


class AskBody(Struct, kw_only=True):
    """What chat and generate share."""

    model: str
    stream: bool = True
    format: str | dict[str, Any] | None = None
    options: Options | None = None
    keep_alive: float | str | None = None
    think: bool | Literal["low", "medium", "high"] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    private: bool = False
    """bobot's own: never asks a hosted model."""

    @property
    def unloads(self) -> bool:
        """keep_alive 0: the model leaves memory after this answer."""
        text = str(self.keep_alive).rstrip("hms")
        return self.keep_alive is not None and text in ("0", "0.0")


class OllamaChatBody(AskBody, kw_only=True):
    messages: list[OllamaMessage] = []
    tools: list[OllamaTool] | None = None


class GenerateBody(AskBody, kw_only=True):
    prompt: str = ""
    system: str | None = None
    raw: bool = False
    template: str | None = None
    suffix: str | None = None
    images: list[str] | None = None
    context: list[int] | None = None


def ollama_chat_request(body: OllamaChatBody, *, lenient: bool = False) -> ChatRequest:
    """Raises ParameterError."""
    found = []
    for index, tool in enumerate(body.tools or ()):
        if tool.type != "function":
            raise unsupported_parameter(f"tools[{index}].type")
        found.append(tool.function.as_tool(f"tools[{index}].function"))
    check_names(tuple(found))
    messages = tuple(_messages(body.messages))
    last = messages[-1]
    return ChatRequest(
        messages=messages,
        sampling=_sampling(body, lenient=lenient),
        stop=stops_of(body.options.stop if body.options else None, "options.stop"),
        tools=tuple(found),
        format=_format(body),
        reasoning_effort=_effort(body),
        template_options=_thinking(body),
        continues_last=last["role"] == "assistant" and "tool_calls" not in last,
    )


def generate_request(
    body: GenerateBody, *, lenient: bool = False, has_template: bool = True
) -> ChatRequest | TextRequest:
    """`raw`, or a model without a chat template: the prompt as it is. Raises ParameterError."""
    refuse_unsupported(body, UNSUPPORTED, lenient=lenient)
    if body.template is not None and not lenient:
        raise unsupported_parameter("template")
    sampling = _sampling(body, lenient=lenient)
    stop = stops_of(body.options.stop if body.options else None, "options.stop")
    if body.raw or not has_template:
        prompt = f"{body.system}\n\n{body.prompt}" if body.system else body.prompt
        sampling.setdefault("max_tokens", None)
        return TextRequest(prompt=prompt, sampling=sampling, stop=stop, format=_format(body))
    system = [{"role": "system", "content": body.system}] if body.system else []
    return ChatRequest(
        messages=(*system, {"role": "user", "content": body.prompt}),
        sampling=sampling,
        stop=stop,
        format=_format(body),
        reasoning_effort=_effort(body),
        template_options=_thinking(body),
    )


def _sampling(body: AskBody, *, lenient: bool) -> dict[str, Any]:
    options = body.options or Options()
    refuse_unsupported(options, UNSUPPORTED_OPTIONS, lenient=lenient)
    is_penalized = options.repeat_penalty not in (None, 1)
    if is_penalized and options.repeat_last_n not in (None, -1) and not lenient:
        raise ParameterError(
            "{param} is {found}: here a penalty counts the whole text (-1).",
            param="repeat_last_n",
            code="unsupported_parameter",
            found=options.repeat_last_n,
        )
    sampling: dict[str, Any] = {
        "temperature": options.temperature,
        "top_p": options.top_p,
        "top_k": None if options.top_k is None else max(options.top_k, 0),
        "min_p": options.min_p,
        "repetition_penalty": options.repeat_penalty,
        "presence_penalty": options.presence_penalty,
        "frequency_penalty": options.frequency_penalty,
        "seed": None if options.seed is None else options.seed % (1 << 63),
        "logprobs": (body.top_logprobs or 0) if body.logprobs else None,
    }
    sampling = {name: value for name, value in sampling.items() if value is not None}
    if options.num_predict is not None:
        # -1 and -2 are Ollama's words for: until the end, until the context is full.
        sampling["max_tokens"] = options.num_predict if options.num_predict >= 0 else None
    return sampling


def _format(body: AskBody) -> Format:
    if body.format is None or body.format == "":
        return Format()
    if body.format == "json":
        return Format("json_object")
    if isinstance(body.format, str):
        raise ParameterError(
            "{param} is {found!r}; allowed: {allowed}.",
            param="format",
            found=body.format,
            allowed="json, or a JSON schema",
        )
    return Format("json_schema", schema=checked_schema(body.format, "format"))


def _effort(body: AskBody) -> str | None:
    return body.think if isinstance(body.think, str) else None


def _thinking(body: AskBody) -> dict[str, Any]:
    """The variable by which templates turn thinking on and off."""
    return {"enable_thinking": body.think} if isinstance(body.think, bool) else {}


def _messages(messages: list[OllamaMessage]):
    waiting: list[str] = []  # ids of calls that have no result yet, in their order
    for index, message in enumerate(messages):
        if message.images:
            raise unsupported_parameter(f"messages[{index}].images")
        found: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.thinking:
            found["reasoning_content"] = message.thinking
        if message.tool_calls:
            found["tool_calls"] = []
            for number, call in enumerate(message.tool_calls):
                call_id = call.id or f"call_{index}_{number}"
                waiting.append(call_id)
                arguments = encode(call.function.arguments or {}).decode()
                function = {"name": call.function.name, "arguments": arguments}
                found["tool_calls"].append(
                    {"id": call_id, "type": "function", "function": function}
                )
        if message.role == "tool":
            next_id = waiting.pop(0) if waiting else f"call_{index}"
            found["tool_call_id"] = message.tool_call_id or next_id
            if message.tool_name:
                found["name"] = message.tool_name
        yield found
