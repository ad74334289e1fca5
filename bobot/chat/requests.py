"""From a request in the words of protocol.py to what the engine is asked: prompt, parameters,
grammar, or a ParameterError that names what can't be done.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

from bobot.chat.local import LocalModel
from bobot.chat.protocol import NO_REASONING, ChatRequest, Format, ParameterError, TextRequest
from bobot.chat.token_reader import Parser, PlainText
from bobot.engine import SamplingParams
from bobot.engine.sampling_params import MAX_LOGPROBS
from bobot.errors import BobotError, RequestError
from bobot.text import Detokenizer, Tokenizer
from bobot.text import constraints as grammars
from bobot.text.answer_parser import answer_parser, answer_style
from bobot.text.answer_rules import AnswerRules, Calls, arguments_rule
from bobot.text.called_tags import told
from bobot.text.constraints import Rule
from bobot.text.harmony import EFFORTS, ROLES, HarmonyFormat
from bobot.text.harmony_parser import HarmonyGrammar
from bobot.text.markers import Marker

_NAME = re.compile(r"[\w.-]{1,128}", re.ASCII)
_OWN_VARIABLES = ("messages", "tools", "add_generation_prompt", "now", "continues_last")
_SWITCHES = ("enable_thinking", "thinking")
"""Variables by which chat templates turn reasoning off; models without reasoning know neither."""
_FIELDS = {item.name: item for item in fields(SamplingParams)}


@dataclass(frozen=True)
class Work:
    """What the engine is asked."""

    prompt_ids: list[int]
    params: SamplingParams | None
    """None: the prompt is only read."""
    new_parser: Callable[[], Parser]
    stop: tuple[str, ...]
    grammar: str | None = None
    rules: tuple[tuple[str, Rule], ...] = ()
    """The parts of the grammar, each with the parameter that it comes from."""
    opens_text: bool = False
    """The answer goes on with no text: see Detokenizer."""
    reports_progress: bool = False


def chat_work(model: LocalModel, request: ChatRequest) -> Work:
    """ParameterError where the conversation, its tools or its format can't be had."""
    params = sampling_params({"max_tokens": None, **model.default_sampling, **request.sampling})
    tokenizer = _tokenizer_for_chat(model)
    tools, calls = _tools(request)
    tells_tools = not tokenizer.takes("tools")
    ids = _chat_ids(model, tokenizer, request, tools, tells_tools)
    if request.begins_with_bos and tokenizer.adds_bos and ids[:1] != [tokenizer.bos_id]:
        ids = model.encode("") + ids
    style = answer_style(
        tokenizer,
        tools=tools,
        prompt_ids=() if request.continues_last else ids,
        has_told_tools=bool(tools) and tells_tools,
    )

    if request.reasoning_effort == NO_REASONING and style.reasoning and style.reasoning.is_open:
        # The template opens the reasoning whatever it is asked: it is closed again, empty.
        ids += tokenizer.encode(style.reasoning.end, allow_special=True)
        style = replace(style, reasoning=style.reasoning._replace(is_open=False))

    opens_text = not request.continues_last

    def parser() -> Parser:
        parser = answer_parser(tokenizer, tools=tools, style=style, opens_text=opens_text)
        if request.continues_last and isinstance(parser.grammar, HarmonyGrammar):
            parser.grammar.marker(Marker("<|channel|>"))
            parser.grammar.text("final")
            parser.grammar.marker(Marker("<|message|>"))
        return parser

    text, parts = _format_rule(request.format)
    grammar = None
    if parts or calls != "none":
        _check_can_end(params)
        rules = AnswerRules(
            style=style,
            text=text,
            tools=tools,
            calls=calls,
            is_parallel=request.parallel_tool_calls,
            in_text=request.continues_last,
        )
        grammar = rules.grammar(tokenizer)
        names = [tool["function"]["name"] for tool in request.tools]
        for tool in tools:
            number = names.index(tool["function"]["name"])
            parts += ((f"tools[{number}].function.parameters", arguments_rule(tool)),)
    return Work(
        ids,
        params,
        parser,
        request.stop,
        grammar,
        parts,
        opens_text=opens_text,
        reports_progress=request.reports_progress,
    )


