"""The model card: what a model was made from, how, how well it does and where it fails.

Numbers and sample answers come from the run; the words that no run can know come from the recipe's
own text file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bobot.checkpoints.writing import atomic_file
from bobot.training.recipe import Recipe


def write_card(
    recipe: Recipe,
    path: Path,
    *,
    num_parameters: int,
    file_bytes: int,
    tokens_seen: Mapping[str, int],
    bits: Mapping[str, float],
    answers: Mapping[str, str],
) -> None:
    """MODEL_CARD.md at `path`; `bits` is bits per byte per source, `tokens_seen` is per stage."""
    about = (recipe.folder / recipe.about).read_text(encoding="utf-8").strip()
    parts = [
        f"# {recipe.name}",
        about,
        "## Figures",
        _figures(recipe, num_parameters, file_bytes, tokens_seen),
        "## Held-out bits per byte (lower is better; of conversations, the assistant's words)",
        _table(("source", "bits per byte"), [(name, f"{bits[name]:.3f}") for name in bits]),
        "## Answers as they came (greedy, none left out)",
        "\n\n".join(f"> {asked}\n\n{said or '(nothing)'}" for asked, said in answers.items()),
        "## Data",
        _data(recipe),
    ]
    with atomic_file(path) as file:
        file.write(("\n\n".join(parts) + "\n").encode())


def _figures(
    recipe: Recipe, num_parameters: int, file_bytes: int, tokens_seen: Mapping[str, int]
) -> str:
    model = recipe.model
    rows = [
        ("parameters", f"{num_parameters:,}"),
        ("file", f"{file_bytes:,} bytes, GGUF, Q8_0"),
        (
            "shape",
            f"Llama: {model.num_hidden_layers} layers, hidden {model.hidden_size}, "
            f"feed-forward {model.intermediate_size}, {model.num_attention_heads} heads of "
            f"{model.head_dim} ({model.num_key_value_heads} key/value), tied embeddings",
        ),
        ("context", f"{model.max_position_embeddings} tokens"),
        ("vocabulary", f"{recipe.tokenizer.vocab_size} byte-level BPE tokens"),
    ]
    rows += [(f"tokens seen in {stage}", f"{tokens:,}") for stage, tokens in tokens_seen.items()]
    return _table(("", ""), rows)


def _data(recipe: Recipe) -> str:
    used = {name for stage in recipe.stages for name in stage.mix}
    rows = []
    for corpus in recipe.corpora:
        if corpus.name in used:
            rows.append((corpus.name, corpus.license, corpus.source, f"`{corpus.sha256}`"))
    for generator in recipe.generators:
        origin = f"written by this project: {generator.file}, seed {recipe.seed}"
        rows.append((generator.name, "Apache-2.0", origin, "(generated)"))
    return _table(("source", "licence", "from", "sha256 of the uncompressed lines"), rows)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    lines += [" | ".join(row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)
