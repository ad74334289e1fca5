"""A LoRA adapter joined with the model that it changes: every layer of the file is found in the
model with its shape, or the load stops with its name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bobot.checkpoints.lora_gguf import read_lora_gguf
from bobot.checkpoints.lora_tensors import LoraFile, StoredLora
from bobot.checkpoints.peft import CONFIG, read_peft
from bobot.checkpoints.stored import StoredTensor, shown
from bobot.errors import CheckpointError, NotFoundError
from bobot.layers.linear import Linear
from bobot.layers.lora import Adapter, LowRank
from bobot.models.config import Dialect
from bobot.models.registry import Family, family_named
from bobot.ops.rope import halves_from_pairs
from bobot.weights.source import open_model, split_name

LAYERS = "model.layers."


def open_adapter(path: Path) -> LoraFile:
    """The adapter in a folder of PEFT's or a GGUF file of llama.cpp's: its headers, checked; no
    model is needed. Raises NotFoundError, CheckpointError.
    """
    if path.is_dir() and (path / CONFIG).exists():
        return read_peft(path)
    if path.is_file():
        return read_lora_gguf(path)
    raise NotFoundError(
        "{path} is no adapter.",
        hint="It is a folder with {name}, as PEFT writes it, or a GGUF file of llama.cpp's.",
        path=path,
        name=CONFIG,
    )


def adapter_bytes(file: LoraFile) -> int:
    """What it takes in memory."""
    return 4 * file.num_elements


def check_adapter(file: LoraFile, path: Path) -> None:
    """Whether the adapter fits the model of a checkpoint folder or file, of which only the headers
    are read. Raises CheckpointError as `load_adapter` does, but does not look at values.
    """
    with open_model(path) as source:
        _matched(file, source.model, source.family)


def _matched(file: LoraFile, model: Any, family: Family) -> dict[str, str]:
    """What the file calls its layers -> their names in the model, whose shapes are checked."""
    dialect = family.dialects.get(file.dialect)
    layers = {} if dialect is None else layers_by_name(model, dialect)
    matched: dict[str, str] = {}
    for theirs, stored in file.layers.items():
        name = layers.get(theirs)
        if name is None:
            raise CheckpointError(
                "{path}: the model has no linear layer {name} that an adapter could change.",
                hint="Does the adapter belong to this model? Adapters of experts, embeddings and"
                " the output matrix are not supported: merge them first.",
                path=file.path,
                name=shown(theirs),
            )
        _check_shapes(file.path, theirs, stored, model.get_submodule(name))
        matched[theirs] = name
    return matched


def load_adapter(file: LoraFile, model: Any, family: str) -> Adapter:
    """The adapter for a model of that family, on its device. Raises CheckpointError for a layer
    that the model has not or that an adapter can't change, for other shapes, and for values that
    are no numbers.
    """
    found = family_named(family)
    device = next(model.parameters()).device
    changes: dict[str, LowRank] = {}
    for theirs, name in _matched(file, model, found).items():
        stored, dialect = file.layers[theirs], found.dialects[file.dialect]
        a_RD, b_FR = (_values(file.path, theirs, part) for part in (stored.a, stored.b))
        template, _ = split_name(f"{name}.weight")
        if template in dialect.pairs:
            b_FR = halves_from_pairs(b_FR, dialect.pairs[template](model.config))
        b_RF = (b_FR * stored.scale).T.contiguous()
        changes[name] = LowRank(a_RD.contiguous().to(device), b_RF.to(device))
    return Adapter(changes, _digest(changes))


def layers_by_name(model: Any, dialect: Dialect) -> dict[str, str]:
    """What the dialect calls the layers that an adapter can change -> their names in the model.

    These are the linear layers that every token passes; weights that the model uses otherwise
    (stacks of experts, DeepSeek's kv_b_proj), the embedding and the output matrix are not.
    """
    found = {}
    for name, module in model.named_modules():
        if not name.startswith(LAYERS) or not isinstance(module, Linear):
            continue
        template, n = split_name(f"{name}.weight")
        theirs = dialect.names.get(template, template)
        if isinstance(theirs, str) and "{e}" not in theirs:
            found[theirs.replace("{n}", n).removesuffix(".weight")] = name
    return found


def _check_shapes(path: Path, name: str, stored: StoredLora, module: Linear) -> None:
    wanted = (module.out_features, module.in_features)
    found = (stored.b.shape[0], stored.a.shape[1])
    if found != wanted:
        raise CheckpointError(
            "{path}: {name} would change a matrix of {found}; the model's is {wanted}.",
            hint="The adapter was made for another model.",
            path=path,
            name=shown(name),
            found=list(found),
            wanted=list(wanted),
        )


def _values(path: Path, name: str, part: StoredTensor) -> Tensor:
    """A copy in float32: the file may change later."""
    weight = part.load()
    assert isinstance(weight, Tensor), "the readers refuse packed matrices"
    values = weight.to(torch.float32, copy=True)
    if not bool(values.isfinite().all()):
        raise CheckpointError(
            "{path}: the matrices for {name} hold values that are not finite.",
            hint="The training went wrong, or the file is damaged.",
            path=path,
            name=shown(name),
        )
    return values


def _digest(changes: Mapping[str, LowRank]) -> bytes:
    """32 bytes; equal for equal changes, wherever they were stored."""
    digest = hashlib.blake2b(digest_size=32)
    for name in sorted(changes):
        for values in (changes[name].a_RD, changes[name].b_RF):
            digest.update(f"{name} {tuple(values.shape)} ".encode())
            digest.update(values.cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.digest()
