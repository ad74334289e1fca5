"""OpenAI's chat/completions: the request, checked and turned into a ChatRequest.

Beside OpenAI's fields those that other servers put into the same body (vLLM, llama.cpp, DeepSeek).
What the API knows and bobot can't do is refused by name.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from bobot.chat.protocol import ChatRequest, ParameterError
from bobot.server.openai_fields import (
    Count,
    FunctionFields,
    ResponseFormat,
    SamplingFields,
    check_choice,
    check_names,
    format_of,
    sampling_of,
    stops_of,
)
from bobot.server.wire import refuse_unsupported, unsupported_parameter

UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "modalities": (["text"],),
    "moderation": (),
    "prediction": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "verbosity": ("medium",),
    "web_search_options": (),
}
"""Fields of the API that bobot does not have; name -> values that ask for nothing."""


JOINT, CONTINUED_JOINT = "\n", "\n\n"
"""Between the parts of a message; and of one that llama-server continues."""


class ContentPart(Struct, kw_only=True):
    type: str
    text: str | None = None
    refusal: str | None = None


Content = str | list[ContentPart]


class CalledFunction(Struct, kw_only=True):
    name: str
    arguments: str | dict[str, Any] = "{}"


class ToolCall(Struct, kw_only=True):
    function: CalledFunction | None = None
    id: str = ""
    type: str = "function"


class ChatMessage(Struct, kw_only=True):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Content | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    function_call: CalledFunction | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None


class Tool(Struct, kw_only=True):
    type: str
    function: FunctionFields | None = None


class NamedChoice(Struct, kw_only=True):
    type: str = "function"
    function: NamedFunction | None = None
    name: str | None = None


class NamedFunction(Struct, kw_only=True):
    name: str


class StreamOptions(Struct, kw_only=True):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatBody(SamplingFields, kw_only=True):
    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: list[Tool] | None = None
    tool_choice: str | NamedChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: list[FunctionFields] | None = None
    function_call: str | NamedFunction | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    timings_per_token: bool | None = None
    verbose: bool | None = None
    audio: Any = None
    modalities: Any = None
    moderation: Any = None
    prediction: Any = None
    service_tier: Any = None
    store: Any = None
    verbosity: Any = None
    web_search_options: Any = None
    private: bool = False
    """bobot's own: never asks a hosted model."""

    @property
    def includes_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def is_legacy(self) -> bool:
        """Asks for `function_call` in the answer, as before tools."""
        return bool(self.functions) and not self.tools


def chat_request(body: ChatBody, *, lenient: bool = False, is_llama: bool = False) -> ChatRequest:
    """Raises ParameterError. `is_llama`: a last message of the assistant is continued, and every
    prompt begins with the beginning token."""
    refuse_unsupported(body, UNSUPPORTED, lenient=lenient)
    if body.stream_options is not None and not body.stream and not lenient:
        raise ParameterError("{param} needs stream: true.", param="stream_options")
    tools = _tools(body)
    sampling = sampling_of(body, lenient=lenient)
    limit = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    if limit == 0:
        if not lenient:
            name = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
            raise ParameterError(
                "{param} is {value}; allowed: {allowed}.", param=name, value=0, allowed="1 or more"
            )
        limit = 1
    if limit is not None:
        sampling["max_tokens"] = limit
    if (logprobs := _logprobs(body)) is not None:
        sampling["logprobs"] = logprobs
    continues = is_llama and body.messages[-1].role == "assistant"
    messages = messages_of(body.messages, CONTINUED_JOINT if continues else JOINT)
    return ChatRequest(
        messages=messages,
        sampling=sampling,
        stop=stops_of(body.stop),
        tools=tools,
        tool_choice=check_choice(_choice(body), tools),
        parallel_tool_calls=body.parallel_tool_calls is not False,
        format=format_of(body, body.response_format),
        reasoning_effort=body.reasoning_effort,
        template_options=body.chat_template_kwargs or {},
        continues_last=_continues_last(body, messages, is_llama=is_llama),
        begins_with_bos=is_llama,
        reports_progress=bool(body.stream and body.return_progress),
    )


def _logprobs(body: ChatBody) -> int | None:
    if body.top_logprobs and not body.logprobs:
        raise ParameterError("{param} needs logprobs: true.", param="top_logprobs")
    return (body.top_logprobs or 0) if body.logprobs else None