def text_work(model: LocalModel, request: TextRequest) -> Work:
    """ParameterError where the prompt can't be continued as asked."""
    if request.suffix:
        raise ParameterError(
            "{name} writes no text in front of a suffix.",
            param="suffix",
            code="unsupported_parameter",
            name=model.name,
        )
    if isinstance(request.prompt, str):
        with named("prompt"):
            ids = model.encode(request.prompt)
    else:
        ids = list(request.prompt)
    scores = request.prompt_logprobs
    if scores is not None and not (type(scores) is int and 0 <= scores <= MAX_LOGPROBS):
        raise ParameterError(
            "prompt_logprobs is {found}; allowed: 0 to {most}.",
            param="prompt_logprobs",
            found=scores,
            most=MAX_LOGPROBS,
        )
    sampling = dict(request.sampling)
    only_reads = scores is not None and sampling.get("max_tokens") == 0
    if only_reads:
        sampling["max_tokens"] = None
    params = sampling_params(sampling)
    if only_reads and params.n > 1:
        raise ParameterError(
            "n is {found}; a prompt that is only scored has 1 answer.", param="n", found=params.n
        )
    tokenizer = model.tokenizer
    rule, parts = _format_rule(request.format)
    if tokenizer is None and (request.stop or rule):
        with named("stop" if request.stop else "response_format"):
            model.need_tokenizer()
    if rule is not None:
        _check_can_end(params)

    def parser() -> Parser:
        return PlainText(None if tokenizer is None else Detokenizer(tokenizer, opens_text=False))

    grammar = None if rule is None else grammars.grammar_for([rule], "start: @rule_0")
    return Work(
        ids,
        None if only_reads else params,
        parser,
        request.stop,
        grammar,
        parts,
        reports_progress=request.reports_progress,
    )


def sampling_params(sampling: Mapping[str, Any]) -> SamplingParams:
    """ParameterError for an unknown name, a value of another type, or one out of range."""
    values = dict(sampling)
    for name, value in sampling.items():
        if name not in _FIELDS:
            raise ParameterError(
                "Unknown sampling parameter {found}; known: {allowed}.",
                param=name,
                code="unsupported_parameter",
                found=name,
                allowed=", ".join(_FIELDS),
            )
        values[name] = _typed(name, value)
    try:
        return SamplingParams(**values)
    except RequestError as error:
        param = str(error.values.get("name", "sampling"))
        raise ParameterError("{problem}", param=param, problem=str(error)) from error


def _typed(name: str, value: Any) -> Any:
    """The value in the type of its field; ids in logit_bias may be text, as JSON has them."""
    default = _FIELDS[name].default
    if name == "logit_bias":
        if isinstance(value, Mapping) and all(map(_is_bias, value.items())):
            return {int(key): bias for key, bias in value.items()}
    elif name == "stop_token_ids":
        if isinstance(value, list | tuple) and all(type(item) is int for item in value):
            return tuple(value)
    elif isinstance(default, bool):
        if isinstance(value, bool):
            return value
    elif value is None and name in ("max_tokens", "seed", "logprobs"):
        return None
    elif isinstance(default, float):
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    elif type(value) is int:
        return value
    raise ParameterError(
        "{name} is {found}, which is of another type.", param=name, name=name, found=repr(value)
    )


def _is_bias(item: tuple[Any, Any]) -> bool:
    key, bias = item
    return bool(re.fullmatch(r"\d{1,9}", str(key))) and type(bias) in (int, float)


def _check_can_end(params: SamplingParams) -> None:
    if params.ignore_eos:
        raise ParameterError(
            "An answer with a format or with tools ends where its grammar ends.",
            param="ignore_eos",
            code="unsupported_parameter",
        )


def _format_rule(wanted: Format) -> tuple[Rule | None, tuple[tuple[str, Rule], ...]]:
    """The rule of the visible text, alone and with the name of its parameter."""
    if wanted.kind == "text":
        return None, ()
    param = f"response_format.{wanted.kind}"
    if wanted.kind == "json_schema":
        param += ".schema"
    with named(param):
        if wanted.kind == "json_object":
            rule = grammars.json_schema({"type": "object"})
        elif wanted.kind == "json_schema":
            rule = grammars.json_schema(wanted.schema)
        else:
            make = {"regex": grammars.regex, "lark": grammars.lark, "gbnf": grammars.gbnf}
            rule = make[wanted.kind](wanted.grammar)
        return rule, ((param, rule),)


def _tools(request: ChatRequest) -> tuple[list[Mapping[str, Any]], Calls]:
    """The tools that the model may see, and whether it may or must call them."""
    choice = request.tool_choice
    names = [_checked_name(tool, f"tools[{number}]") for number, tool in enumerate(request.tools)]
    wanted = choice.removeprefix("function:")
    if choice not in ("auto", "none", "required") and (wanted == choice or wanted not in names):
        raise ParameterError(
            "tool_choice is {found}; allowed: auto, none, required, or one of the tools.",
            param="tool_choice",
            found=choice,
        )
    if choice == "required" and not names:
        raise ParameterError("A call is required, and no tools are given.", param="tool_choice")
    if choice == "none" or not names:
        return [], "none"
    if choice in ("auto", "required"):
        return list(request.tools), "allowed" if choice == "auto" else "required"
    return [t for t in request.tools if t["function"]["name"] == wanted], "required"


