"""Anthropic's messages: the request, checked and turned into a ChatRequest."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from bobot.chat.protocol import ChatRequest, Format, ParameterError
from bobot.server.openai_fields import (
    FunctionFields,
    Share,
    check_choice,
    check_names,
    checked_schema,
    stops_of,
)
from bobot.server.wire import encode, refuse_unsupported, unsupported_parameter

UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "container": (),
    "context_management": (
        {},
        {"edits": []},
        {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},  # Claude Code's: no edit
    ),
    "mcp_servers": ([],),
    "service_tier": ("auto", "standard_only"),
    "speed": ("standard",),
}


USUAL_EFFORT = "high"
"""Anthropic's own: whoever says it asks for nothing special, and Claude Code always does."""


class Block(Struct, kw_only=True):
    """Any kind of content; which fields it needs follows from its type."""

    type: str
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: str | list[Block] | None = None
    is_error: bool | None = None
    source: Source | None = None
    title: str | None = None


class Source(Struct, kw_only=True):
    """Of a document."""

    type: str
    data: str | None = None
    media_type: str | None = None


class AnthropicMessage(Struct, kw_only=True):
    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class AnthropicTool(Struct, kw_only=True):
    name: Annotated[str, Meta(min_length=1, max_length=256)]
    type: str | None = None
    description: str | None = None
    input_schema: Any = None


class AnthropicChoice(Struct, kw_only=True):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Struct, kw_only=True):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = None
    display: Literal["summarized", "omitted"] | None = None


class OutputFormat(Struct, kw_only=True):
    type: Literal["json_schema"]
    schema: Any = None


class OutputConfig(Struct, kw_only=True):
    effort: str | None = None
    format: OutputFormat | None = None


class CountBody(Struct, kw_only=True):
    messages: Annotated[list[AnthropicMessage], Meta(min_length=1)]
    model: str | None = None
    system: str | list[Block] | None = None
    tools: list[AnthropicTool] | None = None
    tool_choice: AnthropicChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None


class MessagesBody(CountBody, kw_only=True):
    max_tokens: Annotated[int, Meta(ge=1)]
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_p: Share | None = None
    top_k: Annotated[int, Meta(ge=0)] | None = None
    container: Any = None
    context_management: Any = None
    mcp_servers: Any = None
    service_tier: Any = None
    speed: Any = None
    private: bool = False
    """bobot's own: never asks a hosted model."""

    @property
    def shows_thinking(self) -> bool:
        """Blocks of thinking are sent only to those who asked for them, as Anthropic does."""
        thinking = self.thinking
        return (
            thinking is not None and thinking.type != "disabled" and thinking.display != "omitted"
        )


def messages_request(body: MessagesBody, *, lenient: bool = False) -> ChatRequest:
    """Raises ParameterError."""
    refuse_unsupported(body, UNSUPPORTED, lenient=lenient)
    sampling: dict[str, Any] = {"max_tokens": body.max_tokens}
    for name in ("temperature", "top_p", "top_k"):
        if (value := getattr(body, name)) is not None:
            sampling[name] = value
    return _request(body, sampling, stops_of(body.stop_sequences, "stop_sequences"), lenient)


def count_request(body: CountBody, *, lenient: bool = False) -> ChatRequest:
    """The same prompt, for counting. Raises ParameterError."""
    return _request(body, {}, (), lenient)


def _request(
    body: CountBody, sampling: dict[str, Any], stop: tuple[str, ...], lenient: bool
) -> ChatRequest:
    tools = _tools(body, lenient=lenient)
    given = body.tool_choice
    choice = "auto"
    if given is not None:
        named = f"function:{given.name or ''}"
        choice = {"any": "required", "tool": named}.get(given.type, given.type)
    messages = list(_messages(body))
    effort = body.output_config.effort if body.output_config else None
    return ChatRequest(
        messages=tuple(messages),
        sampling=sampling,
        stop=stop,
        tools=tools,
        tool_choice=check_choice(choice, tools),
        parallel_tool_calls=not (given and given.disable_parallel_tool_use),
        format=_format(body),
        reasoning_effort=effort,
        effort_is_optional=effort == USUAL_EFFORT,
        continues_last=messages[-1]["role"] == "assistant" and "tool_calls" not in messages[-1],
    )


def _format(body: CountBody) -> Format:
    config = body.output_config
    asked = (config.format if config else None) or body.output_format
    if asked is None:
        return Format()
    return Format("json_schema", schema=checked_schema(asked.schema, "output_config.format.schema"))


def _tools(body: CountBody, *, lenient: bool) -> tuple[dict[str, Any], ...]:
    found = []
    for index, tool in enumerate(body.tools or ()):
        if tool.type not in (None, "custom"):
            if lenient:
                continue
            raise unsupported_parameter(f"tools[{index}].type")
        function = FunctionFields(
            name=tool.name, description=tool.description, parameters=tool.input_schema
        )
        found.append(function.as_tool(f"tools[{index}]", lenient=lenient))
    check_names(tuple(found))
    return tuple(found)


def _messages(body: CountBody):
    if body.system:
        yield {"role": "system", "content": _text(body.system, "system")}
    for index, message in enumerate(body.messages):
        place = f"messages[{index}].content"
        if isinstance(message.content, str):
            yield {"role": message.role, "content": message.content}
        elif message.role == "assistant":
            yield _assistant(message.content, place)
        else:
            yield from _user(message.role, message.content, place)


def _user(role: str, blocks: list[Block], place: str):
    """Results of tools come first, each as a message of its own; then what the user says."""
    said: list[Block] = []
    for index, block in enumerate(blocks):
        if block.type != "tool_result":
            said.append(block)
            continue
        if block.tool_use_id is None:
            raise _missing(f"{place}[{index}].tool_use_id")
        text = _text(block.content or "", f"{place}[{index}].content")
        text = f"Error: {text}" if block.is_error else text
        yield {"role": "tool", "content": text, "tool_call_id": block.tool_use_id}
    if said or not blocks:
        yield {"role": role, "content": _text(said, place)}


def _assistant(blocks: list[Block], place: str) -> dict[str, Any]:
    texts, thoughts, calls = [], [], []
    for index, block in enumerate(blocks):
        here = f"{place}[{index}]"
        if block.type == "tool_use":
            if not block.name or block.id is None:
                raise _missing(f"{here}.{'id' if block.name else 'name'}")
            arguments = encode(block.input or {}).decode()
            function = {"name": block.name, "arguments": arguments}
            calls.append({"id": block.id, "type": "function", "function": function})
        elif block.type == "thinking":
            thoughts.append(block.thinking or "")
        elif block.type != "redacted_thinking":
            texts.append(_block_text(block, here))
    message: dict[str, Any] = {"role": "assistant", "content": "\n".join(texts)}
    if any(thoughts):
        message["reasoning_content"] = "\n\n".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return message


def _text(content: str | list[Block], place: str) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(_block_text(block, f"{place}[{i}]") for i, block in enumerate(content))


def _block_text(block: Block, place: str) -> str:
    """A text, or a document that is one. ParameterError for images and the like."""
    if block.type == "document" and block.source is not None and block.source.type == "text":
        title = f"{block.title}\n" if block.title else ""
        return f"{title}{block.source.data or ''}"
    if block.type != "text":
        raise ParameterError(
            "{param} is {found!r}; only text is supported.",
            param=f"{place}.type",
            code="unsupported_parameter",
            found=block.type,
        )
    if block.text is None:
        raise _missing(f"{place}.text")
    return block.text


def _missing(param: str) -> ParameterError:
    return ParameterError("{param} is missing.", param=param, code="missing_required_parameter")
