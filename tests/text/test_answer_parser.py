"""Answers as parts: every family's markers, whole and streamed, well-formed and hostile."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from answer_tokenizers import FAMILIES, TOOLS, cut, family, parser_of, parts, pushed, short

from bobot.errors import TemplateError, TokenizerError
from bobot.text import Tokenizer
from bobot.text.answer_parser import answer_parser
from bobot.text.chat_template import ChatTemplate
from bobot.text.parts import Part, as_message, parts_of

KIMI_CALLS = (
    "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>"
    '{"a": 1}<|tool_call_end|><|tool_call_begin|>functions.g.h:1<|tool_call_argument_begin|>'
    '{"b": "}"}<|tool_call_end|><|tool_calls_section_end|>'
)
F = ("tool_call", "f", '{"a": 1}')

# (family, answer with its special tokens written out, the parts in it)
ANSWERS: list[tuple[str, str, list[tuple[str, ...]]]] = [
    ("plain", "a <think> b [TOOL_CALLS]", [("text", "a <think> b [TOOL_CALLS]")]),
    ("plain", '{"name": "f", "parameters": {}}', [("text", '{"name": "f", "parameters": {}}')]),
    ("think", "<think>\nhm\n\nso\n</think>\n\nyes", [("reasoning", "hm\n\nso"), ("text", "yes")]),
    ("think", "\n<think>hm", [("text", "\n"), ("reasoning", "hm")]),
    ("think", "<think></think>yes", [("text", "yes")]),
    ("think", "Use <think> and </think>.", [("text", "Use <think> and </think>.")]),
    ("think", "<think>a <think> b</think>c", [("reasoning", "a <think> b"), ("text", "c")]),
    ("think", "<think>a</think>b <think>c", [("reasoning", "a"), ("text", "b <think>c")]),
    ("think", "<thin", [("text", "<thin")]),
    ("kimi", "Hi.", [("text", "Hi.")]),
    (
        "kimi",
        "<think>\nhm\n</think>See." + KIMI_CALLS,
        [
            ("reasoning", "\nhm\n"),
            ("text", "See."),
            F,
            ("tool_call", "g.h", '{"b": "}"}'),
        ],
    ),
    (
        "kimi",
        "<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{<think>",
        [("tool_call", "f", "{<think>")],
    ),
    ("kimi", "<|tool_calls_section_begin|>\n<|tool_call_begin|>f", [("tool_call", "f", "")]),
    ("mistral", "Hi [ARGS] there", [("text", "Hi [ARGS] there")]),
    ("mistral", '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}}]', [F]),
    ("mistral", '[TOOL_CALLS][{"arguments": {"a": 1}, "name": "f", "id": "abcdefghi"}]', [F]),
    ("mistral", '[TOOL_CALLS] {"name": "f", "arguments": "{\\"a\\": 1}"}', [F]),
    (
        "mistral",
        'Ok.[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}] End',
        [("text", "Ok."), F, ("tool_call", "g", "{}"), ("text", "End")],
    ),
    ("mistral", '[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g[ARGS]{}', [F, ("tool_call", "g", "{}")]),
    ("mistral", '[TOOL_CALLS]f[CALL_ID]abcdefghi[ARGS]{"a": 1}', [F]),
    ("mistral", '[TOOL_CALLS]f{"a": 1}', [F]),
    ("mistral", '[TOOL_CALLS][{"name": "f", "arguments": {"a": 1', [("tool_call", "f", '{"a": 1')]),
    ("mistral", "[TOOL_CALLS][nonsense]", [("tool_call", "", "nonsense]")]),
    ("mistral", "[TOOL_CALLS] I can't do that", [("tool_call", "", "I can't do that")]),
    ("mistral", "[TOOL_CALLS]", []),
    ("llama", '{"name": "f", "parameters": {"a": 1}}', [F]),
    ("llama", '\n{"type": "function", "name": "f", "parameters": {"a": 1}}', [F]),
    (
        "llama",
        '{"name": "f", "parameters": {"a": 1}}; {"name": "g", "parameters": {}}\nEnd',
        [F, ("tool_call", "g", "{}"), ("text", "End")],
    ),
    ("llama", '{"name": "f", "parameters": {"a": 1', [("tool_call", "f", '{"a": 1')]),
    ("llama", '{"name": "f", "age": 3}', [("text", '{"name": "f", "age": 3}')]),
    ("llama", "{not json", [("text", "{not json")]),
    ("llama", 'x {"name": "f", "parameters": {}}', [("text", 'x {"name": "f", "parameters": {}}')]),
    ("llama", 'Ok. <function=f>{"a": 1}</function>\n', [("text", "Ok. "), F]),
    ("llama", "a <function=f", [("text", "a "), ("text", "<function=f")]),
    ("llama", "<function=not a name>", [("text", "<function=not a name>")]),
    ("llama", '<|python_tag|>{"name": "f", "parameters": {"a": 1}}', [F]),
    ("llama", '<|python_tag|>f.call(a="x, y")', [("tool_call", "f", '{"a": "x, y"}')]),
    ("llama", "<|python_tag|>print(1)", [("tool_call", "python", '{"code": "print(1)"}')]),
]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    folder = tmp_path_factory.mktemp("families")
    return {name: family(name, folder) for name in FAMILIES}


def merged(found: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Neighbouring texts as one."""
    joined: list[tuple[str, ...]] = []
    for part in found:
        if joined and part[0] == joined[-1][0] == "text":
            joined[-1] = ("text", joined[-1][1] + part[1])
        else:
            joined.append(part)
    return joined


