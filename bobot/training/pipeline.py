"""Runs a recipe from its corpora to a finished model; what is already done is left as it is.

OUT/tokenizer/   tokenizer.json
OUT/data/NAME/   one tokenized source
OUT/STAGE/       checkpoints and metrics.jsonl of one stage
OUT/NAME.gguf    the model, with MODEL_CARD.md and SHA256SUMS beside it
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer

from bobot.checkpoints.writing import atomic_file
from bobot.errors import TrainingError
from bobot.models.llama import Llama
from bobot.training.batches import plan_stage
from bobot.training.card import write_card
from bobot.training.corpus import rows_of, source_digest, verify_corpus
from bobot.training.evaluate import answer, bits_per_byte
from bobot.training.export import export_gguf
from bobot.training.loop import Report, Stage, initialize, restore
from bobot.training.muon import MixedOptimizer
from bobot.training.recipe import Recipe, StageSettings, digest
from bobot.training.saving import load_newest, sha256_of
from bobot.training.shards import is_current, read_shard, write_shard
from bobot.training.vocabulary import load_tokenizer_file, save_tokenizer, train_tokenizer
from bobot.weights.load import load_model


def run_recipe(recipe: Recipe, data: Path, out: Path, report: Report) -> None:
    """Does whatever of the recipe is not done yet. Raises TrainingError, StorageError."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer, tokenizer_digest = prepare_tokenizer(recipe, data, out, report)
    prepare_data(recipe, data, out, tokenizer, tokenizer_digest, report)
    model = Llama(recipe.model.llama_config(tokenizer.get_vocab_size()))
    optimizer = MixedOptimizer(model, recipe.optimizer)
    initialize(model, recipe.seed)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    report(f"{recipe.name}: {num_parameters / 1e6:.2f} M parameters")
    made_from = digest(tokenizer_digest, recipe.model, recipe.optimizer, recipe.seed)
    for settings in recipe.stages:
        made_from = train_stage(
            recipe, settings, out, tokenizer, model, optimizer, made_from, report
        )
    export(recipe, out, tokenizer, model, made_from, report)


def prepare_tokenizer(
    recipe: Recipe, data: Path, out: Path, report: Report
) -> tuple[Tokenizer, str]:
    """The recipe's tokenizer, trained now if it isn't there, and the digest of what made it."""
    folder = out / "tokenizer"
    made_from = digest(
        recipe.tokenizer, [source_digest(recipe, name) for name in recipe.tokenizer.sources]
    )
    marker = folder / "made_from.json"
    if marker.exists() and json.loads(marker.read_text()) == made_from:
        return load_tokenizer_file(folder / "tokenizer.json"), made_from
    _verify_all(recipe, data, report)
    report("tokenizer: learning the vocabulary")
    tokenizer = train_tokenizer(_tokenizer_texts(recipe, data), recipe.tokenizer.vocab_size)
    if tokenizer.get_vocab_size() != recipe.tokenizer.vocab_size:
        raise TrainingError(
            "the texts give a vocabulary of {found}; the recipe wants {wanted}.",
            hint="Ask for a smaller vocabulary, or give more text.",
            found=tokenizer.get_vocab_size(),
            wanted=recipe.tokenizer.vocab_size,
        )
    folder.mkdir(exist_ok=True)
    marker.unlink(missing_ok=True)
    save_tokenizer(tokenizer, folder / "tokenizer.json")
    with atomic_file(marker) as file:
        file.write(json.dumps(made_from).encode())
    return tokenizer, made_from


def prepare_data(
    recipe: Recipe,
    data: Path,
    out: Path,
    tokenizer: Tokenizer,
    tokenizer_digest: str,
    report: Report,
) -> None:
    """Tokenizes every source whose shard is missing or was made from something else."""
    for name in recipe.source_names():
        made_from = shard_digest(recipe, name, tokenizer_digest)
        folder = out / "data" / name
        if is_current(folder, made_from):
            continue
        for corpus in recipe.corpora:
            if corpus.name == name:
                verify_corpus(corpus, data)
        write_shard(
            folder,
            rows_of(recipe, name, data),
            tokenizer,
            max_document_tokens=recipe.run.max_document_tokens,
            held_out_documents=recipe.run.held_out_documents,
            made_from=made_from,
        )
        facts = json.loads((folder / "shard.json").read_text())
        report(f"data: {name}: {facts['documents']} documents, {facts['tokens']} tokens")