def _continues_last(
    body: ChatBody, messages: tuple[dict[str, Any], ...], *, is_llama: bool
) -> bool:
    """vLLM's continue_final_message; llama-server needs no word for it."""
    if not body.continue_final_message:
        ends = [message["role"] == "assistant" for message in messages[-2:]]
        wants = is_llama and ends[-1] and body.continue_final_message is None
        if wants and ends == [True, True]:
            raise ParameterError(
                "{param}: two messages of the assistant stand at the end.",
                param=f"messages[{len(messages) - 1}]",
            )
        return wants and not messages[-1].get("tool_calls")
    if messages[-1]["role"] != "assistant" or body.add_generation_prompt:
        raise ParameterError(
            "{param} needs a last message of the assistant, and add_generation_prompt: false.",
            param="continue_final_message",
        )
    return True


def messages_of(messages: list[ChatMessage], last_joint: str = JOINT) -> tuple[dict[str, Any], ...]:
    """In the words of ChatRequest: developer is system, function is tool, parts are one text."""
    last = len(messages) - 1
    return tuple(
        _message(message, f"messages[{i}]", last_joint if i == last else JOINT)
        for i, message in enumerate(messages)
    )


def _message(message: ChatMessage, place: str, joint: str) -> dict[str, Any]:
    role = {"developer": "system", "function": "tool"}.get(message.role, message.role)
    calls = _calls(message, place) if role == "assistant" else []
    content = message.content
    if content is None and role == "assistant":
        content = message.refusal or ""
    elif content is None:
        raise ParameterError(
            "{param} is missing.", param=f"{place}.content", code="missing_required_parameter"
        )
    found: dict[str, Any] = {"role": role, "content": text_of(content, f"{place}.content", joint)}
    if reasoning := message.reasoning_content or message.reasoning:
        found["reasoning_content"] = reasoning
    if calls:
        found["tool_calls"] = calls
    if role == "tool":
        if not message.tool_call_id and message.role == "tool":
            raise ParameterError(
                "{param} is missing.",
                param=f"{place}.tool_call_id",
                code="missing_required_parameter",
            )
        found["tool_call_id"] = message.tool_call_id or "call_legacy"
    if message.name:
        found["name"] = message.name
    return found


def text_of(content: Content, place: str, joint: str = JOINT) -> str:
    """The text of parts, `joint` between them."""
    if isinstance(content, str):
        return content
    texts = []
    for index, part in enumerate(content):
        if part.type not in ("text", "input_text", "output_text", "refusal"):
            raise ParameterError(
                "{param} is {found!r}; only text is supported.",
                param=f"{place}[{index}].type",
                code="unsupported_parameter",
                found=part.type,
            )
        text = part.refusal if part.type == "refusal" else part.text
        if text is None:
            raise ParameterError(
                "{param} is missing.",
                param=f"{place}[{index}].text",
                code="missing_required_parameter",
            )
        texts.append(text)
    return joint.join(texts)


def _calls(message: ChatMessage, place: str) -> list[dict[str, Any]]:
    given = list(message.tool_calls or ())
    if message.function_call is not None:
        given.append(ToolCall(function=message.function_call, id="call_legacy"))
    calls = []
    for index, call in enumerate(given):
        if call.type != "function" or call.function is None:
            raise unsupported_parameter(f"{place}.tool_calls[{index}].type")
        function = {"name": call.function.name, "arguments": call.function.arguments}
        calls.append({"id": call.id, "type": "function", "function": function})
    return calls


def _tools(body: ChatBody) -> tuple[dict[str, Any], ...]:
    found = []
    for index, tool in enumerate(body.tools or ()):
        if tool.type != "function" or tool.function is None:
            raise unsupported_parameter(f"tools[{index}].type")
        found.append(tool.function.as_tool(f"tools[{index}].function"))
    if not body.tools:
        for index, function in enumerate(body.functions or ()):
            found.append(function.as_tool(f"functions[{index}]"))
    check_names(tuple(found))
    return tuple(found)


def _choice(body: ChatBody) -> str:
    """tool_choice, or the older function_call."""
    choice = body.function_call if body.is_legacy else body.tool_choice
    param = "function_call" if body.is_legacy else "tool_choice"
    if choice is None:
        return "auto"
    if isinstance(choice, NamedFunction):
        return f"function:{choice.name}"
    if isinstance(choice, NamedChoice):
        name = choice.function.name if choice.function else choice.name
        if choice.type != "function" or name is None:
            raise unsupported_parameter(f"{param}.type")
        return f"function:{name}"
    if choice not in ("none", "auto", "required"):
        raise ParameterError(
            "{param} is {found!r}; allowed: {allowed}.",
            param=param,
            found=choice,
            allowed="none, auto, required, or a function",
        )
    return choice