@pytest.mark.parametrize("number", range(len(ANSWERS)))
def test_an_answer_has_its_parts_whole_and_in_any_pieces(
    tokenizers: dict[str, Tokenizer], number: int
) -> None:
    name, answer, expected = ANSWERS[number]
    tokenizer, rng = tokenizers[name], random.Random(number)
    assert merged(short(parts(tokenizer, answer, tools=TOOLS))) == merged(expected)
    for _ in range(20):
        pieces = cut(answer, rng)
        found = parts_of(pushed(parser_of(tokenizer, tools=TOOLS), pieces))
        assert merged(short(found)) == merged(expected), pieces


def test_calls_in_plain_text_count_only_where_tools_were_given(
    tokenizers: dict[str, Tokenizer],
) -> None:
    for answer in ('{"name": "f", "parameters": {}}', "<function=f>{}</function>"):
        assert short(parts(tokenizers["llama"], answer)) == [("text", answer)]


@pytest.mark.parametrize("name", ["kimi", "mistral", "llama", "harmony"])
def test_markers_spelled_in_ordinary_tokens_stay_text(
    tokenizers: dict[str, Tokenizer], name: str
) -> None:
    tokenizer = tokenizers[name]
    for marker in tokenizer.special_tokens:
        text = f"x {marker} {marker}{{}}"
        ids = tokenizer.encode("<|message|>" * (name == "harmony"), allow_special=True)
        ids += tokenizer.encode(text)
        found = parts_of(pushed(parser_of(tokenizer, tools=TOOLS), ids))
        assert merged(short(found)) == [("text", text)], marker


def test_no_delta_holds_half_a_character_or_half_a_marker(
    tokenizers: dict[str, Tokenizer],
) -> None:
    tokenizer = tokenizers["think"]
    parser = parser_of(tokenizer)
    ids = tokenizer.encode("<think>\u4f60\u597d \U0001f642</think>caf\u00e9")
    deltas = pushed(parser, ids)
    assert short(parts_of(deltas)) == [
        ("reasoning", "\u4f60\u597d \U0001f642"),
        ("text", "caf\u00e9"),
    ]
    assert not any("\ufffd" in delta.text or "<" in delta.text for delta in deltas)


