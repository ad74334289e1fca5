"""Pieces that OpenAI's requests share: sampling, tools, formats of answers."""

from __future__ import annotations

import re
from typing import Annotated, Any

from msgspec import Meta, Struct

from bobot.chat.protocol import Format, ParameterError
from bobot.server.llama_samplers import LlamaSamplers, refuse_samplers

Temperature = Annotated[float, Meta(ge=0, le=2)]
Share = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Seed = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
Count = Annotated[int, Meta(ge=0)]
MAX_STOPS = 16

SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "n",
    "ignore_eos",
)
"""Fields that SamplingParams calls by the same name."""


class SamplingFields(LlamaSamplers, kw_only=True):
    """What chat/completions and completions ask of the sampler; beside OpenAI's the fields that
    vLLM and llama.cpp have in the same place."""

    temperature: Temperature | None = None
    top_p: Share | None = None
    top_k: Annotated[int, Meta(ge=-1)] | None = None
    min_p: Share | None = None
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=100)] | None = None
    repeat_penalty: Annotated[float, Meta(ge=0.01, le=100)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[str, float] | None = None
    seed: Seed | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    max_tokens: Count | None = None
    grammar: str | None = None
    json_schema: Any = None
    guided_json: Any = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    structured_outputs: StructuredOutputs | None = None
    return_token_ids: bool | None = None
    cache_prompt: bool | None = None
    prompt_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None


class StructuredOutputs(Struct, kw_only=True):
    """vLLM's way to ask for a form."""

    json: Any = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None


def sampling_of(body: SamplingFields, *, lenient: bool) -> dict[str, Any]:
    """In the words of SamplingParams, without max_tokens and logprobs."""
    if not lenient:
        repeat = body.repetition_penalty or body.repeat_penalty or 1
        others = body.presence_penalty or body.frequency_penalty
        refuse_samplers(body, has_penalty=bool(repeat != 1 or others))
    found = {name: getattr(body, name) for name in SAMPLING}
    if body.repetition_penalty is None:
        found["repetition_penalty"] = body.repeat_penalty
    if body.top_k == -1:  # vLLM's way to say: all
        found["top_k"] = 0
    if body.seed is not None:
        found["seed"] = body.seed % (1 << 63)
    if body.stop_token_ids:
        found["stop_token_ids"] = tuple(body.stop_token_ids)
    if body.logit_bias:
        found["logit_bias"] = _logit_bias(body.logit_bias, lenient=lenient) or None
    return {name: value for name, value in found.items() if value is not None}


def _logit_bias(given: dict[str, float], *, lenient: bool) -> dict[int, float]:
    bias = {}
    for name, value in given.items():
        if not re.fullmatch(r"[0-9]{1,9}", name):
            if lenient:
                continue
            raise ParameterError("{param}: {name!r} is no token id.", param="logit_bias", name=name)
        if not -100 <= value <= 100:
            raise ParameterError(
                "{param} is {value}; allowed: {allowed}.",
                param=f"logit_bias.{name}",
                value=value,
                allowed="-100 to 100",
            )
        bias[int(name)] = value
    return bias


def stops_of(stop: str | list[str] | None, param: str = "stop") -> tuple[str, ...]:
    """The stop strings; ParameterError for an empty one or too many."""
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if "" in stops:
        raise ParameterError("{param} holds an empty text.", param=param)
    if len(stops) > MAX_STOPS:
        raise ParameterError(
            "{param} has {found} texts; at most {allowed} are allowed.",
            param=param,
            found=len(stops),
            allowed=MAX_STOPS,
        )
    return stops


class JsonSchema(Struct, kw_only=True):
    schema: Any = None
    name: str | None = None
    strict: bool | None = None


class ResponseFormat(Struct, kw_only=True):
    type: str
    json_schema: JsonSchema | None = None
    schema: Any = None
    grammar: str | None = None


def format_of(body: SamplingFields, asked: ResponseFormat | None = None) -> Format:
    """The one form that is asked for; ParameterError when there are two."""
    forms = list(_forms(body))
    if asked is not None and asked.type != "text":
        forms.append(("response_format", response_format(asked)))
    if len(forms) > 1:
        raise ParameterError(
            "{param} and {other} exclude each other.", param=forms[1][0], other=forms[0][0]
        )
    return forms[0][1] if forms else Format()


def response_format(asked: ResponseFormat, param: str = "response_format") -> Format:
    """OpenAI's response_format."""
    if asked.type == "json_object":
        # llama.cpp and Fireworks put a schema beside it.
        if asked.schema is None:
            return Format("json_object")
        return Format("json_schema", schema=checked_schema(asked.schema, f"{param}.schema"))
    if asked.type == "json_schema":
        schema = asked.json_schema.schema if asked.json_schema else asked.schema
        if schema is None:
            raise ParameterError(
                "{param} is missing.",
                param=f"{param}.json_schema.schema",
                code="missing_required_parameter",
            )
        return Format("json_schema", schema=checked_schema(schema, f"{param}.json_schema.schema"))
    if asked.type == "grammar" and asked.grammar is not None:
        return Format("lark", grammar=asked.grammar)
    raise ParameterError(
        "{param} is {found!r}; allowed: {allowed}.",
        param=f"{param}.type",
        found=asked.type,
        allowed="text, json_object, json_schema, grammar",
    )


def checked_schema(schema: Any, param: str) -> Any:
    """A JSON schema is an object or a boolean."""
    if not isinstance(schema, dict | bool):
        raise ParameterError("{param} is no JSON schema.", param=param)
    return schema


def _forms(body: SamplingFields):
    """(name of the field, form) of each way of vLLM and llama.cpp that is used."""
    vllm = body.structured_outputs or StructuredOutputs()
    for name, schema in (
        ("json_schema", body.json_schema),
        ("guided_json", body.guided_json),
        ("structured_outputs.json", vllm.json),
    ):
        if schema is not None:
            yield name, Format("json_schema", schema=checked_schema(schema, name))
    for name, choice in (
        ("guided_choice", body.guided_choice),
        ("structured_outputs.choice", vllm.choice),
    ):
        if choice is not None:
            if not choice:
                raise ParameterError("{param} is empty.", param=name)
            yield name, Format("regex", grammar="|".join(map(re.escape, choice)))
    if vllm.json_object:
        yield "structured_outputs.json_object", Format("json_object")
    for name, regex in (
        ("guided_regex", body.guided_regex),
        ("structured_outputs.regex", vllm.regex),
    ):
        if regex is not None:
            yield name, Format("regex", grammar=regex)
    for name, grammar in (
        ("grammar", body.grammar),
        ("guided_grammar", body.guided_grammar),
        ("structured_outputs.grammar", vllm.grammar),
    ):
        if grammar:
            yield name, Format("gbnf", grammar=grammar)


class FunctionFields(Struct, kw_only=True):
    """A function that the model may call."""

    name: Annotated[str, Meta(min_length=1, max_length=256)]
    description: str | None = None
    parameters: Any = None
    strict: bool | None = None

    def as_tool(self, param: str, *, lenient: bool = False) -> dict[str, Any]:
        """For the chat template. `strict` is left out: arguments always keep to their schema.
        Leniently, what is no schema inside one allows everything.
        """
        schema = _loosened(self.parameters) if lenient else self.parameters
        if schema is not None and not isinstance(schema, dict):
            raise ParameterError("{param} is no JSON schema.", param=f"{param}.parameters")
        function = {
            "name": self.name,
            "description": self.description or "",
            "parameters": schema or {"type": "object", "properties": {}},
        }
        return {"type": "function", "function": function}


def _loosened(schema: Any) -> Any:
    if not isinstance(schema, dict) or not isinstance(schema.get("properties"), dict):
        return schema
    inner = {
        name: _loosened(value) if isinstance(value, dict | bool) else True
        for name, value in schema["properties"].items()
    }
    return {**schema, "properties": inner}


def check_choice(choice: str, tools: tuple[Any, ...], param: str = "tool_choice") -> str:
    """ParameterError where a call is demanded and there is no such tool."""
    names = [tool["function"]["name"] for tool in tools]
    if choice == "required" and not names:
        raise ParameterError("{param} demands a call, and there are no tools.", param=param)
    if choice.startswith("function:") and choice.removeprefix("function:") not in names:
        raise ParameterError(
            "{param} names {found!r}; the tools are: {allowed}.",
            param=param,
            found=choice.removeprefix("function:"),
            allowed=", ".join(names) or "none",
        )
    return choice


def check_names(tools: tuple[Any, ...], param: str = "tools") -> None:
    """ParameterError for two tools of one name."""
    names = [tool["function"]["name"] for tool in tools]
    twice = next((name for number, name in enumerate(names) if name in names[:number]), None)
    if twice is not None:
        raise ParameterError("{param} has two tools named {name!r}.", param=param, name=twice)
