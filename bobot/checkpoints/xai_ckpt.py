"""xAI's published form of Grok-1: a folder `ckpt-0` with one pickled array per file.

File i, `tensorNNNNN_000`, holds leaf i of the parameter tree, flattened with its keys sorted as
text: layer 10 comes before layer 2. Neither names nor the number of layers are written anywhere;
both follow from the number of files. Files are opened when their tensor is asked for and mapped.
Source: xai-org/grok-1 `checkpoint.py`, `model.py`.

Matrices are stored [in, out] and handed over as views [out, in], experts as [E, out, in]. 8-bit
ones stay int8 with their bfloat16 scales: one per output, or one per output and block of inputs.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bobot.checkpoints.array_pickle import StoredArray, StoredQuantized, read_array_pickle
from bobot.checkpoints.mapped import MappedFile
from bobot.checkpoints.stored import Checkpoint, StoredTensor, dtype_name
from bobot.checkpoints.strict_json import read_json
from bobot.errors import CheckpointError
from bobot.quant.scaled import weight_from_parts
from bobot.quant.weight import Weight

FOLDER = "ckpt-0"
EOS_ID = 2
_FILE = re.compile(r"tensor(\d{5})_(\d{3})")
_OUTER_LEAVES = ("language_model/in_out_embed/embeddings", "language_model/rms_norm/scale")
_LAYER_LEAVES = (
    "moe/linear/w",
    "moe/linear_1/w",
    "moe/linear_v/w",
    "multi_head_attention/key/w",
    "multi_head_attention/linear/w",
    "multi_head_attention/query/w",
    "multi_head_attention/value/w",
    "rms_norm/scale",
    "rms_norm_1/scale",
    "rms_norm_2/scale",
    "rms_norm_3/scale",
    "router/w",
)


def ckpt_folder(folder: Path) -> Path | None:
    """The folder with the files: `folder`, or `ckpt-0` in it. None where neither has any."""
    for candidate in (folder, folder / FOLDER):
        if candidate.is_dir() and any(candidate.glob("tensor?????_???")):
            return candidate
    return None


def read_ckpt(folder: Path) -> Checkpoint:
    """The checkpoint in a ckpt-0 folder; config.json, where there is one, lies beside it.

    Raises UnsafeFileError for code, CheckpointError for damage.
    """
    paths = _tensor_paths(folder)
    names = leaf_names(folder, len(paths))
    tensors = {name: _stored(path, name) for name, path in zip(names, paths, strict=True)}
    settings = folder.absolute().parent / "config.json"
    config: dict[str, Any] = read_json(settings) if settings.exists() else {}
    generation = {"eos_token_id": config.get("eos_token", EOS_ID)}
    return Checkpoint(folder, "xai", [tensors], config, generation)


def leaf_names(folder: Path, num_files: int) -> list[str]:
    """The name of each file's tensor. Raises CheckpointError for a number that no model has."""
    num_layers, rest = divmod(num_files - len(_OUTER_LEAVES), len(_LAYER_LEAVES))
    if rest or num_layers < 1:
        raise CheckpointError(
            "{folder} has {found} tensor files; a model of N layers has {outer} + {inner} * N",
            hint="Files are missing or do not belong here; download the folder again.",
            folder=folder,
            found=num_files,
            outer=len(_OUTER_LEAVES),
            inner=len(_LAYER_LEAVES),
        )
    layers = sorted(f"decoder_layer_{n}" for n in range(num_layers))
    inner = [f"transformer/{layer}/{leaf}" for layer in layers for leaf in _LAYER_LEAVES]
    return [*_OUTER_LEAVES, *inner]


def _tensor_paths(folder: Path) -> list[Path]:
    """The files in the order of their numbers, which must have no gap."""
    paths: dict[int, Path] = {}
    for path in sorted(folder.glob("tensor*")):
        match = _FILE.fullmatch(path.name)
        if match is None:
            raise CheckpointError(
                "{file} is no tensor file; their names look like tensor00000_000",
                hint="Finish the download, or move the file elsewhere.",
                file=path,
            )
        if match[2] != "000":
            raise CheckpointError(
                "{file} is a further part of a tensor; bobot reads one file per tensor (_000)",
                hint="Get the checkpoint as xAI publishes it.",
                file=path,
            )
        paths[int(match[1])] = path
    if missing := sorted(set(range(max(paths) + 1)) - paths.keys()):
        raise CheckpointError(
            "{folder}: {name} is missing; the files go up to tensor{last:05d}_000",
            hint="Download the missing file; the others can stay.",
            folder=folder,
            name=f"tensor{missing[0]:05d}_000",
            last=max(paths),
        )
    return list(paths.values())


def _stored(path: Path, name: str) -> StoredTensor:
    """The tensor as it will be handed over; the mapping of its file ends here."""
    found = read_array_pickle(MappedFile(path))
    array = found.weight if isinstance(found, StoredQuantized) else found
    shape, num_bytes = array.shape, array.num_bytes
    if name.endswith("/w"):
        if len(shape) not in (2, 3):
            raise _misfit(path, name, f"an array of {len(shape)} axes", "2 or 3 axes")
        *experts, inputs, outputs = shape
        shape = (*experts, outputs, inputs)
    if isinstance(found, StoredQuantized):
        _check_quantized(path, name, found)
        num_bytes += found.scales.num_bytes
    return StoredTensor(shape, dtype_name(array.dtype), num_bytes, partial(_load, path, name))


def _check_quantized(path: Path, name: str, found: StoredQuantized) -> None:
    weight, scales = found.weight, found.scales
    if not name.endswith("/w") or name.endswith("router/w"):
        raise _misfit(path, name, "an 8-bit weight", "a plain array")
    if weight.dtype != torch.int8 or scales.dtype not in (torch.bfloat16, torch.float32):
        types = f"{dtype_name(weight.dtype)} with scales of {dtype_name(scales.dtype)}"
        raise _misfit(path, name, types, "int8 with scales of bfloat16 or float32")
    *experts, inputs, outputs = weight.shape
    fitting = [(*experts, blocks, outputs) for blocks in scales.shape[-2:-1] if blocks > 0]
    if scales.shape not in fitting or inputs % scales.shape[-2]:
        shapes = f"{list(weight.shape)} with scales of shape {list(scales.shape)}"
        raise _misfit(path, name, shapes, "scales for each output and equal blocks of inputs")


def _misfit(path: Path, name: str, found: str, allowed: str) -> CheckpointError:
    return CheckpointError(
        "{file} holds {name} as {found}; allowed: {allowed}",
        hint="The file is damaged or of another model: download it again.",
        file=path,
        name=name,
        found=found,
        allowed=allowed,
    )


def _load(path: Path, name: str) -> Weight:
    """The tensor, in a mapping of its own that ends with it."""
    file = MappedFile(path)
    found = read_array_pickle(file)
    is_matrix = name.endswith("/w")
    if isinstance(found, StoredArray):
        tensor = found.tensor(file)
        return tensor.transpose(-1, -2) if is_matrix else tensor
    values = found.weight.tensor(file).transpose(-1, -2)
    scales = found.scales.tensor(file).transpose(-1, -2)
    return weight_from_parts(values, scales, 1, values.shape[-1] // scales.shape[-1])