def shard_digest(recipe: Recipe, name: str, tokenizer_digest: str) -> str:
    run = recipe.run
    return digest(
        source_digest(recipe, name),
        tokenizer_digest,
        run.max_document_tokens,
        run.held_out_documents,
    )


def train_stage(
    recipe: Recipe,
    settings: StageSettings,
    out: Path,
    tokenizer: Tokenizer,
    model: Llama,
    optimizer: MixedOptimizer,
    before: str,
    report: Report,
) -> str:
    """Brings model and optimizer to the end of the stage; the digest of all that led there."""
    shards = [source_digest(recipe, name) for name in settings.mix]
    made_from = digest(before, settings, shards, recipe.run.max_document_tokens)
    folder = out / settings.name
    saved = load_newest(folder, report)
    if (
        saved
        and saved.state["made_from"] == made_from
        and saved.state["step"] == saved.state["num_steps"]
    ):
        restore(model, optimizer, saved)
        report(f"{settings.name}: done before")
        return made_from
    sources = {name: read_shard(out / "data" / name) for name in settings.mix}
    plan = plan_stage(
        sources, settings.mix, settings.tokens_per_step, settings.max_steps, recipe.seed
    )
    Stage(
        settings=settings,
        run=recipe.run,
        plan=plan,
        sources=sources,
        held_out={name: read_shard(out / "data" / name, held_out=True) for name in settings.mix},
        tokenizer=tokenizer,
        model=model,
        optimizer=optimizer,
        folder=folder,
        made_from=made_from,
        report=report,
    ).train()
    return made_from


def export(
    recipe: Recipe, out: Path, tokenizer: Tokenizer, model: Llama, before: str, report: Report
) -> None:
    """The finished file with its checksum, and a card measured on what the file gives back."""
    file, marker = out / f"{recipe.name}.gguf", out / "exported.json"
    made_from = digest(
        before, recipe.temperature, recipe.top_p, recipe.about, recipe.run.card_prompts
    )
    if file.exists() and marker.exists() and json.loads(marker.read_text()) == made_from:
        report(f"{file}: done before")
        return
    export_gguf(model, tokenizer, recipe, file)
    stored, _ = load_model(file, dtype="float32")
    bits = {}
    for name in recipe.source_names():
        documents = read_shard(out / "data" / name, held_out=True)
        bits[name] = bits_per_byte(
            stored, tokenizer, documents, recipe.run.tokens_per_micro_batch, assistant_only=True
        )
    write_card(
        recipe,
        out / "MODEL_CARD.md",
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        file_bytes=file.stat().st_size,
        tokens_seen={stage.name: _tokens_seen(out / stage.name) for stage in recipe.stages},
        bits=bits,
        answers={
            asked: answer(stored, tokenizer, asked, max_tokens=240)
            for asked in recipe.run.card_prompts
        },
    )
    with atomic_file(out / "SHA256SUMS") as written:
        written.write(f"{sha256_of(file)}  {file.name}\n".encode())
    with atomic_file(marker) as written:
        written.write(json.dumps(made_from).encode())
    report(f"{file}: {file.stat().st_size / 1e6:.2f} MB")


def _tokens_seen(folder: Path) -> int:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return sum(json.loads(line).get("tokens", 0) for line in lines)


def _verify_all(recipe: Recipe, data: Path, report: Report) -> None:
    report(f"data: checking {len(recipe.corpora)} corpora in {data}")
    for corpus in recipe.corpora:
        verify_corpus(corpus, data)


def _tokenizer_texts(recipe: Recipe, data: Path) -> Iterator[str]:
    """Up to the allowed number of characters of each source."""
    for name in recipe.tokenizer.sources:
        left = recipe.tokenizer.max_characters_per_source
        for row in rows_of(recipe, name, data):
            texts = (
                [message["content"] for message in row["messages"]]
                if "messages" in row
                else [row["text"]]
            )
            for text in texts:
                left -= len(text)
                yield text
            if left <= 0:
                break
