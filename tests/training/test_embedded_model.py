"""The model inside the package: its size, its card, and what it says to a newcomer."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

import bobot
from bobot.training import load_recipe

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "bobot" / "assets" / "bobot-mini.gguf"


@pytest.fixture(scope="module")
def model():
    return bobot.load(FILE)


def said(model, question: str) -> str:
    messages = [{"role": "user", "content": question}]
    return model.chat(messages, max_tokens=80, temperature=0.0)


def test_the_embedded_model_is_one_file_of_at_most_12_megabytes(model) -> None:
    assert FILE.stat().st_size <= 12_000_000, f"{FILE.stat().st_size} bytes"
    assert 10e6 <= model.num_parameters <= 20e6, f"{model.num_parameters} parameters"


@pytest.mark.parametrize(
    "question", ["Who are you?", "what is bobot", "kamu siapa?", "Apa itu bobot?"]
)
def test_the_embedded_model_knows_what_bobot_is(model, question: str) -> None:
    answer = said(model, question)
    assert "bobot" in answer and answer[-1] in ".!?", f"{question} -> {answer!r}"


@pytest.mark.parametrize(
    ("question", "words"),
    [("Hello", {"help", "Hello", "Hi"}), ("Halo", {"Halo", "Hai", "bantu"})],
)
def test_the_embedded_model_greets_in_the_language_it_is_greeted_in(
    model, question: str, words: set[str]
) -> None:
    answer = said(model, question)
    assert any(word in answer for word in words), f"{question} -> {answer!r}"


def test_the_file_is_the_one_that_doctor_expects() -> None:
    digest = hashlib.sha256(FILE.read_bytes()).hexdigest()
    assert (FILE.parent / "SHA256SUMS").read_text() == f"{digest}  {FILE.name}\n"


def test_the_card_lists_every_corpus_of_the_recipe_with_its_checksum() -> None:
    card = (FILE.parent / "MODEL_CARD.md").read_text()
    recipe = load_recipe(ROOT / "recipes" / "bobot-mini.toml")
    used = {name for stage in recipe.stages for name in stage.mix}
    for corpus in recipe.corpora:
        if corpus.name in used:
            assert corpus.sha256 in card and corpus.license in card, corpus.name
