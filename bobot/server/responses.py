"""OpenAI's responses: the request, checked and turned into a ChatRequest.

A conversation is a list of items here; one turn of the assistant may be several of them (reasoning,
text, calls), which become one message. A custom tool, whose input is free text, becomes a function
with one argument `input`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from bobot.chat.protocol import ChatRequest, Format, ParameterError
from bobot.server.openai_chat import ContentPart, text_of
from bobot.server.openai_fields import (
    Count,
    FunctionFields,
    ResponseFormat,
    Share,
    Temperature,
    check_choice,
    check_names,
    response_format,
)
from bobot.server.wire import encode, refuse_unsupported, unsupported_parameter

UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "background": (False,),
    "context_management": ([],),
    "conversation": (),
    "max_tool_calls": (),
    "moderation": (),
    "prompt": (),
    "service_tier": ("auto", "default"),
    "truncation": ("disabled",),
}
INCLUDABLE = {"message.output_text.logprobs", "reasoning.encrypted_content"}
"""The second is asked for by clients that keep the conversation; reasoning is sent in the open."""

CUSTOM_SCHEMA = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}


class Item(Struct, kw_only=True):
    """Any kind of input item; which fields it needs follows from its type."""

    type: str | None = None
    id: str | None = None
    role: str | None = None
    content: str | list[ContentPart] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    input: str | None = None
    output: str | list[ContentPart] | None = None
    summary: list[ContentPart] | None = None
    status: str | None = None


class ResponseTool(Struct, kw_only=True):
    type: str
    name: str | None = None
    description: str | None = None
    parameters: Any = None


class ToolRef(Struct, kw_only=True):
    type: str
    name: str | None = None
    mode: str | None = None
    tools: list[ToolRef] | None = None


class TextConfig(Struct, kw_only=True):
    format: TextFormat | None = None
    verbosity: str | None = None


class TextFormat(Struct, kw_only=True):
    type: str
    schema: Any = None


class Reasoning(Struct, kw_only=True):
    effort: str | None = None


class InputBody(Struct, kw_only=True):
    """What makes the prompt."""

    input: str | list[Item] | None = None
    model: str | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    tools: list[ResponseTool] | None = None
    tool_choice: str | ToolRef | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    text: TextConfig | None = None
    background: Any = None
    context_management: Any = None
    conversation: Any = None
    max_tool_calls: Any = None
    moderation: Any = None
    prompt: Any = None
    service_tier: Any = None
    truncation: Any = None
    private: bool = False
    """bobot's own: never asks a hosted model."""


class ResponseBody(InputBody, kw_only=True):
    stream: bool | None = None
    store: bool | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    max_output_tokens: Count | None = None
    include: list[str] | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None

    @property
    def shows_logprobs(self) -> bool:
        return "message.output_text.logprobs" in (self.include or ())


def response_request(
    body: InputBody, history: list[dict[str, Any]], *, lenient: bool = False
) -> ChatRequest:
    """`history`: the messages before this input. Raises ParameterError."""
    refuse_unsupported(body, UNSUPPORTED, lenient=lenient)
    _check_verbosity(body, lenient=lenient)
    tools = _tools(body, lenient=lenient)
    choice, tools = _choice(body, tools)
    system = [{"role": "system", "content": body.instructions}] if body.instructions else []
    effort = body.reasoning.effort if body.reasoning else None
    sampling = _sampling(body, lenient=lenient) if isinstance(body, ResponseBody) else {}
    return ChatRequest(
        messages=(*system, *history, *input_messages(body, lenient=lenient)),
        sampling=sampling,
        tools=tools,
        tool_choice=check_choice(choice, tools),
        parallel_tool_calls=body.parallel_tool_calls is not False,
        format=_format(body),
        reasoning_effort=effort,
    )


def _sampling(body: ResponseBody, *, lenient: bool) -> dict[str, Any]:
    sampling: dict[str, Any] = {}
    for name in ("temperature", "top_p"):
        if (value := getattr(body, name)) is not None:
            sampling[name] = value
    if body.max_output_tokens == 0 and not lenient:
        raise ParameterError(
            "{param} is {value}; allowed: {allowed}.",
            param="max_output_tokens",
            value=0,
            allowed="1 or more",
        )
    if body.max_output_tokens is not None:
        sampling["max_tokens"] = body.max_output_tokens or 1
    if body.shows_logprobs:
        sampling["logprobs"] = body.top_logprobs or 0
    elif body.top_logprobs and not lenient:
        raise ParameterError(
            "{param} needs include: message.output_text.logprobs.", param="top_logprobs"
        )
    for index, name in enumerate(body.include or ()):
        if name not in INCLUDABLE and not lenient:
            raise unsupported_parameter(f"include[{index}]")
    return sampling


def _check_verbosity(body: InputBody, *, lenient: bool) -> None:
    verbosity = body.text.verbosity if body.text else None
    if verbosity not in (None, "medium") and not lenient:
        raise unsupported_parameter("text.verbosity")


def _format(body: InputBody) -> Format:
    asked = body.text.format if body.text else None
    if asked is None or asked.type == "text":
        return Format()
    schema = ResponseFormat(type=asked.type, schema=asked.schema)
    return response_format(schema, "text.format")


def custom_names(body: InputBody) -> frozenset[str]:
    """The tools whose input is free text."""
    return frozenset(tool.name or "" for tool in body.tools or () if tool.type == "custom")