def _checked_name(tool: Mapping[str, Any], param: str) -> str:
    """The name of a tool that is well made."""
    function = tool.get("function")
    if tool.get("type") != "function" or not isinstance(function, Mapping):
        raise ParameterError("The tool is no function.", param=param)
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ParameterError(
            "A tool is called {found}; allowed: 1 to 128 letters, digits, '_', '-' and '.'.",
            param=f"{param}.function.name",
            found=repr(name),
        )
    if not isinstance(function.get("parameters") or {}, Mapping):
        raise ParameterError(
            "The parameters of a tool are a JSON schema: an object.",
            param=f"{param}.function.parameters",
        )
    with named(f"{param}.function.parameters"):
        arguments_rule(tool)
    return name


def _tokenizer_for_chat(model: LocalModel) -> Tokenizer:
    with named("messages"):
        tokenizer = model.need_tokenizer()
        model.need_chat_template(tokenizer)
    return tokenizer


def _chat_ids(
    model: LocalModel,
    tokenizer: Tokenizer,
    request: ChatRequest,
    tools: Sequence[Mapping[str, Any]],
    tells_tools: bool,
) -> list[int]:
    options = _options(model, tokenizer, request)
    messages = [_checked_message(m, f"messages[{n}]") for n, m in enumerate(request.messages)]
    if request.continues_last and (not messages or messages[-1].get("role") != "assistant"):
        raise ParameterError(
            "Only a message of the assistant can be continued.",
            param=f"messages[{max(0, len(messages) - 1)}].role",
        )
    if tells_tools:
        messages = told(messages, tools)
    elif not tokenizer.takes_argument_text:
        messages = [_with_objects(message) for message in messages]
    with named("messages"):
        return tokenizer.encode_chat(
            messages,
            None if tells_tools else tools,
            continues_last=request.continues_last,
            **options,
        )


def _checked_message(message: Mapping[str, Any], param: str) -> dict[str, Any]:
    """A copy of a message that is well made; what templates do not ask they would show as text."""
    if message.get("role") not in ROLES:
        raise ParameterError(
            "The role is {found}; allowed: {allowed}.",
            param=f"{param}.role",
            found=repr(message.get("role")),
            allowed=", ".join(ROLES),
        )
    if not isinstance(message.get("content"), str | None):
        raise ParameterError("The content of a message is a text.", param=f"{param}.content")
    for number, call in enumerate(message.get("tool_calls") or ()):
        function = call.get("function") if isinstance(call, Mapping) else None
        function = function if isinstance(function, Mapping) else {}
        is_named = isinstance(function.get("name"), str)
        if not is_named or not isinstance(function.get("arguments"), str | Mapping):
            raise ParameterError(
                "A tool call has a function with a name and arguments, a text.",
                param=f"{param}.tool_calls[{number}]",
            )
    return dict(message)


def _options(model: LocalModel, tokenizer: Tokenizer, request: ChatRequest) -> dict[str, Any]:
    """The variables of the chat template that were asked for; it must know them."""
    options = dict(request.template_options)
    for name in options:
        if name in _OWN_VARIABLES or not tokenizer.takes(name):
            raise ParameterError(
                "The chat template of {name} has no option {found}.",
                param=f"chat_template_kwargs.{name}",
                code="unsupported_parameter",
                name=model.name,
                found=name,
            )
    takes_effort, effort = tokenizer.takes("reasoning_effort"), request.reasoning_effort
    if not takes_effort and request.effort_is_optional:
        effort = None
    if effort == NO_REASONING and not takes_effort:
        for name in _SWITCHES:
            if tokenizer.takes(name):
                options[name] = False
    elif effort is not None:
        if not takes_effort:
            raise ParameterError(
                "{name} has no reasoning effort to set: its chat template knows none.",
                param="reasoning_effort",
                code="unsupported_parameter",
                name=model.name,
            )
        if tokenizer.chat_template == HarmonyFormat.source and effort not in EFFORTS:
            raise ParameterError(
                "reasoning_effort is {found}; allowed: {allowed}.",
                param="reasoning_effort",
                found=effort,
                allowed=", ".join(EFFORTS),
            )
        options["reasoning_effort"] = effort
    return options


def _with_objects(message: dict[str, Any]) -> dict[str, Any]:
    """The message with the arguments of its calls as objects, as its template wants them."""
    calls = message.get("tool_calls")
    if not calls:
        return message
    return {**message, "tool_calls": [_with_object(call) for call in calls]}


def _with_object(call: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that are no JSON object stay the text that they are."""
    function = call["function"]
    try:
        arguments = json.loads(function["arguments"])
    except (TypeError, ValueError, RecursionError):
        return dict(call)
    if not isinstance(arguments, dict):
        return dict(call)
    return {**call, "function": {**function, "arguments": arguments}}


@contextmanager
def named(param: str) -> Iterator[None]:
    """Gives a failure the name of the parameter that caused it."""
    try:
        yield
    except ParameterError:
        raise
    except BobotError as error:
        raise ParameterError("{problem}", param=param, problem=str(error)) from error
