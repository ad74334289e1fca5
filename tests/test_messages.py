"""The interface in two languages: every sentence of the source has its translation, and no other
is kept.

Sentences are the literals given to `tr`, and the templates and hints of our errors, found by
parsing.
"""

from __future__ import annotations

import ast
import string
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from bobot import errors
from bobot.messages import Catalogue, language_of

PACKAGE = Path(errors.__file__).parent
ERRORS = {
    name
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, errors.BobotError)
}


REFUSALS = {"ParameterError", "OverloadedError", "AnswerError"}
"""Errors of the protocol. Those of server/ go to programs, in English, as every answer of an API;
the others reach a person in the terminal too, through a hosted model or a policy.
"""


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """(place, name of the function, call) of every call in the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", "")  # jinja2.TemplateError is not ours
                place = path.relative_to(PACKAGE)
                is_read = name not in REFUSALS or place.parts[0] != "server"
                yield f"{place}:{node.lineno}", name if is_read else "", node


def texts() -> Iterator[tuple[str, ast.expr]]:
    """(place, expression) of every text that a user may see translated."""
    for place, name, call in calls():
        if name in ERRORS | REFUSALS or name == "tr":
            yield from ((place, argument) for argument in call.args[:1])
        if name in ERRORS | REFUSALS:
            yield from ((place, word.value) for word in call.keywords if word.arg == "hint")


def literal(expression: ast.expr) -> str | None:
    is_text = isinstance(expression, ast.Constant) and isinstance(expression.value, str)
    return expression.value if is_text else None  # type: ignore[union-attr, return-value]


def fields(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}


@pytest.fixture(scope="module")
def sentences() -> dict[str, str]:
    """English sentence -> a place where it stands; the empty hint is none."""
    found = ((literal(expression), place) for place, expression in texts())
    return {text: place for text, place in found if text}


@pytest.fixture(scope="module")
def indonesian() -> dict[str, str]:
    text = (PACKAGE / "locale" / "id.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)["messages"]


def test_every_text_is_a_plain_literal() -> None:
    wrong = [place for place, expression in texts() if literal(expression) is None]
    assert not wrong, f"a text that can't be looked up in the catalogue: {wrong}"


def test_every_sentence_is_translated(
    sentences: dict[str, str], indonesian: dict[str, str]
) -> None:
    missing = [f"{place}: {text}" for text, place in sentences.items() if text not in indonesian]
    assert not missing, f"{len(missing)} sentences without Indonesian:\n" + "\n".join(missing)


def test_no_translation_is_left_over(sentences: dict[str, str], indonesian: dict[str, str]) -> None:
    stale = [text for text in indonesian if text not in sentences]
    assert not stale, f"{len(stale)} translations of nothing:\n" + "\n".join(stale)


def test_translations_name_the_same_values(indonesian: dict[str, str]) -> None:
    wrong = [text for text, other in indonesian.items() if fields(text) != fields(other)]
    assert not wrong, "\n".join(wrong)


def test_errors_give_every_value_their_template_names() -> None:
    wrong = []
    for place, name, call in calls():
        if name not in ERRORS | REFUSALS or any(word.arg is None for word in call.keywords):
            continue
        hints = [word.value for word in call.keywords if word.arg == "hint"]
        asked = {f for e in (*call.args[:1], *hints) for f in fields(literal(e) or "")}
        given = {word.arg for word in call.keywords} - {"hint"}
        # what a program reads of a ParameterError and an OverloadedError, beside the text
        given -= {"param", "code", "retry_after_s"} - asked
        if {field.split(".")[0].split("[")[0] for field in asked} != given:
            wrong.append(f"{place}: template wants {sorted(asked)}, call gives {sorted(given)}")
    assert not wrong, "\n".join(wrong)


def test_error_is_one_line_in_either_language() -> None:
    error = errors.UsageError(
        "{names} is missing.", hint="See {prog} --help.", names="a\nb", prog="x"
    )
    assert str(error) == "a b is missing. See x --help."
    assert error.render(Catalogue("id").translate) == "a b tidak ada. Lihat x --help."


@pytest.mark.parametrize(
    ("environment", "language"),
    [
        ({}, "en"),
        ({"LANG": "id_ID.UTF-8"}, "id"),
        ({"LANG": "C.UTF-8"}, "en"),
        ({"LC_ALL": "en_US", "LANG": "id_ID"}, "en"),
        ({"LC_ALL": "", "LC_MESSAGES": "id", "LANG": "en_US"}, "id"),
        ({"LANG": "idx"}, "en"),
    ],
)
def test_language_is_that_of_the_system(environment: dict[str, str], language: str) -> None:
    assert language_of(environment) == language