def test_a_prompt_that_opens_the_reasoning_is_known(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["think"]
    prompt = tokenizer.encode_chat([{"role": "user", "content": "x"}])
    for prompt_ids, expected in (
        (prompt, [("reasoning", "hm"), ("text", "yes")]),
        ([], [("text", "hm\n</think>\n\nyes")]),
    ):
        parser = answer_parser(tokenizer, prompt_ids=prompt_ids)
        assert short(parts_of(pushed(parser, tokenizer.encode("hm\n</think>\n\nyes")))) == expected


def test_ids_of_calls_are_the_models_or_new(tokenizers: dict[str, Tokenizer]) -> None:
    kimi = parts(tokenizers["kimi"], KIMI_CALLS)
    assert [part.id for part in kimi] == ["functions.f:0", "functions.g.h:1"]
    own = parts(tokenizers["mistral"], "[TOOL_CALLS]f[CALL_ID]abcdefghi[ARGS]{}")
    assert [part.id for part in own] == ["abcdefghi"]
    new = parts(tokenizers["mistral"], "[TOOL_CALLS]f[ARGS]{}[TOOL_CALLS]f[ARGS]{}")
    assert [part.id for part in new] == ["call00001", "call00002"]
    parser = answer_parser(tokenizers["mistral"])
    [random_id] = [part.id for part in parts_of(pushed(parser, ["[TOOL_CALLS]f[ARGS]{}"]))]
    assert len(random_id) == 9 and random_id.isalnum() and random_id.isascii()


@pytest.mark.parametrize(
    ("text", "is_malformed"),
    [
        ('{"a": 1}', False),
        ("{}", False),
        ("", True),
        ("[1]", True),
        ('"x"', True),
        ('{"a": NaN}', True),
        ('{"a": 1', True),
        ("{} x", True),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", True),
        ('{"a": ' + "9" * 10_000 + "}", True),
    ],
)
def test_malformed_arguments_are_kept_as_they_are_and_marked(text: str, is_malformed: bool) -> None:
    part = Part("tool_call", text, id="abcdefghi", name="f")
    assert part.is_malformed is is_malformed
    assert part.as_call()["function"] == {"name": "f", "arguments": text}
    as_object = part.as_call(arguments_as_text=False)["function"]["arguments"]
    assert as_object == (text if is_malformed else json.loads(text))


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("kimi_k2_standin", ["<|im_end|>"]),
        ("mistral_v3", ["</s>"]),
        ("mistral_tekken", ["</s>"]),
        ("llama3", ["<|eot_id|>", "<|eom_id|>"]),
        ("o200k_harmony", ["<|return|>", "<|call|>"]),
    ],
)
def test_each_family_stops_where_its_answers_end(
    name: str, ends: list[str], published: Callable[[str], Tokenizer]
) -> None:
    tokenizer = published(name)
    assert {tokenizer.special_tokens[end] for end in ends} <= tokenizer.eos_ids


def test_grok_has_no_chat_and_no_bos(published: Callable[[str], Tokenizer]) -> None:
    tokenizer = published("grok1")
    assert (tokenizer.chat_template, tokenizer.adds_bos) == (None, False)
    with pytest.raises(TokenizerError, match="made to continue text"):
        tokenizer.encode_chat([{"role": "user", "content": "halo"}])


# ---------------------------------------------------------------------- round trips

TEMPLATES = [  # with how many answers and calls are compared
    ("kimi_k2_standin", "kimi-k2-instruct", (21, 5)),
    ("kimi_k2_standin", "kimi-k2-instruct-original", (21, 5)),
    ("kimi_k2_standin", "kimi-k2-thinking", (21, 5)),
    ("llama3", "meta-llama-3.1", (20, 3)),
    ("llama3", "llama-3-instruct", (21, 0)),
    ("mistral_v3", "mistral-large-2407-v3", (8, 4)),
    ("mistral_tekken", "mistral-nemo-2407", (8, 4)),
    ("mistral_v3", None, (5, 2)),
    ("mistral_tekken", None, (5, 2)),
    ("o200k_harmony", None, (21, 5)),
]


@pytest.mark.parametrize(("tokenizer_name", "template", "counts"), TEMPLATES)
def test_a_parsed_answer_gives_back_the_prompt_it_was_taken_from(
    tokenizer_name: str,
    template: str | None,
    counts: tuple[int, int],
    shared: Path,
    published: Callable[[str], Tokenizer],
) -> None:
    """What the template writes for an answer, parsed, becomes a message that it writes alike."""
    tokenizer = published(tokenizer_name)
    folder = shared / "parity/templates"
    if template:
        expected = json.loads((folder / f"{template}.expected.json").read_text())
        names = {key: expected[key] for key in ("bos_token", "eos_token")}
        source = (folder / f"{template}.jinja").read_text()
        tokenizer = Tokenizer(tokenizer.vocabulary, ChatTemplate(source, names))

    num_compared = num_calls = 0
    for case in json.loads((folder / "conversations.json").read_text()):
        messages, tools = case["messages"], case["tools"]
        for place in range(1, len(messages)):
            if messages[place]["role"] != "assistant" or case["name"] == "tool_args_json_string":
                continue  # the second: templates that want an object write such arguments twice
            try:
                before = prompt(tokenizer, messages[:place], tools)
                after = prompt_with_answer(tokenizer, messages[: place + 2], place, tools)
            except TemplateError:
                continue  # other tests hold the refusals
            if after[: len(before)] != before:
                continue
            parser = answer_parser(tokenizer, tools=tools, prompt_ids=before)
            found = parts_of(pushed(parser, up_to_end(tokenizer, after[len(before) :])))
            as_text = tokenizer.takes_argument_text
            taken = as_message(found, arguments_as_text=as_text)
            for call, old in zip(
                taken.get("tool_calls", ()), messages[place].get("tool_calls", ()), strict=False
            ):
                call["id"] = old["id"] if len(call["id"]) == 9 else call["id"]
                num_calls += 1
            again = [*messages[:place], taken, *messages[place + 1 : place + 2]]
            assert prompt_with_answer(tokenizer, again, place, tools) == after, case["name"]
            num_compared += 1
    assert (num_compared, num_calls) == counts


