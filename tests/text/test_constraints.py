"""Masks against every continuation of a small language; answers in each family's own syntax, found
by walking at random through the masks and read back by the parser.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_tokenizers as tiny
from answer_tokenizers import FAMILIES, family, parser_of, pushed
from schema_check import problems

from bobot.errors import RequestError
from bobot.text import Tokenizer, load_tokenizer
from bobot.text.answer_parser import answer_parser, answer_style
from bobot.text.answer_rules import AnswerRules
from bobot.text.constraints import (
    Constraints,
    GrammarConstraint,
    check,
    gbnf,
    grammar_for,
    json_schema,
    lark,
    regex,
)
from bobot.text.parts import Part, parts_of

TREE = {
    "type": "object",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "name": {"enum": ["akar", "daun \u4f60", 'k"utip', "\U0001f642"]},
                "grid": {
                    "type": "array",
                    "maxItems": 2,
                    "items": {"type": "array", "maxItems": 2, "items": {"enum": [1, 2.5, None]}},
                },
                "children": {"type": "array", "maxItems": 2, "items": {"$ref": "#/$defs/node"}},
            },
            "required": ["name", "grid"],
            "additionalProperties": False,
        }
    },
    "properties": {
        "root": {"$ref": "#/$defs/node"},
        "note": {"anyOf": [{"type": "string", "maxLength": 12}, {"type": "null"}]},
        "is_big": {"type": "boolean"},
    },
    "required": ["root", "note"],
    "additionalProperties": False,
}
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"enum": ["Jakarta", "K\u00f6ln"]},
                    "days": {"type": "array", "maxItems": 3, "items": {"enum": [1, 2, 3]}},
                },
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    },
    {"type": "function", "function": {"name": "stop-it", "parameters": None}},
]
SCHEMAS = {
    "get_weather": TOOLS[0]["function"]["parameters"],
    "stop-it": {"type": "object"},
}


def every_tokenizer(folder: Path) -> dict[str, Tokenizer]:
    """One of each format, some of which put a space in front of what they encode."""
    found = {
        "sentencepiece": load_tokenizer(tiny.sentencepiece_file(folder / "tokenizer.model")),
        "tekken": load_tokenizer(tiny.tekken_file(folder / "tekken.json")),
    }
    documents = {"byte level": tiny.byte_level_json()}
    documents |= {scheme: tiny.metaspace_json(scheme) for scheme in ("always", "never", "legacy")}
    for name, document in documents.items():
        (folder / f"{name}.json").write_text(json.dumps(document))
        found[name] = load_tokenizer(folder / f"{name}.json")
    return found


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    return every_tokenizer(tmp_path_factory.mktemp("formats"))


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    folder = tmp_path_factory.mktemp("families")
    return {name: family(name, folder) for name in FAMILIES}


def end_of(tokenizer: Tokenizer) -> int:
    specials = tokenizer.special_tokens
    return next(specials[name] for name in ("<|end|>", "</s>") if name in specials)


def ids_of(bits: bytes) -> set[int]:
    return {i for i in range(8 * len(bits)) if bits[i // 8] >> (i % 8) & 1}


def constraint_of(tokenizer: Tokenizer, rule: Any, start: str = "start: @rule_0") -> Any:
    constraints = Constraints(tokenizer, tokenizer.vocab_size + 5, [end_of(tokenizer)])
    return constraints.of(grammar_for([rule], start))


def walk(
    constraint: GrammarConstraint,
    eos_ids: Sequence[int],
    seed: int,
    most: int = 3000,
    lead: Sequence[int] = (),
) -> list[int] | None:
    """`lead`, then tokens drawn from the masks until an end token; None if there are too many."""
    rng = random.Random(seed)
    ids: list[int] = list(lead)
    for token_id in lead:
        assert token_id in ids_of(constraint.masks([])[0])
        constraint.accept(token_id)
    while len(ids) < most:
        may = sorted(ids_of(constraint.masks([])[0]))
        ends = [token_id for token_id in may if token_id in eos_ids]
        token_id = ends[0] if ends and rng.random() < 0.5 else rng.choice(may)
        constraint.accept(token_id)
        if token_id in eos_ids:
            return ids
        ids.append(token_id)
    return None


LANGUAGES = [
    ["hello world", "hello", "hell", "help", "he"],
    ["abababab", "abab", "ababa", "b"],
    ["the", "they", "thing", " the", "  thing"],
    ["\u4f60\u597d", "\u4f60", "\U0001f642", "\U0001f9d1\u200d\U0001f52c", "\u00e9", "e\u0301"],
    ['{"a": "\u4f60"}', '{"a": 12345}', '{"ab": 1}'],
]


@pytest.mark.parametrize("words", LANGUAGES)
def test_masks_allow_what_can_still_become_a_word_and_every_word(
    tokenizers: dict[str, Tokenizer], words: list[str]
) -> None:
    """Where one text alone can follow, its usual tokens are forced: so the mask may be smaller
    than the set of all tokens that fit, but never larger, and never too small for a word."""
    rule = lark("start: " + " | ".join(json.dumps(word) for word in words))
    data = [word.encode() for word in words]
    for name, tokenizer in tokenizers.items():
        pieces, end = tokenizer.vocabulary.pieces, end_of(tokenizer)
        specials = set(tokenizer.special_tokens.values())
        start = constraint_of(tokenizer, rule)
        reached = set()
        for seed in range(40):
            constraint, said, rng = start.fork(), b"", random.Random(seed)
            while True:
                may = ids_of(constraint.masks([])[0])
                fits = {
                    token_id
                    for token_id, piece in enumerate(pieces)
                    if piece
                    and token_id not in specials
                    and any(word.startswith(said + piece) for word in data)
                }
                assert may - {end} <= fits, (name, said)
                assert (end in may) == (said in data), (name, said)
                assert may, (name, said)
                token_id = rng.choice(sorted(may))
                constraint.accept(token_id)
                if token_id == end:
                    break
                said += pieces[token_id]
            reached.add(said.decode())
        assert reached == set(words), name


def test_a_boundary_that_two_tokens_share_leaves_both_ways_open(
    tokenizers: dict[str, Tokenizer],
) -> None:
    """'th' + 'e', 't' + 'he' and 'the' are the same text, which may go on as two words."""
    tokenizer = tokenizers["tekken"]
    constraint = constraint_of(tokenizer, lark('start: "the" | "thing" | "tax"'))
    pieces = {piece: i for i, piece in enumerate(tokenizer.vocabulary.pieces)}
    assert ids_of(constraint.masks([])[0]) == {pieces[b"t"], pieces[b"th"]}
    constraint.accept(pieces[b"t"])
    may = ids_of(constraint.masks([])[0])
    assert may == {pieces[b"h"], pieces[b"he"], pieces[b"a"]}


def test_masks_behind_drafts_are_those_of_the_tokens_and_change_nothing(
    tokenizers: dict[str, Tokenizer],
) -> None:
    tokenizer = tokenizers["byte level"]
    end = end_of(tokenizer)
    start = constraint_of(tokenizer, json_schema(TREE))
    for seed in range(6):
        ids = walk(start.fork(), [end], seed)
        assert ids is not None
        constraint = start.fork()
        for at in range(0, len(ids), 7):
            draft = ids[at : at + 5]
            drafted = constraint.masks(draft)
            step = constraint.fork()
            for place, token_id in enumerate(draft):
                assert step.masks([])[0] == drafted[place]
                step.accept(token_id)
            assert step.masks([])[0] == drafted[len(draft)]
            wrong = [*draft[:2], end, *draft[2:]]
            assert list(constraint.drafts(wrong, 8)) in (
                draft[:2],
                draft[:1],
                [],
                forced(constraint),
            )
            for token_id in ids[at : at + 7]:
                constraint.accept(token_id)


def forced(constraint: GrammarConstraint) -> list[int]:
    return list(constraint.drafts([], 8))


@pytest.mark.parametrize("name", ["byte level", "sentencepiece", "always", "legacy", "tekken"])
def test_json_keeps_its_schema_with_references_enums_and_nested_lists(
    tokenizers: dict[str, Tokenizer], name: str
) -> None:
    tokenizer = tokenizers[name]
    start = constraint_of(tokenizer, json_schema(TREE))
    names, num_whole = set(), 0
    for seed in range(30):
        ids = walk(start.fork(), [end_of(tokenizer)], seed)
        if ids is None:
            continue
        num_whole += 1
        value = json.loads(b"".join(tokenizer.decode_pieces(ids, opens_text=False)))
        assert not problems(value, TREE), value
        names.add(value["root"]["name"])
    assert num_whole >= 25 and len(names) == 4


def test_regex_lark_and_gbnf_say_the_same(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["byte level"]
    end = [end_of(tokenizer)]
    rules = [
        regex("(a/b|the){2}[0-9]?"),
        lark('start: w w D?\nw: "a/b" | "the"\nD: /[0-9]/'),
        gbnf('root ::= w w [0-9]?\nw ::= "a/b" | "the"'),
    ]
    halves = ["a/b", "the"]
    language = {u + v + d for u in halves for v in halves for d in ["", *"0123456789"]}
    for rule in rules:
        start = constraint_of(tokenizer, rule)
        walks = [walk(start.fork(), end, seed) for seed in range(200)]
        said = {tokenizer.decode(ids) for ids in walks if ids is not None}
        assert said <= language and len(said) > 30, said - language


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: check(json_schema({"type": "zork"})), "Invalid type: zork"),
        (lambda: check(json_schema({"$ref": "#/nowhere"})), "nowhere"),
        (lambda: check(json_schema({"type": "string", "if": {}})), "Unimplemented keys"),
        (lambda: check(json_schema({"type": "string", "pattern": "(a"})), "a"),
        (lambda: json_schema([1]), "allowed: an object"),
        (lambda: check(regex("(a")), "unclosed group"),
        (lambda: check(lark("start x")), "Expected token"),
        (lambda: gbnf("root := 1"), "Expected ::="),
        (lambda: gbnf("root ::= other"), "other"),
    ],
)
def test_what_cannot_be_followed_is_refused_with_the_reason(make: Any, reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        make()


def test_a_schema_that_is_not_strict_lets_unknown_keywords_go() -> None:
    schema = {"type": "string", "if": {"const": "a"}}
    check(json_schema(schema, is_strict=False))
    with pytest.raises(RequestError, match="Unimplemented"):
        check(json_schema(schema))


def test_a_model_without_an_end_takes_no_grammar(tokenizers: dict[str, Tokenizer]) -> None:
    constraints = Constraints(tokenizers["tekken"], 300, [])
    with pytest.raises(RequestError, match="no token that ends an answer"):
        constraints.of(grammar_for([regex("a")], "start: @rule_0"))


def answer(tokenizer: Tokenizer, name: str, seed: int, **changes: Any) -> list[Part] | None:
    """Parts of one random answer. Where markers are no special tokens, chance would never end the
    reasoning.
    """
    eos_ids = sorted(tokenizer.eos_ids) or [end_of(tokenizer)]
    style = answer_style(tokenizer, tools=TOOLS, has_told_tools=name in ("plain", "think"))
    rules = AnswerRules(style, **{"tools": TOOLS, "calls": "required", **changes})
    constraints = Constraints(tokenizer, tokenizer.vocab_size, eos_ids)
    lead = tokenizer.encode("<think>hm, \u4f60</think>\n\n") if name == "think" else []
    ids = walk(constraints.of(rules.grammar(tokenizer)), eos_ids, seed, lead=lead)
    if ids is None:
        return None
    return parts_of(pushed(answer_parser(tokenizer, tools=TOOLS, style=style), ids))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_forced_call_parses_back_in_each_family(
    families: dict[str, Tokenizer], name: str
) -> None:
    called, num_calls = set(), 0
    for seed in range(24):
        found = answer(families[name], name, seed)
        if found is None:
            continue
        calls = [part for part in found if part.kind == "tool_call"]
        assert calls and found[-1].kind == "tool_call", (seed, found)
        for call in calls:
            assert call.arguments is not None and call.id, call
            assert not problems(call.arguments, SCHEMAS[call.name]), call
        called |= {call.name for call in calls}
        num_calls += 1
    assert num_calls >= 8 and called == set(SCHEMAS), (num_calls, called)


@pytest.mark.parametrize("name", FAMILIES)
def test_one_tool_and_one_call_where_no_more_is_allowed(
    families: dict[str, Tokenizer], name: str
) -> None:
    for seed in range(8):
        found = answer(families[name], name, seed, tools=TOOLS[:1], is_parallel=False)
        if found is not None:
            assert [p.name for p in found if p.kind == "tool_call"] == ["get_weather"]


CALLS = {
    "harmony": "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{}",
    "kimi": "Let me see.<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0"
    "<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
    "mistral": '[TOOL_CALLS] [{{"name": "get_weather", "arguments": {}}}]',
    "llama": '{{"name": "get_weather", "parameters": {}}}',
    "think": "<think>hm</think>\n\nWell.\n"
    '<tool_call>\n{{"name": "get_weather", "arguments": {}}}\n</tool_call>',
    "plain": '<tool_call>\n{{"name": "get_weather", "arguments": {}}}\n</tool_call>',
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_free_answer_may_be_text_or_a_call_with_arguments_of_the_schema(
    families: dict[str, Tokenizer], name: str
) -> None:
    tokenizer = families[name]
    eos_ids = sorted(tokenizer.eos_ids) or [end_of(tokenizer)]
    style = answer_style(tokenizer, tools=TOOLS, has_told_tools=name in ("plain", "think"))
    grammar = AnswerRules(style, tools=TOOLS, calls="allowed").grammar(tokenizer)
    start = Constraints(tokenizer, tokenizer.vocab_size, eos_ids).of(grammar)

    def ends(text: str) -> bool:
        constraint = start.fork()
        for token_id in tokenizer.encode(text, allow_special=True):
            if token_id not in ids_of(constraint.masks([])[0]):
                return False
            constraint.accept(token_id)
        return eos_ids[0] in ids_of(constraint.masks([])[0])

    template = CALLS[name] if "{{" in CALLS[name] else CALLS[name].replace("{}", "{0}")
    assert ends(template.format('{"city": "Jakarta", "days": [1, 2]}'))
    assert not ends(template.format('{"city": "Bonn"}'))
    assert not ends(template.format('{"city": "Jakarta", "days": [4]}'))
    head = "<|channel|>final<|message|>" if name == "harmony" else ""
    assert ends(f"{head}No call, only \u4f60 {{}} and text.")


@pytest.mark.parametrize("name", FAMILIES)
def test_text_keeps_its_format_behind_the_reasoning(
    families: dict[str, Tokenizer], name: str
) -> None:
    tokenizer, num_reasoned = families[name], 0
    for seed in range(12):
        found = answer(
            tokenizer, name, seed, tools=(), calls="none", text=json_schema(SCHEMAS["get_weather"])
        )
        if found is None:
            continue
        kinds = [part.kind for part in found]
        assert kinds == ["reasoning"] * (len(kinds) - 1) + ["text"], found
        assert not problems(json.loads(found[-1].text), SCHEMAS["get_weather"])
        num_reasoned += len(kinds) > 1
    has_reasoning = name in ("harmony", "kimi", "think")
    assert (num_reasoned > 0) == has_reasoning


def test_the_newer_calls_of_mistral_parse_back(tmp_path: Path) -> None:
    tokenizer = family("mistral", tmp_path)
    tokenizer.chat_template = "[TOOL_CALLS][ARGS][CALL_ID]"
    for seed in range(8):
        found = answer(tokenizer, "mistral", seed)
        assert found is not None
        for call in found:
            assert call.kind == "tool_call" and not problems(call.arguments, SCHEMAS[call.name])


def test_ids_are_parsed_with_the_style_they_were_written_in(families: dict[str, Tokenizer]) -> None:
    text = CALLS["plain"].format('{"city": "Jakarta"}') + " done"
    found = parts_of(pushed(parser_of(families["plain"], tools=TOOLS), [text]))
    assert [(part.kind, part.name) for part in found] == [
        ("tool_call", "get_weather"),
        ("text", ""),
    ]
    untouched = parts_of(pushed(parser_of(families["plain"]), [text]))
    assert [part.kind for part in untouched] == ["text"]
