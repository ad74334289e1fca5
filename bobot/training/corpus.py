"""Reads the sources of a recipe: corpora, checked against their checksum, and seeded generators.

A row is {"lang", "text"} or {"lang", "messages": [{"role", "content"}, ...]}.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
import lzma
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bobot.errors import TrainingError
from bobot.training.recipe import CorpusSource, GeneratorSource, Recipe

Row = Mapping[str, Any]


def rows_of(recipe: Recipe, name: str, data: Path) -> Iterator[Row]:
    """The rows of a source, in order. A corpus must have been verified before."""
    for corpus in recipe.corpora:
        if corpus.name == name:
            with lzma.open(data / corpus.file, "rt", encoding="utf-8") as lines:
                for line in itertools.islice(lines, corpus.rows):
                    yield json.loads(line)
            return
    source = next(source for source in recipe.generators if source.name == name)
    yield from generator_rows(recipe, source)


def verify_corpus(corpus: CorpusSource, data: Path) -> None:
    """Raises TrainingError if the file is absent, unreadable or not the one the recipe names."""
    path = data / corpus.file
    hasher = hashlib.sha256()
    try:
        with lzma.open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                hasher.update(chunk)
    except FileNotFoundError as error:
        raise TrainingError(
            "corpus {name} is not at {path}.",
            hint="--data must be the folder that holds {file}: JSON lines made from {source}.",
            name=corpus.name,
            path=path,
            file=corpus.file,
            source=corpus.source,
        ) from error
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise TrainingError(
            "corpus {name} at {path} can't be read: {reason}",
            hint="Copy the file again.",
            name=corpus.name,
            path=path,
            reason=error,
        ) from error
    if hasher.hexdigest() != corpus.sha256:
        raise TrainingError(
            "corpus {name} at {path} has sha256 {found}; the recipe wants {wanted}.",
            hint="Get the file the recipe names, or write the new checksum into the recipe.",
            name=corpus.name,
            path=path,
            found=hasher.hexdigest(),
            wanted=corpus.sha256,
        )


def generator_rows(recipe: Recipe, source: GeneratorSource) -> Iterator[Row]:
    """Runs the recipe's own Python file (as trusted as the recipe itself)."""
    path = recipe.folder / source.file
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise TrainingError(
            "generator {name}: there is no Python file at {path}.", name=source.name, path=path
        )
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
        yield from module.rows(recipe.seed, source.rows)
    finally:
        sys.path.remove(str(path.parent))


def source_digest(recipe: Recipe, name: str) -> str:
    """Changes when the rows of the source could change: checksum, or the generator's files."""
    for corpus in recipe.corpora:
        if corpus.name == name:
            return f"{corpus.sha256} {corpus.rows}"
    source = next(source for source in recipe.generators if source.name == name)
    hasher = hashlib.sha256(f"{recipe.seed} {source}".encode())
    for folder in (Path(source.file).parent, *source.reads):
        for path in sorted((recipe.folder / folder).rglob("*")):
            if path.suffix in (".py", ".toml"):
                hasher.update(path.read_bytes())
    return hasher.hexdigest()
