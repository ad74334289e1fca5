"""Arguments of tools have the properties that their schemas name, and stay valid by the letter."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
from answer_tokenizers import family
from schema_check import problems

from bobot.text.answer_rules import arguments_rule
from bobot.text.constraints import Constraints, GrammarConstraint, grammar_for
from bobot.text.tool_schemas import closed

CITY = {"type": "object", "properties": {"name": {"enum": ["a", "b"]}}, "required": ["name"]}
OPEN = {
    "type": "object",
    "$defs": {"city": CITY},
    "properties": {
        "from": {"$ref": "#/$defs/city"},
        "stops": {"type": "array", "maxItems": 2, "items": {"anyOf": [CITY, {"type": "null"}]}},
    },
    "required": ["from"],
}
TWO = {"anyOf": [{"required": ["a"]}, {"required": ["b"]}], "properties": {"a": {}, "b": {}}}
LEFT_ALONE = [
    {"type": "object"},
    {"properties": {"a": {}}, "additionalProperties": True},
    {"properties": {"a": {}}, "additionalProperties": {"type": "string"}},
    {"properties": {"a": {}}, "patternProperties": {"^x": {}}},
    {"properties": {"a": {}}, "required": ["a", "b"]},
    {"properties": {"a": {}}, "minProperties": 2},
    {"properties": {"a": {}}, "enum": [{"a": 1, "b": 2}]},
    {"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]},
    {"oneOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]},
    {"properties": {"x": TWO}},
    {"const": {"properties": {"properties": 1}}},
]


def asked(parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "parameters": parameters}}


def walks(folder: Path, parameters: Any) -> list[Any]:
    """The values of 40 random walks through the masks that came to an end."""
    tokenizer = family("plain", folder)
    (end,) = tokenizer.special_tokens.values()
    grammar = grammar_for([arguments_rule(asked(parameters))], "start: @rule_0")
    start = Constraints(tokenizer, tokenizer.vocab_size, [end]).of(grammar)
    pieces = tokenizer.vocabulary.pieces
    quotes = {i for i, piece in enumerate(pieces) if piece == b'"'} | {end}
    texts = (text_of(start.fork(), end, quotes, random.Random(seed)) for seed in range(40))
    return [json.loads(b"".join(pieces[i] for i in ids)) for ids in texts if ids is not None]


def text_of(
    constraint: GrammarConstraint, end: int, likely: set[int], draw: random.Random
) -> list[int] | None:
    """Tokens that may come, half of the time one of the likely: else no name would ever end."""
    ids: list[int] = []
    while len(ids) < 600:
        bits = constraint.masks([])[0]
        may = [i for i in range(8 * len(bits)) if bits[i // 8] >> (i % 8) & 1]
        preferred = [i for i in may if i in likely]
        chosen = draw.choice(preferred if preferred and draw.random() < 0.5 else may)
        constraint.accept(chosen)
        if chosen == end:
            return ids
        ids.append(chosen)
    return None


def test_only_named_properties_are_written_at_every_depth(tmp_path: Path) -> None:
    given = copy.deepcopy(OPEN)
    values = walks(tmp_path, given)
    assert given == OPEN, "the request is as it came"
    cities = [value["from"] for value in values]
    cities += [city for value in values for city in value.get("stops", []) if city]
    assert len(values) == 40 and len(cities) > 40
    for value in values:
        assert not problems(value, OPEN), value
        assert value.keys() <= {"from", "stops"}
    assert all(city.keys() == {"name"} for city in cities)


def test_a_tool_without_parameters_takes_none(tmp_path: Path) -> None:
    assert walks(tmp_path, None) == [{}] * 40


def test_others_may_come_where_the_schema_says_so(tmp_path: Path) -> None:
    values = walks(tmp_path, {**OPEN, "additionalProperties": {"enum": [1]}})
    others = [key for value in values for key in value.keys() - {"from", "stops"}]
    assert others and all(value[key] == 1 for value in values for key in value if key in others)


@pytest.mark.parametrize("schema", LEFT_ALONE, ids=lambda schema: " ".join(schema))
def test_what_closing_could_contradict_is_left_as_it_is(schema: dict[str, Any]) -> None:
    assert closed(schema) == schema


def test_a_schema_of_any_depth_is_read() -> None:
    schema: dict[str, Any] = {"properties": {}}
    for _ in range(5000):
        schema = {"items": schema}
    assert closed(schema) is schema
