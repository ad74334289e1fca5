"""A recipe is strict: each mistake is named with the key, the value and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from bobot.errors import TrainingError
from bobot.training import load_recipe

SHIPPED = Path(__file__).resolve().parents[2] / "recipes" / "bobot-mini.toml"

MISTAKES = {
    "an unknown key": ("seed = 3", "seed = 3\nsede = 4", "unknown key sede"),
    "an unknown key in a section": ("head_dim = 32", "head_dim = 32\nheads = 2", "[model]"),
    "a missing key": ("rows = 40\n", "", "rows is missing"),
    "a wrong type": ("max_steps = 10", 'max_steps = "ten"', "it must be int"),
    "an unknown source": ("tales = 1500", "novels = 1500", "novels"),
    "an unknown loss": ('loss_on = "assistant"', 'loss_on = "user"', "allowed: all, assistant"),
    "too small a micro batch": (
        "tokens_per_micro_batch = 96",
        "tokens_per_micro_batch = 9",
        "allowed: 64 or more",
    ),
    "no TOML": ('name = "tiny"', "name = ", "not a readable recipe"),
    "one name twice": ('name = "talk"', 'name = "tales"', "two sources are called tales"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_recipe_is_named(mistake: str, tiny_recipe: Path) -> None:
    old, new, wanted = MISTAKES[mistake]
    text = tiny_recipe.read_text()
    assert old in text
    tiny_recipe.write_text(text.replace(old, new, 1))
    with pytest.raises(TrainingError) as caught:
        load_recipe(tiny_recipe)
    assert wanted in str(caught.value)


def test_a_recipe_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="not a readable recipe"):
        load_recipe(tmp_path / "none.toml")


def test_the_shipped_recipe_names_corpora_as_the_manifest_does(shared: Path) -> None:
    lines = (shared / "corpus" / "MANIFEST.tsv").read_text().splitlines()
    head = lines[0].split("\t")
    manifest = {
        row[0]: dict(zip(head, row, strict=False)) for row in (x.split("\t") for x in lines)
    }
    for corpus in load_recipe(SHIPPED).corpora:
        entry = manifest[corpus.file]
        found = (corpus.license, corpus.source, corpus.sha256)
        assert found == (entry["license"], entry["source_repo"], entry["sha256_jsonl"]), corpus.name


def test_the_shipped_recipe_asks_for_a_model_of_ten_to_twenty_million_parameters() -> None:
    import torch

    from bobot.models.llama import Llama

    recipe = load_recipe(SHIPPED)
    with torch.device("meta"):
        model = Llama(recipe.model.llama_config(recipe.tokenizer.vocab_size))
    size = sum(parameter.numel() for parameter in model.parameters())
    assert 10e6 <= size <= 20e6, f"{size} parameters"
