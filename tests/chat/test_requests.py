"""What a request asks is done or refused by name: formats, tools, options, parameters."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from schema_check import problems
from service_models import byte_llama, read, run

import bobot
from bobot.chat.protocol import ChatRequest, Format, ParameterError, TextRequest
from bobot.chat.service import LocalService
from bobot.engine import EngineConfig

HELLO = ({"role": "user", "content": "halo"},)
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 8},
        "unit": {"$ref": "#/$defs/unit"},
        "days": {"type": "array", "maxItems": 2, "items": {"enum": [1, 2]}},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
    "$defs": {"unit": {"enum": ["celsius", "\u00b0F"]}},
}
NOW: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
TOOLS = (
    {"type": "function", "function": {"name": "weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "now", "parameters": NOW}},
)
SCHEMAS = {"weather": WEATHER, "now": NOW}
# name -> (special tokens, the end token, chat template): what decides how calls are written.
FAMILIES: dict[str, tuple[list[str], str, str | None]] = {
    "harmony": (
        ["<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|call|>"],
        "<|call|>",
        None,
    ),
    "kimi": (
        [
            *("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_begin|>"),
            *("<|tool_call_argument_begin|>", "<|tool_call_end|>", "<|im_end|>", "<think>"),
            "</think>",
        ],
        "<|im_end|>",
        "{{ tools | tojson }}{{ messages[0].content }}",
    ),
    "mistral": (
        ["<s>", "</s>", "[TOOL_CALLS]"],
        "</s>",
        "{{ tools | tojson }}{{ messages[0].content }}",
    ),
    "llama": (
        ["<|eot_id|>", "<|python_tag|>"],
        "<|eot_id|>",
        "{{ tools | tojson }}{{ messages[0].content }}",
    ),
    "tags": (
        ["<|im_end|>"],
        "<|im_end|>",
        "{{ tools | tojson }}{{ messages[0].content }}",
    ),
    "none": (["<|im_end|>"], "<|im_end|>", "{{ messages[0].content }}{{ messages[1].content }}"),
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalService]:
    folder = byte_llama(tmp_path_factory.mktemp("bytes"))
    found = LocalService(bobot.load(folder, engine_config=EngineConfig(num_blocks=512)))
    yield found
    run(found.close())


@pytest.fixture(scope="module")
def shipped() -> Iterator[LocalService]:
    found = LocalService(bobot.load())
    yield found
    run(found.close())


@pytest.mark.parametrize("sampling", [{"temperature": 0.0}, {"seed": 3, "n": 3}, {"seed": 9}])
def test_an_answer_keeps_its_schema_beside_others(
    service: LocalService, sampling: dict[str, Any]
) -> None:
    request = ChatRequest(
        messages=HELLO,
        sampling=sampling | {"max_tokens": 400},
        format=Format("json_schema", schema=WEATHER),
    )

    async def ask() -> None:
        others = (
            read(service.complete(TextRequest(prompt=f"{n}", sampling={"max_tokens": 30})))
            for n in range(6)
        )
        found, again, *_ = await asyncio.gather(
            read(service.chat(request)), read(service.chat(request)), *others
        )
        for index in range(sampling.get("n", 1)):
            assert found.finished(index).reason == "stop"
            assert not problems(json.loads(found.text(index)), WEATHER), found.text(index)
            assert found.ids(index) == again.ids(index)

    run(ask())


def test_constrained_answers_are_the_same_with_and_without_drafts(shipped: LocalService) -> None:
    schema = {
        "type": "object",
        "properties": {
            "a_long_name_of_a_member": {"enum": ["one and only value of it"]},
            "text": {"type": "string", "maxLength": 40},
        },
        "required": ["a_long_name_of_a_member", "text"],
        "additionalProperties": False,
    }
    request = ChatRequest(
        messages=({"role": "user", "content": "Tell me about a duck."},),
        sampling={"temperature": 0.0, "max_tokens": 200},
        format=Format("json_schema", schema=schema),
    )

    async def ask() -> None:
        plain = LocalService(bobot.load(engine_config=EngineConfig(speculation="off")))
        expected, found = await read(plain.chat(request)), await read(shipped.chat(request))
        assert found.text() == expected.text()
        assert not problems(json.loads(found.text()), schema)
        stats = shipped.stats()
        assert stats.num_accepted_tokens > 5  # what must follow was drafted
        await plain.close()

    run(ask())


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        (Format("json_object"), lambda text: isinstance(json.loads(text), dict)),
        (Format("regex", grammar="[0-9]{3}-[a-c]+x"), lambda text: text[3] == "-"),
        (Format("lark", grammar='start: "yes" | "no \u4f60"'), lambda t: t in ("yes", "no \u4f60")),
        (Format("gbnf", grammar='root ::= "ja" | "tidak"'), lambda text: text in ("ja", "tidak")),
    ],
)
def test_every_kind_of_format_holds_in_chats_and_texts(
    service: LocalService, wanted: Format, fits: Callable[[str], bool]
) -> None:
    async def ask() -> None:
        # A random model hardly ends anything: the end token gets a push.
        sampling = {"seed": 4, "max_tokens": 450, "logit_bias": {257: 30, "125": 12, 125 - 33: 12}}
        chat = await read(
            service.chat(ChatRequest(messages=HELLO, sampling=sampling, format=wanted))
        )
        text = await read(
            service.complete(TextRequest(prompt="x", sampling=sampling, format=wanted))
        )
        for found in (chat, text):
            assert found.finished().reason == "stop" and fits(found.text()), found.text()

    run(ask())


def test_an_answer_cut_by_its_length_says_so(service: LocalService) -> None:
    request = ChatRequest(
        messages=HELLO, sampling={"max_tokens": 5}, format=Format("json_schema", schema=WEATHER)
    )
    found = run(read(service.chat(request)))
    assert found.finished().reason == "length" and len(found.ids()) == 5
    assert found.text().startswith("{")


@pytest.mark.parametrize("choice", ["required", "function:weather", "function:now"])
def test_a_model_that_knows_no_tools_calls_them_when_it_must(
    service: LocalService, shipped: LocalService, choice: str
) -> None:
    async def ask() -> None:
        for model in (service, shipped):
            request = ChatRequest(
                messages=HELLO,
                sampling={"seed": 5, "max_tokens": 400},
                tools=TOOLS,
                tool_choice=choice,
                parallel_tool_calls=False,
            )
            found = await read(model.chat(request))
            (call,) = found.parts()
            assert call.kind == "tool_call" and call.id
            assert call.name == choice.removeprefix("function:") or choice == "required"
            assert not problems(call.arguments, SCHEMAS[call.name])
            assert found.finished().reason == "tool_calls"

    run(ask())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_forced_call_of_random_weights_is_valid_in_each_family(name: str, tmp_path: Path) -> None:
    specials, end, template = FAMILIES[name]
    folder = byte_llama(tmp_path, specials, end, template)

    async def ask() -> None:
        service = LocalService(bobot.load(folder, engine_config=EngineConfig(num_blocks=512)))
        # Random weights would reason for ever.
        tokens = service.model.need_tokenizer().special_tokens
        bias = {tokens[marker]: 40 for marker in ("<|end|>", "</think>") if marker in tokens}
        for seed in range(4):
            request = ChatRequest(
                messages=HELLO,
                sampling={"seed": seed, "max_tokens": 500, "logit_bias": bias},
                tools=TOOLS,
                tool_choice="function:weather",
                parallel_tool_calls=False,
            )
            found = await read(service.chat(request))
            calls = [part for part in found.parts() if part.kind == "tool_call"]
            assert [call.name for call in calls] == ["weather"], found.parts()
            assert not problems(calls[0].arguments, WEATHER), calls
            assert found.finished().reason == "tool_calls"
        await service.close()

    run(ask())


def test_tools_are_told_and_their_past_is_shown_where_the_template_knows_none(
    shipped: LocalService,
) -> None:
    call = {"id": "abc", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    messages = (
        {"role": "system", "content": "Be short."},
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "abc", "content": "12:30 <|im_end|>"},
    )

    async def ask() -> None:
        tokenizer = shipped.model.need_tokenizer()
        with_tools = ChatRequest(messages=messages, tools=TOOLS)
        text = tokenizer.decode(await shipped.prompt_ids(with_tools))
        for told in (
            "Be short.\n\nYou can call",
            '"name": "weather"',
            '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
            "<tool_response>\n12:30 <|im_end|>\n</tool_response>",
        ):
            assert told in text
        none = ChatRequest(messages=HELLO, tools=TOOLS, tool_choice="none")
        plain = ChatRequest(messages=HELLO)
        assert await shipped.prompt_ids(none) == await shipped.prompt_ids(plain)
        found = await read(shipped.chat(ChatRequest(messages=HELLO, tools=TOOLS)))
        assert found.finished().reason in ("stop", "tool_calls")

    run(ask())


DEEP: dict[str, Any] = {}
for _ in range(5000):
    DEEP = {"items": DEEP}

REFUSED: list[tuple[dict[str, Any], str, str, str]] = [
    ({"sampling": {"temprature": 1}}, "temprature", "unsupported_parameter", "known: max_tokens"),
    ({"sampling": {"temperature": -1}}, "temperature", "invalid_value", "allowed: 0 or more"),
    ({"sampling": {"temperature": "hot"}}, "temperature", "invalid_value", "another type"),
    ({"sampling": {"temperature": True}}, "temperature", "invalid_value", "another type"),
    ({"sampling": {"top_k": 1.5}}, "top_k", "invalid_value", "another type"),
    ({"sampling": {"n": 0}}, "n", "invalid_value", "1 to 128"),
    ({"sampling": {"max_tokens": 0}}, "max_tokens", "invalid_value", "1 or more"),
    ({"sampling": {"logprobs": 21}}, "logprobs", "invalid_value", "0 to 20"),
    ({"sampling": {"logit_bias": {"foo": 1}}}, "logit_bias", "invalid_value", "another type"),
    ({"sampling": {"logit_bias": {262: 1}}}, "logit_bias", "invalid_value", "0 to 261"),
    ({"sampling": {"logit_bias": {1: 101}}}, "logit_bias[1]", "invalid_value", "-100 to 100"),
    ({"sampling": {"stop_token_ids": "x"}}, "stop_token_ids", "invalid_value", "another type"),
    ({"stop": ("",)}, "stop", "invalid_value", "at least one"),
    ({"messages": ({"role": "king"},)}, "messages[0].role", "invalid_value", "allowed: system"),
    ({"messages": ({"content": "x"},)}, "messages[0].role", "invalid_value", "None"),
    ({"messages": (*HELLO, {"role": "user", "content": [1]})}, "messages[1].content",
     "invalid_value", "a text"),
    ({"messages": (*HELLO, {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]})},
     "messages[1].tool_calls[0]", "invalid_value", "arguments"),
    ({"messages": ({"role": "user", "content": "\ud800"},)}, "messages",
     "invalid_value", "Unicode"),
    ({"messages": ()}, "messages", "invalid_value", "at least one message"),
    ({"messages": ({"role": "user", "content": "x" * 1600},)}, "messages",
     "context_length_exceeded", "maximum context length is 1536 tokens. The prompt has 1609"),
    ({"reasoning_effort": "low"}, "reasoning_effort", "unsupported_parameter", "knows none"),
    ({"template_options": {"x": 1}}, "chat_template_kwargs.x",
     "unsupported_parameter", "no option"),
    ({"template_options": {"messages": 1}}, "chat_template_kwargs.messages",
     "unsupported_parameter", "no option"),
    ({"continues_last": True}, "messages[0].role", "invalid_value", "assistant"),
    ({"tool_choice": "required"}, "tool_choice", "invalid_value", "no tools"),
    ({"tools": TOOLS, "tool_choice": "function:f"}, "tool_choice", "invalid_value", "one of the"),
    ({"tools": TOOLS, "tool_choice": "any"}, "tool_choice", "invalid_value", "allowed: auto"),
    ({"tools": ({"type": "x"},)}, "tools[0]", "invalid_value", "no function"),
    ({"tools": ({"type": "function", "function": {"name": "a b"}},)}, "tools[0].function.name",
     "invalid_value", "letters"),
    ({"tools": ({"type": "function", "function": {"name": "a", "parameters": 3}},)},
     "tools[0].function.parameters", "invalid_value", "an object"),
    ({"tools": ({"type": "function", "function": {"name": "a", "parameters": {"type": "zork"}}},)},
     "tools[0].function.parameters", "invalid_value", "zork"),
    ({"tools": ({"type": "function",
                 "function": {"name": "a", "strict": True, "parameters": {"if": {}}}},)},
     "tools[0].function.parameters", "invalid_value", "Unimplemented"),
    ({"tools": TOOLS, "sampling": {"ignore_eos": True}}, "ignore_eos",
     "unsupported_parameter", "ends"),
    ({"format": Format("json_schema", schema={"type": "zork"})},
     "response_format.json_schema.schema", "invalid_value", "zork"),
    ({"format": Format("json_schema", schema=DEEP)},
     "response_format.json_schema.schema", "invalid_value", "deeply"),
    ({"tools": ({"type": "function", "function": {"name": "a", "parameters": DEEP}},)},
     "tools[0].function.parameters", "invalid_value", "deeply"),
    ({"format": Format("json_schema", schema=None)},
     "response_format.json_schema.schema", "invalid_value", "an object"),
    ({"format": Format("regex", grammar="(a")}, "response_format.regex", "invalid_value", "group"),
    ({"format": Format("lark", grammar="a")}, "response_format.lark", "invalid_value", "Expected"),
    ({"format": Format("gbnf", grammar="a")}, "response_format.gbnf", "invalid_value", "GBNF"),
]  # fmt: skip


def test_model_without_an_effort_is_asked_without_one_where_that_is_allowed(
    service: LocalService,
) -> None:
    plain = ChatRequest(messages=HELLO)
    usual = ChatRequest(messages=HELLO, reasoning_effort="high", effort_is_optional=True)
    assert run(service.prompt_ids(usual)) == run(service.prompt_ids(plain))


@pytest.mark.parametrize(("changes", "param", "code", "reason"), REFUSED)
def test_what_cannot_be_done_is_refused_by_name_and_before_anything_runs(
    service: LocalService, changes: dict[str, Any], param: str, code: str, reason: str
) -> None:
    num_steps = service.stats().num_steps
    with pytest.raises(ParameterError, match=reason) as refusal:
        run(read(service.chat(ChatRequest(**{"messages": HELLO} | changes))))
    assert (refusal.value.param, refusal.value.code) == (param, code)
    assert service.stats().num_steps == num_steps


@pytest.mark.parametrize(
    ("request_", "param", "code"),
    [
        (TextRequest(prompt=""), "prompt", "invalid_value"),
        (TextRequest(prompt=(1, 262)), "prompt", "invalid_value"),
        (TextRequest(prompt="x" * 1536), "prompt", "context_length_exceeded"),
        (TextRequest(prompt="x", suffix="y"), "suffix", "unsupported_parameter"),
        (TextRequest(prompt="x", prompt_logprobs=21), "prompt_logprobs", "invalid_value"),
        (TextRequest(prompt="x", sampling={"max_tokens": 0}), "max_tokens", "invalid_value"),
        (
            TextRequest(prompt="x", sampling={"max_tokens": 0, "n": 2}, prompt_logprobs=0),
            "n",
            "invalid_value",
        ),
    ],
)
def test_a_text_that_cannot_be_continued_is_refused_by_name(
    service: LocalService, request_: TextRequest, param: str, code: str
) -> None:
    with pytest.raises(ParameterError) as refusal:
        run(read(service.complete(request_)))
    assert (refusal.value.param, refusal.value.code) == (param, code)


def test_texts_that_cannot_be_embedded_are_refused_by_number(service: LocalService) -> None:
    for texts, param, code in [
        (["a", ""], "input[1]", "invalid_value"),
        ([[999]], "input[0]", "invalid_value"),
        (["a", "b", "x" * 1537], "input[2]", "context_length_exceeded"),
    ]:
        with pytest.raises(ParameterError) as refusal:
            run(service.embed(texts))
        assert (refusal.value.param, refusal.value.code) == (param, code)
    assert len(run(service.embed(["x" * 1536]))[0][0]) == 32
    assert run(service.embed([])) == ([], 0)


def test_a_prompt_as_long_as_the_context_can_be_scored(service: LocalService) -> None:
    request = TextRequest(prompt="x" * 1536, sampling={"max_tokens": 0}, prompt_logprobs=0)
    assert len(run(read(service.complete(request))).scored) == 1536


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ messages[0].content }}<think>{{ '\\n' }}", "halo<think>\n</think>"),
        ("{{ messages[0].content }}{% if not enable_thinking %}!{% endif %}", "halo!"),
        ("{{ messages[0].content }}", "halo"),
    ],
)
def test_an_answer_without_reasoning(tmp_path: Path, template: str, expected: str) -> None:
    """By the template's switch, or by closing what the template opens; the answer is text."""
    names = ("<think>", "</think>", "<|e|>")
    folder = byte_llama(tmp_path, specials=names, end="<|e|>", template=template)
    service = LocalService(bobot.load(folder, engine_config=EngineConfig(max_model_len=64)))
    asked = {"max_tokens": 3, "seed": 1, "logit_bias": {258: -100, 256: -100, 257: -100}}
    request = ChatRequest(messages=HELLO, sampling=asked, reasoning_effort="none")

    async def both() -> tuple[list[int], Any]:
        return await service.prompt_ids(request), await read(service.chat(request))

    try:
        ids, found = run(both())
    finally:
        run(service.close())
    names_by_id = {256: "<think>", 257: "</think>"}
    shown = "".join(names_by_id.get(i) or service.model.tokenizer.decode([i]) for i in ids)
    assert shown == expected and list(found.started.prompt_ids) == ids
    assert [part.kind for part in found.parts()] in ([], ["text"])


def test_a_prompt_begins_with_the_beginning_token_once(service: LocalService) -> None:
    """Where it is asked for; this tokenizer has none, so nothing changes."""
    plain = ChatRequest(messages=HELLO)
    ids = run(service.prompt_ids(plain))
    assert run(service.prompt_ids(replace(plain, begins_with_bos=True))) == ids
