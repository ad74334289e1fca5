"""The tensors of GGUF files, one file or a set `NAME-00001-of-00003.gguf`.

The head is read by bobot/text/gguf_metadata.py (the tokenizer inside needs it too); here its
directory becomes tensors: axes turned to torch order (GGML counts the fastest axis first), every
range inside the file and apart from the others, dense types and packed blocks mapped as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bobot.checkpoints.mapped import MappedFile
from bobot.checkpoints.stored import StoredTensor, dtype_name, num_elements, shown
from bobot.errors import CheckpointError
from bobot.quant.gguf_types import (
    BLOCK_TYPES,
    DENSE_TYPES,
    BlockType,
    weight_from_blocks,
)
from bobot.quant.weight import QuantWeight
from bobot.text.gguf_metadata import GgufHeader, GgufTensor, read_header

MAX_SPLITS = 1000

_SPLIT = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")


def split_paths(path: Path) -> list[Path]:
    """All files of the set that `path` belongs to, in order; [path] when it is a file alone."""
    match = _SPLIT.fullmatch(path.name)
    if match is None:
        return [path]
    stem, _, total = match.groups()
    count = range(1, min(int(total), MAX_SPLITS) + 1)
    paths = [path.with_name(f"{stem}-{number:05d}-of-{total}.gguf") for number in count]
    if missing := [file for file in paths if not file.is_file()]:
        raise CheckpointError(
            "{folder}: {missing} of {total} files are missing, the first is {name}",
            hint="Download the model again; files that are complete are kept.",
            folder=path.parent,
            missing=len(missing),
            total=len(paths),
            name=missing[0].name,
        )
    return paths


def read_gguf(path: Path) -> tuple[dict[str, Any], dict[str, StoredTensor]]:
    """The metadata (of the first file of a set) and all tensors by name.

    Raises CheckpointError for damage, a missing file of a set, or a tensor type that bobot can't
    read.
    """
    paths = split_paths(path)
    metadata: dict[str, Any] = {}
    tensors: dict[str, StoredTensor] = {}
    for number, part in enumerate(paths):
        file = MappedFile(part)
        header = read_header(part)
        _check_split(part, header, number, len(paths))
        metadata = metadata or header.metadata
        found = _tensors(file, header)
        if twice := sorted(tensors.keys() & found.keys()):
            raise CheckpointError(
                "{file}: tensor {name} is in an earlier file of the set too",
                file=part,
                name=shown(twice[0]),
            )
        tensors |= found
    announced = metadata.get("split.tensors.count", len(tensors))
    if announced != len(tensors):
        raise CheckpointError(
            "{file}: the set should have {wanted} tensors; {found} were found",
            hint="Download all files of the set again.",
            file=path,
            wanted=announced,
            found=len(tensors),
        )
    return metadata, tensors


def _check_split(path: Path, header: GgufHeader, number: int, count: int) -> None:
    found = header.metadata.get("split.no", 0), header.metadata.get("split.count", 0) or 1
    if found != (number, count):
        raise CheckpointError(
            "{file} says it is number {no} of {count} files; its name says {wanted_no} of {wanted}",
            hint="Keep the files of a set in one folder, under their published names.",
            file=path,
            no=found[0],
            count=found[1],
            wanted_no=number,
            wanted=count,
        )


def _tensors(file: MappedFile, header: GgufHeader) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    end = 0
    for entry in sorted(header.tensors, key=lambda entry: entry.offset):
        stored = _stored(file, header, entry)
        start = header.data_offset + entry.offset
        if start < end or start + stored.num_bytes > file.size:
            raise CheckpointError(
                "{file}: tensor {name} lies in bytes {start} to {stop}; allowed: {end} to {size}",
                hint="The file is incomplete or damaged; download it again.",
                file=file.path,
                name=shown(entry.name),
                start=start,
                stop=start + stored.num_bytes,
                end=end,
                size=file.size,
            )
        end = start + stored.num_bytes
        tensors[entry.name] = stored
    return tensors


def _stored(file: MappedFile, header: GgufHeader, entry: GgufTensor) -> StoredTensor:
    shape = tuple(reversed(entry.shape))
    start = header.data_offset + entry.offset
    count = num_elements(shape)
    dense, blocks = DENSE_TYPES.get(entry.ggml_type), BLOCK_TYPES.get(entry.ggml_type)
    if dense is not None and count is not None:
        num_bytes = count * dense.dtype.itemsize
        return StoredTensor(
            shape,
            dtype_name(dense.dtype),
            num_bytes,
            lambda: file.tensor(start, dense.dtype, shape),
        )
    if blocks is not None and count is not None and shape and shape[-1] % blocks.block_size == 0:
        num_bytes = count // blocks.block_size * blocks.block_bytes
        return StoredTensor(
            shape, blocks.name, num_bytes, _block_reader(file, start, blocks, shape)
        )
    raise CheckpointError(
        "{file}: tensor {name} has type {kind} and shape {shape}; bobot reads {known}",
        hint="Take a file in another quantization, such as Q4_K_M or Q8_0.",
        file=file.path,
        name=shown(entry.name),
        kind=blocks.name if blocks else entry.ggml_type,
        shape=list(shape),
        known=", ".join(kind.name for kind in (*DENSE_TYPES.values(), *BLOCK_TYPES.values())),
    )


def _block_reader(
    file: MappedFile, start: int, kind: BlockType, shape: tuple[int, ...]
) -> Callable[[], QuantWeight]:
    row_bytes = shape[-1] // kind.block_size * kind.block_bytes

    def load() -> QuantWeight:
        return weight_from_blocks(kind, file.tensor(start, torch.uint8, (*shape[:-1], row_bytes)))

    return load
