"""The generators of the shipped recipe: same rows for one seed, both languages, no gap open."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from bobot.training import load_recipe
from bobot.training.corpus import Row, generator_rows

RECIPE = load_recipe(Path(__file__).resolve().parents[2] / "recipes" / "bobot-mini.toml")
MANY = 3000


def rows(name: str, count: int = MANY) -> list[Row]:
    source = next(source for source in RECIPE.generators if source.name == name)
    return list(itertools.islice(generator_rows(RECIPE, source), count))


def texts(row: Row) -> list[str]:
    return [turn["content"] for turn in row["messages"]] if "messages" in row else [row["text"]]


@pytest.mark.parametrize("name", ["stories", "chat", "wider", "drill"])
def test_a_generator_gives_the_same_rows_again(name: str) -> None:
    assert rows(name, 300) == rows(name, 300)


@pytest.mark.parametrize("name", ["stories", "chat", "wider", "drill"])
def test_a_generator_speaks_both_languages_equally_and_fills_every_gap(name: str) -> None:
    found = rows(name)
    assert sum(row["lang"] == "id" for row in found) == MANY // 2
    for row in found:
        for text in texts(row):
            assert text.strip() and "{" not in text and "}" not in text, text


@pytest.mark.parametrize("name", ["chat", "wider", "drill"])
def test_conversations_take_turns_and_end_with_the_assistant(name: str) -> None:
    for row in rows(name):
        roles = [turn["role"] for turn in row["messages"] if turn["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2) and roles, roles


@pytest.mark.parametrize("name", ["chat", "wider", "drill"])
def test_the_assistant_answers_in_whole_sentences(name: str) -> None:
    for row in rows(name):
        for turn in row["messages"]:
            if turn["role"] == "assistant":
                said = turn["content"]
                assert said[-1] in '.!?"', said
                assert said[0].isupper() or said[0].isdigit() or said[0] in '"b', said


@pytest.mark.parametrize("name", ["chat", "wider", "drill"])
def test_sums_are_right(name: str) -> None:
    words = {"plus": "+", "tambah": "+", "minus": "-", "kurang": "-", "times": "*", "kali": "*"}
    operations = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
    checked = 0
    for row in rows(name):
        for turn in row["messages"]:
            parts = turn["content"].rstrip(".").split()
            is_sum = len(parts) == 5 and parts[0].isdigit() and parts[1] in words
            if turn["role"] == "assistant" and is_sum:
                wanted = operations[words[parts[1]]](int(parts[0]), int(parts[2]))
                assert int(parts[4]) == wanted, turn["content"]
                checked += 1
    assert checked > 100
