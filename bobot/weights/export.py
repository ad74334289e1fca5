"""What it takes to write a model in another form: which tensors that form has, and how each is made
of ours. The two forms are export_hf.py and export_gguf.py.

Nothing is held that was not asked for: a tensor is read, changed and written before the next one,
the experts of a layer one by one.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from bobot.errors import StorageError, UsageError
from bobot.hardware import existing_folder
from bobot.models.config import Derived, Dialect
from bobot.ops.rope import pairs_from_halves
from bobot.quant.weight import QuantWeight, Weight, change_rows
from bobot.weights.source import split_name

Progress = Callable[[int, int], None]


@dataclass
class ExportReport:
    """What was written, and what changed on the way."""

    num_tensors: int = 0
    num_bytes: int = 0
    unpacked: Counter[str] = field(default_factory=Counter)
    """Packed format -> how many tensors were written as bf16, because the new form lacks it."""


@dataclass(frozen=True)
class TargetTensor:
    """One tensor of the form to be written. `sample` shows how its values are stored now; `read`
    gives them in pieces along the first axis.
    """

    name: str
    shape: tuple[int, ...]
    sample: Weight
    read: Callable[[], Iterable[Weight]]


class Weights(Protocol):
    """A model whose weights can be asked for: an opened checkpoint, or one in memory."""

    @property
    def model(self) -> Any: ...

    @property
    def config(self) -> Any: ...

    def read(self, name: str) -> Weight: ...

    def sample(self, name: str) -> Weight: ...

    def read_expert(self, name: str, e: int) -> Weight: ...


@dataclass(frozen=True)
class LoadedWeights:
    """A model in memory."""

    model: Any

    @property
    def config(self) -> Any:
        return self.model.config

    def read(self, name: str) -> Weight:
        return self.model.get_parameter(name).detach()

    sample = read

    def read_expert(self, name: str, e: int) -> Weight:
        return self.read(name)[e]


def target_tensors(source: Weights, target: Dialect) -> Iterator[TargetTensor]:
    """All tensors of the model in the form `target`, in the order of our parameters."""
    for name, parameter in source.model.named_parameters():
        template, n = split_name(name)
        found = target.names.get(template, template)
        shape = tuple(parameter.shape)
        if isinstance(found, Derived):
            yield from _derived(source, name, n, found)
        elif "{e}" in found:
            sample = source.sample(name)
            sample = sample[0] if sample.ndim == len(shape) else sample
            for e in range(shape[0]):
                theirs = found.replace("{n}", n).replace("{e}", str(e))
                yield TargetTensor(theirs, shape[1:], sample, partial(_expert, source, name, e))
        else:
            theirs = found.replace("{n}", n)
            num_heads = target.pairs[template](source.config) if template in target.pairs else 0
            read = partial(_pieces, source, name, num_heads)
            yield TargetTensor(theirs, shape, _in_pairs(source.sample(name), num_heads), read)


def _derived(source: Weights, name: str, n: str, found: Derived) -> Iterator[TargetTensor]:
    assert found.split is not None, f"{name} can't be written in this form"
    samples = found.split(source.config, source.sample(name))
    for number, (theirs, sample) in enumerate(zip(found.names, samples, strict=True)):
        read = partial(_part, source, name, found, number)
        yield TargetTensor(theirs.replace("{n}", n), tuple(sample.shape), sample, read)


def _part(source: Weights, name: str, found: Derived, number: int) -> list[Weight]:
    assert found.split is not None
    return [found.split(source.config, source.read(name))[number]]


def _expert(source: Weights, name: str, e: int) -> list[Weight]:
    return [source.read_expert(name, e)]


def _pieces(source: Weights, name: str, num_heads: int) -> Iterator[Weight]:
    shape = source.model.get_parameter(name).shape
    if len(shape) == 3:
        for e in range(shape[0]):
            yield source.read_expert(name, e)
    else:
        yield _in_pairs(source.read(name), num_heads)


def _in_pairs(weight: Weight, num_heads: int) -> Weight:
    """Rows of each head moved from halves to adjacent pairs, unpacked where rows share a scale; as
    they are where the form rotates halves too (no heads given).
    """
    if num_heads == 0:
        return weight
    if isinstance(weight, QuantWeight) and weight.format.rows_per_entry:
        weight = weight.dequantize()
    return change_rows(weight, lambda part: pairs_from_halves(part, num_heads))


def unpacked(pieces: Callable[[], Iterable[Weight]]) -> Iterator[Tensor]:
    """The pieces as values, bf16 where they were packed."""
    for piece in pieces():
        yield piece.dequantize().to(torch.bfloat16) if isinstance(piece, QuantWeight) else piece


def check_disk(folder: Path, needed: int) -> None:
    """Raises StorageError if the disk that holds `folder` has no room for so many bytes."""
    free = shutil.disk_usage(existing_folder(folder)).free
    if free < needed:
        raise StorageError(
            "{path} needs {needed} MB; the disk has {free} MB free.",
            hint="Free some space, or choose another disk.",
            path=folder,
            needed=-(-needed // 10**6),
            free=free // 10**6,
        )


def check_destination(path: Path) -> None:
    """Raises UsageError where something is already, but for an empty folder."""
    is_empty_folder = path.is_dir() and not any(path.iterdir())
    if path.exists() and not is_empty_folder:
        raise UsageError(
            "{path} exists already; nothing is written over it.",
            hint="Choose another name, or remove it first.",
            path=path,
        )
