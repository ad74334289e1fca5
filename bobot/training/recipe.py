"""A recipe: the TOML file that says what to train, on what, and for how long. Strict both ways.

Every corpus is named with its source, licence and checksum; every setting must be known.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from bobot.errors import TrainingError
from bobot.models.llama import LlamaConfig

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The shape of the Llama; the vocabulary's size comes from the tokenizer."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int

    def llama_config(self, vocab_size: int) -> LlamaConfig:
        return LlamaConfig(vocab_size=vocab_size, tie_word_embeddings=True, **vars(self))


@dataclass(frozen=True, kw_only=True)
class TokenizerSettings:
    vocab_size: int
    sources: list[str]
    """Corpora and generators the merges are learned from."""
    max_characters_per_source: int


@dataclass(frozen=True, kw_only=True)
class CorpusSource:
    """One file of JSON lines, xz-compressed, below the folder given as `--data`."""

    name: str
    file: str
    license: str
    source: str
    sha256: str
    """Of the uncompressed JSON lines."""
    rows: int
    """How many of its first lines are used."""


@dataclass(frozen=True, kw_only=True)
class GeneratorSource:
    """A Python file beside the recipe with `rows(seed, count)`: dicts as in a corpus file."""

    name: str
    file: str
    reads: list[str]
    """Other folders beside the recipe whose files it uses."""
    rows: int


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """Peak learning rates: Muon for the matrices of the layers, AdamW for the rest."""

    matrix_lr: float
    embedding_lr: float
    norm_lr: float
    momentum: float
    weight_decay: float


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """One phase of training. `mix` says how many tokens of each source it sees."""

    name: str
    loss_on: str
    """"all" tokens, or only those of the "assistant"."""
    tokens_per_step: int
    max_steps: int
    """The stage ends here even if its mix has more."""
    warmup_steps: int
    lr_scale: float
    decay_from: float
    """The part of the stage after which the learning rate falls in a line."""
    final_lr_scale: float
    mix: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    tokens_per_micro_batch: int
    """Only a matter of memory and speed: the step's gradient is the same for any value."""
    max_document_tokens: int
    steps_per_checkpoint: int
    steps_per_evaluation: int
    held_out_documents: int
    """Per source, counted after cutting; never trained on."""
    sample_prompts: list[str]
    """Answered at each evaluation."""
    card_prompts: list[str]
    """Answered by the finished file, for its card."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the weights, given the corpora."""

    name: str
    seed: int
    temperature: float
    """How the finished file asks to be sampled; likewise `top_p`."""
    top_p: float
    about: str
    """A Markdown file beside the recipe: what the card says besides figures."""
    folder: Path
    model: ModelSettings
    tokenizer: TokenizerSettings
    optimizer: OptimizerSettings
    run: RunSettings
    corpora: tuple[CorpusSource, ...]
    generators: tuple[GeneratorSource, ...]
    stages: tuple[StageSettings, ...]

    def source_names(self) -> list[str]:
        return [source.name for source in (*self.corpora, *self.generators)]


def load_recipe(path: Path) -> Recipe:
    """The recipe in `path`. Raises TrainingError naming the file, the key and what is allowed."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise TrainingError(
            "{file} is not a readable recipe: {reason}",
            hint="Give the path of a TOML recipe, for example recipes/bobot-mini.toml.",
            file=path,
            reason=error,
        ) from error
    where = str(path)
    sections = {
        "model": ModelSettings,
        "tokenizer": TokenizerSettings,
        "optimizer": OptimizerSettings,
        "run": RunSettings,
    }
    lists = {"corpus": CorpusSource, "generator": GeneratorSource, "stage": StageSettings}
    known = {"name", "seed", "temperature", "top_p", "about", *sections, *lists}
    _refuse_unknown(raw, known, where)
    recipe = Recipe(
        name=_value(raw, "name", str, where),
        seed=_value(raw, "seed", int, where),
        temperature=_value(raw, "temperature", float, where),
        top_p=_value(raw, "top_p", float, where),
        about=_value(raw, "about", str, where),
        folder=path.resolve().parent,
        **{
            key: _build(kind, raw.get(key, {}), f"{where} [{key}]")
            for key, kind in sections.items()
        },
        corpora=_build_list(CorpusSource, raw, "corpus", where),
        generators=_build_list(GeneratorSource, raw, "generator", where),
        stages=_build_list(StageSettings, raw, "stage", where),
    )
    _check(recipe, where)
    return recipe


def digest(*parts: object) -> str:
    """A sha256 over the text of the parts: equal exactly when they say the same."""
    return hashlib.sha256("\n".join(repr(part) for part in parts).encode()).hexdigest()


def _check(recipe: Recipe, where: str) -> None:
    names = recipe.source_names()
    for name in names:
        if names.count(name) > 1:
            raise TrainingError("{where}: two sources are called {name}.", where=where, name=name)
    wanted = [(name, stage.name) for stage in recipe.stages for name in stage.mix]
    wanted += [(name, "tokenizer") for name in recipe.tokenizer.sources]
    for name, user in wanted:
        if name not in names:
            raise TrainingError(
                "{where}: {user} asks for the source {name}; the sources are {names}.",
                where=where,
                user=user,
                name=name,
                names=", ".join(names),
            )
    for stage in recipe.stages:
        if stage.loss_on not in ("all", "assistant"):
            raise TrainingError(
                "{where}: loss_on of stage {stage} is {found!r}; allowed: all, assistant.",
                where=where,
                stage=stage.name,
                found=stage.loss_on,
            )
    if recipe.run.tokens_per_micro_batch < recipe.run.max_document_tokens:
        raise TrainingError(
            "{where}: tokens_per_micro_batch is {found}; allowed: {longest} or more.",
            where=where,
            found=recipe.run.tokens_per_micro_batch,
            longest=recipe.run.max_document_tokens,
        )


def _build_list(kind: type[T], raw: Mapping[str, Any], key: str, where: str) -> tuple[T, ...]:
    entries = raw.get(key, [])
    if not isinstance(entries, list):
        raise TrainingError("{where}: write [[{key}]], once per entry.", where=where, key=key)
    return tuple(
        _build(kind, entry, f"{where} [[{key}]] {i + 1}") for i, entry in enumerate(entries)
    )


def _build(kind: type[T], raw: Mapping[str, Any], where: str) -> T:
    kinds = {"int": int, "float": float, "str": str, "dict[str, int]": dict, "list[str]": list}
    names = {field.name: kinds[str(field.type)] for field in fields(kind)}  # type: ignore[arg-type]
    _refuse_unknown(raw, set(names), where)
    return kind(
        **{name: _value(raw, name, value_kind, where) for name, value_kind in names.items()}
    )


def _value(raw: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
    value = raw.get(key, MISSING)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        found = "missing" if value is MISSING else repr(value)
        raise TrainingError(
            "{where}: {key} is {found}; it must be {kind}.",
            where=where,
            key=key,
            found=found,
            kind=kind.__name__,
        )
    return value


def _refuse_unknown(raw: Mapping[str, Any], known: set[str], where: str) -> None:
    for key in raw:
        if key not in known:
            raise TrainingError(
                "{where}: unknown key {key}; the keys are {known}.",
                where=where,
                key=key,
                known=", ".join(sorted(known)),
            )