def prompt(tokenizer: Tokenizer, messages: list, tools: list | None, more: bool = True) -> list:
    return tokenizer.encode_chat(messages, tools, more, now=lambda: datetime(2026, 11, 20))


def prompt_with_answer(
    tokenizer: Tokenizer, messages: list, place: int, tools: list | None
) -> list[int]:
    """The prompt that ends with the answer at `place`. Mistral's own format writes none without
    the message that follows."""
    if (tokenizer.chat_template or "").startswith("built-in: mistral"):
        return prompt(tokenizer, messages, tools)
    return prompt(tokenizer, messages[: place + 1], tools, False)


def up_to_end(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    """The answer as the model gives it: up to its last call or stop token."""
    if tokenizer.chat_template == "built-in: harmony":
        return ids
    ends = [place for place, token_id in enumerate(ids) if token_id in tokenizer.eos_ids]
    return ids[: ends[0]] if ends else ids


# ---------------------------------------------------------------------- hostile


@pytest.mark.parametrize(
    ("name", "head", "tail"),
    [
        ("harmony", "<|channel|>commentary to=functions.f<|message|>", "<|call|>"),
        (
            "kimi",
            "<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>",
            "<|tool_call_end|>",
        ),
        ("mistral", "[TOOL_CALLS]f[ARGS]", ""),
        ("mistral", '[TOOL_CALLS][{"name": "f", "arguments": ', "}]"),
        ("llama", '{"name": "f", "parameters": ', "}"),
        ("llama", "<function=f>", "</function>"),
        ("llama", '<|python_tag|>{"name": "f", "parameters": ', "}"),
    ],
)
def test_a_megabyte_of_arguments_is_read_in_linear_time(
    tokenizers: dict[str, Tokenizer], name: str, head: str, tail: str
) -> None:
    tokenizer = tokenizers[name]
    for arguments in (
        '{"a": "' + "\\\\x" * 330_000 + '"}',
        '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"a": [' + '{"b": 1}, ' * 20_000 + "0]}",
    ):
        parser = parser_of(tokenizer, tools=TOOLS)
        start = time.process_time()
        bits = (arguments[at : at + 50] for at in range(0, len(arguments), 50))
        [part] = parts_of(pushed(parser, [head, *bits, tail]))
        taken = time.process_time() - start
        assert (part.name, part.text) == ("f", arguments)
        assert taken < 8, f"{taken:.1f} s for {len(arguments)} characters"


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_any_ids_are_parsed_without_failing_and_alike_when_asked_twice(
    tokenizers: dict[str, Tokenizer], name: str
) -> None:
    tokenizer, rng = tokenizers[name], random.Random(3)
    specials = list(tokenizer.special_tokens.values())
    words = [tokenizer.encode(w) for w in ("{", "}", '"', "[", "]", "name", "f", ":", "to=f", "\n")]
    for _ in range(300):
        ids: list[int] = []
        for _ in range(rng.randint(0, 30)):
            ids += [rng.choice(specials)] if rng.random() < 0.4 else rng.choice(words)
        deltas = pushed(parser_of(tokenizer, tools=TOOLS), ids)
        assert short(parts_of(deltas)) == short(
            parts(tokenizer, tokenizer.decode(ids), tools=TOOLS)
        )
        numbers = [delta.part for delta in deltas]
        assert numbers == sorted(numbers), ids


def test_control_characters_pass_through_unchanged(tokenizers: dict[str, Tokenizer]) -> None:
    text = "a\u202eb\u2066c\u200f \x1b[31m\x00\u0085d"
    for name, answer, kind in (
        ("plain", text, "text"),
        ("think", f"<think>{text}</think>", "reasoning"),
        ("mistral", f"[TOOL_CALLS]f[ARGS]{text}", "tool_call"),
    ):
        [part] = parts(tokenizers[name], answer)
        assert (part.kind, part.text) == (kind, text)
