"""Harmony, the prompt format of gpt-oss: a conversation as the exact text the model was trained on.

    <|start|>system<|message|>You are ChatGPT, ...<|end|>
    <|start|>developer<|message|># Instructions ... # Tools ...<|end|>
    <|start|>user<|message|>Weather in Jakarta?<|end|>
    <|start|>assistant<|channel|>analysis<|message|>I need the tool.<|end|>
    <|start|>assistant to=functions.get_weather<|channel|>commentary json<|message|>{...}<|call|>
    <|start|>functions.get_weather to=assistant<|channel|>commentary<|message|>31<|end|>
    <|start|>assistant

(one line here, without the breaks). Same text as openai-harmony 0.0.8, except that reasoning is
left out as soon as a final answer follows it, as OpenAI's guide to the format and its chat template
say; that library leaves out only what stands before the first final answer. No built-in browser or
python tool. What comes back is read by harmony_parser.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from bobot.errors import TemplateError
from bobot.text.harmony_types import namespace
from bobot.text.parts import reasoning_of

SPECIALS = ("<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>", "<|call|>")
EFFORTS = ("low", "medium", "high")
IDENTITY = "You are ChatGPT, a large language model trained by OpenAI."
ROLES = ("system", "developer", "user", "assistant", "tool")


def is_harmony(special_tokens: Iterable[str], template: object = None) -> bool:
    """Whether these special tokens are harmony's, and `template`, if there is one, writes them."""
    has_tokens = set(SPECIALS) <= set(special_tokens)
    return has_tokens and (not isinstance(template, str) or "<|channel|>" in template)


class HarmonyFormat:
    """The chat format of tokenizers with harmony's special tokens.

    Template variables: reasoning_effort (low, medium, high) and model_identity. `published` is the
    Jinja template beside the model, which is not used.
    """

    source = "built-in: harmony"
    takes_argument_text = True

    def __init__(self, published: str | None = None) -> None:
        self.published = published

    def takes(self, variable: str) -> bool:
        return variable in ("tools", "reasoning_effort", "model_identity")

    def render(self, messages: list, tools: list | None, **variables: Any) -> str:
        """The prompt; `now` is the clock of its date. Raises TemplateError for what can't be
        written."""
        now: Callable[[], datetime] = variables.pop("now")
        add_generation_prompt = variables.pop("add_generation_prompt", True)
        effort = variables.pop("reasoning_effort", None) or "medium"
        identity = variables.pop("model_identity", None) or IDENTITY
        if variables:
            raise _refuse(f"unknown variable {next(iter(variables))!r}")
        if effort not in EFFORTS:
            raise _refuse(f"reasoning_effort {effort!r}; allowed: {', '.join(EFFORTS)}")
        try:
            prompt = _system(identity, now(), effort, bool(tools))
            prompt += _developer(messages, tools or [])
            prompt += "".join(_turns(messages))
        except (AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
            raise _refuse(f"a message or tool is damaged: {error!r}"[:300]) from error
        return prompt + ("<|start|>assistant" if add_generation_prompt else "")


def _refuse(problem: str) -> TemplateError:
    return TemplateError("The harmony format refuses this conversation: {problem}", problem=problem)


def _message(header: str, content: str, end: str = "<|end|>") -> str:
    return f"<|start|>{header}<|message|>{content}{end}"


def _system(identity: str, now: datetime, effort: str, has_tools: bool) -> str:
    content = (
        f"{identity}\nKnowledge cutoff: 2024-06\nCurrent date: {now:%Y-%m-%d}\n\n"
        f"Reasoning: {effort}\n\n"
        "# Valid channels: analysis, commentary, final."
        " Channel must be included for every message."
    )
    if has_tools:
        content += "\nCalls to these tools must go to the commentary channel: 'functions'."
    return _message("system", content)


def _developer(messages: list, tools: list) -> str:
    """System and developer messages as instructions, the tools as functions; empty if neither."""
    told = [_text(message) for message in messages if message["role"] in ("system", "developer")]
    sections = ["# Instructions\n\n" + "\n\n".join(told)] if told else []
    if tools:
        functions = [tool.get("function", tool) for tool in tools]
        sections.append("# Tools\n\n" + namespace("functions", functions))
    return _message("developer", "\n\n".join(sections)) if sections else ""


def _turns(messages: list) -> Iterator[str]:
    """User, assistant and tool messages in harmony's own messages."""
    last_final = max((i for i, message in enumerate(messages) if _is_final(message)), default=-1)
    names: dict[object, str] = {}  # call id -> function
    for number, message in enumerate(messages):
        role = message["role"]
        if role == "user":
            yield _message("user", _text(message))
        elif role == "assistant":
            yield from _answer(message, shows_reasoning=number > last_final)
            names |= {call.get("id"): _function(call)["name"] for call in _calls(message)}
        elif role == "tool":
            name = names.get(message.get("tool_call_id"), message.get("name"))
            if name is None:
                raise _refuse("a tool message answers no tool call and has no name")
            header = f"functions.{name} to=assistant<|channel|>commentary"
            yield _message(header, _text(message))
        elif role not in ROLES:
            raise _refuse(f"role {role!r}; allowed: {', '.join(ROLES)}")


def _answer(message: Mapping, *, shows_reasoning: bool) -> Iterator[str]:
    """Reasoning, then either the final text, or a preamble and the calls."""
    reasoning = reasoning_of(message)
    if reasoning and shows_reasoning:
        yield _message("assistant<|channel|>analysis", reasoning)
    text = _text(message)
    if _is_final(message):
        yield _message("assistant<|channel|>final", text)
    elif text:
        yield _message("assistant<|channel|>commentary", text)
    for call in _calls(message):
        function = _function(call)
        arguments = function["arguments"]
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        header = f"assistant to=functions.{function['name']}<|channel|>commentary <|constrain|>json"
        yield _message(header, arguments, "<|call|>")


def _is_final(message: Mapping) -> bool:
    return message["role"] == "assistant" and not _calls(message)


def _calls(message: Mapping) -> list:
    return message.get("tool_calls") or []


def _function(call: Mapping) -> Mapping:
    return call.get("function", call)


def _text(message: Mapping) -> str:
    """The text of a message; text parts follow each other without a break."""
    content = message.get("content")
    if isinstance(content, list):
        if not all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
            raise _refuse("a message holds parts other than text")
        return "".join(part["text"] for part in content)
    if content is not None and not isinstance(content, str):
        raise _refuse("the content of a message is not text")
    return content or ""