def _tools(body: InputBody, *, lenient: bool) -> tuple[dict[str, Any], ...]:
    found = []
    for index, tool in enumerate(body.tools or ()):
        place = f"tools[{index}]"
        if tool.type not in ("function", "custom"):
            if lenient:
                continue
            raise unsupported_parameter(f"{place}.type")
        if not tool.name:
            raise _missing(f"{place}.name")
        is_custom = tool.type == "custom"
        function = FunctionFields(
            name=tool.name,
            description=tool.description,
            parameters=CUSTOM_SCHEMA if is_custom else tool.parameters,
        )
        found.append(function.as_tool(place))
    check_names(tuple(found))
    return tuple(found)


def _choice(body: InputBody, tools: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
    """The choice, and the tools among which it is made."""
    choice = body.tool_choice
    if choice is None:
        return "auto", tools
    if isinstance(choice, str):
        if choice not in ("none", "auto", "required"):
            raise ParameterError(
                "{param} is {found!r}; allowed: {allowed}.",
                param="tool_choice",
                found=choice,
                allowed="none, auto, required, or a function",
            )
        return choice, tools
    if choice.type == "allowed_tools":
        names = [ref.name for ref in choice.tools or ()]
        return choice.mode or "auto", tuple(t for t in tools if t["function"]["name"] in names)
    if choice.type in ("function", "custom"):
        return f"function:{choice.name or ''}", tools
    raise unsupported_parameter("tool_choice.type")


def input_messages(body: InputBody, *, lenient: bool = False) -> list[dict[str, Any]]:
    """The messages of the input items. ParameterError names the item that can't be one."""
    if isinstance(body.input, str):
        return [{"role": "user", "content": body.input}]
    if body.input is None:
        if lenient:
            return [{"role": "user", "content": ""}]
        raise _missing("input")
    if not body.input:
        raise ParameterError("{param} is empty.", param="input")
    return list(_messages(body.input))


def _messages(items: Iterable[Item]):
    turn: dict[str, Any] = {}  # of the assistant, as far as it is put together
    for index, item in enumerate(items):
        place = f"input[{index}]"
        kind = item.type or ("message" if item.role else "")
        if kind == "reasoning" or (kind == "message" and item.role == "assistant"):
            if turn.get("tool_calls") or (turn.get("content") and kind == "reasoning"):
                yield turn
                turn = {}
            turn = _with_text(turn, item, kind, place)
        elif kind in ("function_call", "custom_tool_call"):
            turn = turn or {"role": "assistant", "content": ""}
            turn.setdefault("tool_calls", []).append(_call(item, kind, place))
        else:
            if turn:
                yield turn
                turn = {}
            yield _other(item, kind, place)
    if turn:
        yield turn


def _with_text(turn: dict[str, Any], item: Item, kind: str, place: str) -> dict[str, Any]:
    turn = turn or {"role": "assistant", "content": ""}
    if kind == "message":
        text = text_of(_required(item.content, f"{place}.content"), f"{place}.content")
        turn["content"] = f"{turn['content']}\n\n{text}" if turn["content"] else text
        return turn
    parts = item.content if isinstance(item.content, list) else []
    text = "\n\n".join(part.text or "" for part in parts or item.summary or ())
    if text:
        before = turn.get("reasoning_content")
        turn["reasoning_content"] = f"{before}\n\n{text}" if before else text
    return turn


def _call(item: Item, kind: str, place: str) -> dict[str, Any]:
    if kind == "custom_tool_call":
        arguments = encode({"input": _required(item.input, f"{place}.input")}).decode()
    else:
        arguments = _required(item.arguments, f"{place}.arguments")
    function = {"name": _required(item.name, f"{place}.name"), "arguments": arguments}
    call_id = _required(item.call_id, f"{place}.call_id")
    return {"id": call_id, "type": "function", "function": function}


def _other(item: Item, kind: str, place: str) -> dict[str, Any]:
    """A message of somebody else, or the output of a tool."""
    if kind in ("function_call_output", "custom_tool_call_output"):
        text = text_of(_required(item.output, f"{place}.output"), f"{place}.output")
        call_id = _required(item.call_id, f"{place}.call_id")
        return {"role": "tool", "content": text, "tool_call_id": call_id}
    if kind != "message":
        raise unsupported_parameter(f"{place}.type")
    roles = {"user": "user", "system": "system", "developer": "system"}
    if item.role not in roles:
        raise ParameterError(
            "{param} is {found!r}; allowed: {allowed}.",
            param=f"{place}.role",
            found=item.role or "",
            allowed="user, assistant, system, developer",
        )
    content = _required(item.content, f"{place}.content")
    return {"role": roles[item.role], "content": text_of(content, f"{place}.content")}


def as_items(body: InputBody) -> list[dict[str, Any]]:
    """The input as the route input_items lists it."""
    if isinstance(body.input, list):
        items = [msgspec.to_builtins(item) for item in body.input]
        return [{k: v for k, v in item.items() if v is not None} for item in items]
    part = {"type": "input_text", "text": body.input or ""}
    return [{"type": "message", "role": "user", "content": [part]}]


def _required(value: Any, param: str) -> Any:
    if value is None:
        raise _missing(param)
    return value


def _missing(param: str) -> ParameterError:
    return ParameterError("{param} is missing.", param=param, code="missing_required_parameter")
