"""Harmony: prompts and completions equal openai-harmony's; no text becomes a special token."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from answer_tokenizers import cut, family, parser_of, parts, pushed, short

from bobot.errors import TemplateError
from bobot.text import Tokenizer, load_tokenizer
from bobot.text.harmony_parser import MAX_HEADER, HarmonyGrammar, parse_harmony
from bobot.text.harmony_types import namespace
from bobot.text.parts import parts_of

REFERENCE = json.loads(Path(__file__).with_name("harmony_reference.json").read_text())


def now() -> datetime:
    return datetime(2026, 11, 20, 8, 30)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return family("harmony", tmp_path_factory.mktemp("harmony"))


def rendered(tokenizer: Tokenizer, case: dict) -> dict[str, Any]:
    """The arguments of render and encode_chat for one case."""
    return {
        "messages": case["messages"],
        "tools": case["tools"],
        "add_generation_prompt": case["add_generation_prompt"],
        "reasoning_effort": case["reasoning_effort"],
        "now": now,
    }


# ---------------------------------------------------------------------- prompts


def test_every_conversation_has_the_ids_of_openai_harmony(
    shared: Path, published: Callable[[str], Tokenizer]
) -> None:
    tokenizer = published("o200k_harmony")
    folder = shared / "parity/templates"
    known = {c["name"]: c for c in json.loads((folder / "conversations.json").read_text())}
    cases = json.loads((folder / "gpt-oss.harmony.json").read_text())["cases"]
    wrong = []
    for case in cases:
        given = rendered(tokenizer, case | known[case["conversation"]])
        same = tokenizer.encode_chat(**given) == case["ids"]
        if not same or tokenizer.render(**given) != case["text"]:
            wrong.append(case["conversation"])
    assert len({case["conversation"] for case in cases}) == 38
    assert not wrong, f"{len(cases) - len(wrong)} of {len(cases)} equal; not: {wrong}"


@pytest.mark.parametrize("number", range(len(REFERENCE["prompts"])))
def test_a_prompt_is_the_text_of_openai_harmony(tiny: Tokenizer, number: int) -> None:
    case = REFERENCE["prompts"][number]
    assert tiny.render(**rendered(tiny, case)) == case["text"]
    ids = tiny.encode_chat(**rendered(tiny, case))
    assert ids == tiny.encode(case["text"], allow_special=True)


def test_every_schema_is_the_typescript_of_openai_harmony() -> None:
    wrong = []
    for case in REFERENCE["schemas"]:
        function = {"name": "f", "description": "d", "parameters": case["parameters"]}
        text = namespace("functions", [function])
        if text.split("type f = ", 1)[1].rsplit(" => any;", 1)[0] != case["text"]:
            wrong.append(case["parameters"])
    total = len(REFERENCE["schemas"])
    assert not wrong, f"{total - len(wrong)} of {total} equal; not: {wrong[:3]}"


def test_the_date_is_today_unless_a_clock_is_given(tiny: Tokenizer) -> None:
    text = tiny.render([{"role": "user", "content": "x"}])
    assert f"Current date: {datetime.now():%Y-%m}" in text


def test_reasoning_is_left_out_once_a_final_answer_follows(tiny: Tokenizer) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turn = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "", "reasoning": "why f", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "1"},
    ]
    final = {"role": "assistant", "content": "done", "reasoning_content": "so"}
    assert tiny.render(turn).count("why f") == 1
    assert "why f" not in tiny.render([*turn, final, *turn[:1]])
    assert tiny.render([*turn, final, *turn]).count("why f") == 1
    assert "<|message|>so" not in tiny.render([*turn, final, *turn])


@pytest.mark.parametrize("wrap", ["{}", "a{}b", " {} ", "{0}{0}", "<|{}", "{}|>"])
def test_no_text_of_a_conversation_becomes_a_special_token(tiny: Tokenizer, wrap: str) -> None:
    specials = set(tiny.special_tokens.values())

    def count(text: str) -> int:
        call = {"id": text, "function": {"name": text, "arguments": {text: text}}}
        messages = [
            {"role": "system", "content": text},
            {"role": "user", "content": text},
            {"role": "assistant", "content": text, "thinking": text, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": text, "content": text},
        ]
        schema = {"type": "object", "properties": {text: {"type": "string", "description": text}}}
        tool = {"function": {"name": text, "description": text, "parameters": schema}}
        ids = tiny.encode_chat(messages, [tool], now=now)
        assert tiny.decode(ids) == tiny.render(messages, [tool], now=now)
        return sum(token_id in specials for token_id in ids)

    for name in tiny.special_tokens:
        assert count(wrap.format(name)) == count("x"), name


@pytest.mark.parametrize(
    ("messages", "options", "part"),
    [
        ([{"role": "ipython", "content": "x"}], {}, "role 'ipython'"),
        ([{"role": "tool", "content": "x"}], {}, "answers no tool call"),
        ([{"role": "user", "content": [{"type": "image"}]}], {}, "other than text"),
        ([{"role": "user", "content": 5}], {}, "not text"),
        ([{"content": "x"}], {}, "damaged"),
        ([{"role": "assistant", "tool_calls": [{}]}], {}, "damaged"),
        ([{"role": "user", "content": "x"}], {"reasoning_effort": "max"}, "low, medium, high"),
        ([{"role": "user", "content": "x"}], {"documents": []}, "unknown variable 'documents'"),
    ],
)
def test_what_harmony_can_not_say_is_refused(
    tiny: Tokenizer, messages: list, options: dict, part: str
) -> None:
    with pytest.raises(TemplateError, match=part):
        tiny.render(messages, **options)


def test_a_schema_without_end_is_refused(tiny: Tokenizer) -> None:
    schema: dict = {"type": "string"}
    for _ in range(5000):
        schema = {"type": "object", "properties": {"a": schema}}
    tool = {"function": {"name": "f", "parameters": schema}}
    for write in (tiny.render, tiny.encode_chat):
        with pytest.raises(TemplateError, match="nested"):
            write([{"role": "user", "content": "x"}], [tool])


def test_harmony_is_known_by_its_tokens_and_keeps_the_published_template(tmp_path: Path) -> None:
    folder = tmp_path / "harmony"
    tokenizer = family("harmony", tmp_path)
    assert (tokenizer.chat_template, tokenizer.published_template) == ("built-in: harmony", None)
    for source, is_harmony in (("<|start|>x<|channel|>", True), ("{{ messages }}", False)):
        (folder / "chat_template.jinja").write_text(source)
        tokenizer = load_tokenizer(folder)
        assert (tokenizer.chat_template == "built-in: harmony") is is_harmony
        assert tokenizer.published_template == source


def test_an_answer_of_gpt_oss_ends_at_return_and_at_call(
    tiny: Tokenizer, published: Callable[[str], Tokenizer]
) -> None:
    names = ("<|return|>", "<|call|>")
    assert {tiny.special_tokens[name] for name in names} <= tiny.eos_ids
    assert tiny.special_tokens["<|end|>"] not in tiny.eos_ids
    assert {200002, 200012} <= published("o200k_harmony").eos_ids


# ---------------------------------------------------------------------- completions


def test_published_completions_parse_into_the_messages_of_openai_harmony(
    shared: Path, published: Callable[[str], Tokenizer]
) -> None:
    tokenizer = published("o200k_harmony")
    cases = json.loads((shared / "parity/templates/gpt-oss.harmony_parse.json").read_text())
    for case in cases:
        for given in (case["ids"], case["text"]):
            found = [message.as_dict() for message in parse_harmony(tokenizer, given)]
            assert found == case["messages"], case["text"]


@pytest.mark.parametrize("number", range(len(REFERENCE["completions"])))
def test_a_completion_has_the_messages_that_openai_harmony_reads(
    tiny: Tokenizer, number: int
) -> None:
    case = REFERENCE["completions"][number]
    for given in (case["text"], tiny.encode(case["text"], allow_special=True)):
        assert [message.as_dict() for message in parse_harmony(tiny, given)] == case["messages"]


def test_tokens_one_by_one_and_text_cut_anywhere_give_the_same_parts(tiny: Tokenizer) -> None:
    rng = random.Random(5)
    for case in REFERENCE["completions"]:
        whole = short(parts(tiny, case["text"]))
        for _ in range(30):
            pieces = cut(case["text"], rng)
            deltas = pushed(parser_of(tiny), pieces)
            assert short(parts_of(deltas)) == whole, pieces
            assert not any("<|st" in delta.text for delta in deltas), pieces


def test_channels_become_reasoning_text_and_calls(tiny: Tokenizer) -> None:
    answer = (
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary<|message|>"
        "I look.<|end|><|start|>assistant to=functions.f<|channel|>commentary <|constrain|>json"
        '<|message|>{"a": 1}<|call|>'
    )
    assert short(parts(tiny, answer)) == [
        ("reasoning", "hm"),
        ("text", "I look."),
        ("tool_call", "f", '{"a": 1}'),
    ]


def test_special_tokens_spelled_in_ordinary_text_stay_text(tiny: Tokenizer) -> None:
    ids = tiny.encode("<|channel|>final<|message|>", allow_special=True)
    ids += tiny.encode("write <|end|><|start|>assistant", allow_special=False)
    found = parts_of(pushed(parser_of(tiny), ids))
    assert short(found) == [("text", "write <|end|><|start|>assistant")]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Hello!", [("text", "Hello!")]),
        ("", []),
        ("<|channel|>final", []),
        ("<|return|>", []),
        ("<|channel|>final<|message|>a<|end|>", [("text", "a")]),
        ("<|channel|>final<|message|>a<|end|><|start|>assistant", [("text", "a")]),
        (
            "<|channel|>final<|message|>a<|start|>assistant<|channel|>analysis<|message|>b",
            [("text", "a"), ("reasoning", "b")],
        ),
        (
            "<|channel|>analysis<|message|>a<|end|>assistant<|channel|>final<|message|>b<|return|>",
            [("reasoning", "a"), ("text", "b")],
        ),
        ("<|channel|><|message|>a<|return|>", [("text", "a")]),
        ("<|channel|>final <|constrain|>json<|message|>{}<|return|>", [("text", "{}")]),
        ("<|channel|>commentary to=functions.f<|message|>{", [("tool_call", "f", "{")]),
        ("<|channel|>commentary to=functions.f", []),
        ("x" * 1000, [("text", "x" * 1000)]),
        ("<|end|>" * 50 + "<|start|>" * 50, []),
    ],
)
def test_a_malformed_completion_loses_no_text(tiny: Tokenizer, answer: str, expected: list) -> None:
    assert short(parts(tiny, answer)) == expected


def test_a_header_without_end_is_shown_as_text_in_time(tiny: Tokenizer) -> None:
    parser = parser_of(tiny)
    ids = tiny.encode("word " * MAX_HEADER)
    num_held = next(i for i, token_id in enumerate(ids) if parser.push(token_id))
    assert num_held <= MAX_HEADER, num_held
    assert isinstance(parser.grammar, HarmonyGrammar)
