"""The safetensors format: 8 bytes of header length, a JSON header, the tensors back to back.

Own parser, so that what was checked is what is read. A header is accepted only if it proves the
file whole: every dtype known, every range as long as its shape says, ranges without hole or
overlap from the first to the last byte. Format: github.com/huggingface/safetensors, README. A
sharded model names its files in `model.safetensors.index.json`; file names come from there and are
never built.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bobot.checkpoints.mapped import MappedFile
from bobot.checkpoints.stored import StoredTensor, dtype_name, num_elements, shown
from bobot.checkpoints.strict_json import parse_json, read_json
from bobot.checkpoints.tensor_pickle import no_zip
from bobot.checkpoints.writing import PlannedTensor, atomic_file
from bobot.errors import CheckpointError, UnsafeFileError

MAX_HEADER_BYTES = 32 << 20
"""A trillion-parameter model in one file needs about 20 MiB."""

MAX_INDEX_BYTES = 64 << 20

ALIGNMENT = 64
"""The writer pads its header so that the first tensor starts at a cache line."""

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "U16": torch.uint16,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "F32": torch.float32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
}
CODES = {dtype: code for code, dtype in DTYPES.items()}


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one file, in the order of their bytes. Raises CheckpointError."""
    file = MappedFile(path)
    _refuse_pickle(file)
    header, data_start = _read_header(file)
    found: dict[str, StoredTensor] = {}
    position = 0
    for name, entry in sorted(header.items(), key=lambda item: _begin(path, *item)):
        dtype, shape, begin, end = _check_entry(path, name, entry)
        if begin != position:
            raise CheckpointError(
                "{file}: tensor {name} starts at byte {found}; the one before it ends at {wanted}",
                hint="The file is damaged or was made to mislead; download it again.",
                file=path,
                name=shown(name),
                found=begin,
                wanted=position,
            )
        position = end
        found[name] = _stored(file, data_start + begin, dtype, shape, end - begin)
    if data_start + position != file.size:
        raise CheckpointError(
            "{file} has {found} bytes, but its header describes {wanted}",
            hint="The download is incomplete or damaged; download it again.",
            file=path,
            found=file.size,
            wanted=data_start + position,
        )
    return found


def read_sharded(index_path: Path) -> dict[str, StoredTensor]:
    """The tensors of all files that the index names, in the order of the index."""
    weight_map = read_json(index_path, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError("{file} has no weight_map", file=index_path)
    shards: dict[str, dict[str, StoredTensor]] = {}
    for name, file_name in weight_map.items():
        if not isinstance(file_name, str) or not _is_plain_name(file_name):
            raise UnsafeFileError(
                "{file} puts tensor {name} into {found}; allowed: a file in the same folder",
                file=index_path,
                name=shown(name),
                found=shown(file_name),
            )
        shards.setdefault(file_name, {})
    _check_presence(index_path, list(shards))
    for file_name in shards:
        shards[file_name] = read_safetensors(index_path.parent / file_name)
    _check_agreement(index_path, weight_map, shards)
    return {name: shards[file_name][name] for name, file_name in weight_map.items()}


def write_safetensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write all tensors to `path`: see `stream_safetensors`."""
    stream_safetensors(path, {name: planned(tensor) for name, tensor in tensors.items()}, metadata)


def planned(tensor: Tensor) -> PlannedTensor:
    """A tensor that is there already."""
    return PlannedTensor(CODES[tensor.dtype], tuple(tensor.shape), lambda: [tensor])


def stream_safetensors(
    path: Path,
    tensors: Mapping[str, PlannedTensor],
    metadata: Mapping[str, str] | None = None,
    alignment: int = ALIGNMENT,
) -> None:
    """Write tensors one after another, each made when its turn comes: widest dtype first, then by
    name. `kind` is one of DTYPES. The first one begins at a multiple of `alignment` bytes.

    The file appears whole or not at all. Raises StorageError when the disk is full.
    """
    names = sorted(tensors, key=lambda name: (-DTYPES[tensors[name].kind].itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name in names:
        end = position + planned_bytes(tensors[name])
        header[name] = {
            "dtype": tensors[name].kind,
            "shape": list(tensors[name].shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % alignment)
    with atomic_file(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            begin = file.tell()
            for piece in tensors[name].pieces():
                flat = piece.detach().cpu().to(DTYPES[tensors[name].kind]).contiguous().view(-1)
                file.write(flat.view(torch.uint8).numpy().data)
            assert file.tell() - begin == planned_bytes(tensors[name]), name


def planned_bytes(tensor: PlannedTensor) -> int:
    return math.prod(tensor.shape) * DTYPES[tensor.kind].itemsize


def _refuse_pickle(file: MappedFile) -> None:
    """A pickle or torch zip under the name of a safetensors file."""
    start = file.read(0, 9)
    if start.startswith(b"PK\3\4"):
        raise UnsafeFileError(
            "{file} is a zip file, not safetensors",
            hint="Get the model as safetensors from its publisher.",
            file=file.path,
        )
    if start.startswith(b"\x80") and start[8:] != b"{":
        raise no_zip(file)


def _read_header(file: MappedFile) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(file.read(0, 8), "little")
    if file.size < 8 or length > min(MAX_HEADER_BYTES, file.size - 8):
        raise CheckpointError(
            "{file}: a header of {found} bytes in a file of {size}; allowed: at most {limit} bytes",
            hint="The file is incomplete, or no safetensors file; download it again.",
            file=file.path,
            found=length,
            size=file.size,
            limit=MAX_HEADER_BYTES,
        )
    data = file.read(8, 8 + length)
    if not data.startswith(b"{"):
        raise CheckpointError("{file}: the header does not begin with an object", file=file.path)
    header = parse_json(file.path, data)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError("{file}: __metadata__ must map text to text", file=file.path)
    return header, 8 + length


def _begin(path: Path, name: str, entry: object) -> tuple[int, int]:
    """The order of the bytes; an empty tensor comes before the one that starts where it stands."""
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if (
        not isinstance(offsets, list)
        or len(offsets) != 2
        or not all(type(value) is int and value >= 0 for value in offsets)
    ):
        raise CheckpointError(
            "{file}: tensor {name} has data_offsets {found}; allowed: two integers from 0",
            file=path,
            name=shown(name),
            found=shown(offsets),
        )
    return offsets[0], offsets[1]


def _check_entry(
    path: Path, name: str, entry: dict[str, Any]
) -> tuple[torch.dtype, tuple[int, ...], int, int]:
    if entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(
            "{file}: tensor {name} is described by {found}; allowed: dtype, shape, data_offsets",
            file=path,
            name=shown(name),
            found=shown(", ".join(sorted(entry))),
        )
    code, shape = entry["dtype"], entry["shape"]
    if not isinstance(code, str) or code not in DTYPES:
        raise CheckpointError(
            "{file}: tensor {name} has dtype {found}; bobot knows {known}",
            file=path,
            name=shown(name),
            found=shown(code),
            known=", ".join(DTYPES),
        )
    count = num_elements(shape) if isinstance(shape, list) else None
    begin, end = entry["data_offsets"]
    if count is None or end - begin != count * DTYPES[code].itemsize:
        raise CheckpointError(
            "{file}: tensor {name}, {dtype} {shape}, can't lie in bytes {begin} to {end}",
            hint="The file is damaged or was made to mislead; download it again.",
            file=path,
            name=shown(name),
            dtype=code,
            shape=shown(shape),
            begin=begin,
            end=end,
        )
    return DTYPES[code], tuple(shape), begin, end


def _stored(
    file: MappedFile, start: int, dtype: torch.dtype, shape: tuple[int, ...], num_bytes: int
) -> StoredTensor:
    return StoredTensor(
        shape, dtype_name(dtype), num_bytes, lambda: file.tensor(start, dtype, shape)
    )


def _is_plain_name(name: str) -> bool:
    return name not in ("", ".", "..") and not any(mark in name for mark in "/\\\0")


def _check_presence(index_path: Path, file_names: list[str]) -> None:
    missing = [name for name in file_names if not (index_path.parent / name).is_file()]
    if missing:
        raise CheckpointError(
            "{folder}: {missing} of {total} files are missing, the first is {name}",
            hint="Download the model again; files that are complete are kept.",
            folder=index_path.parent,
            missing=len(missing),
            total=len(file_names),
            name=shown(missing[0]),
        )


def _check_agreement(
    index_path: Path,
    weight_map: Mapping[str, str],
    shards: Mapping[str, Mapping[str, StoredTensor]],
) -> None:
    for name, file_name in weight_map.items():
        if name not in shards[file_name]:
            raise CheckpointError(
                "{file}: tensor {name} is said to be in {shard}, but it is not there",
                hint="Index and files come from different models; download both again.",
                file=index_path,
                name=shown(name),
                shard=file_name,
            )
    for file_name, tensors in shards.items():
        for name in tensors:
            if weight_map.get(name) != file_name:
                raise CheckpointError(
                    "{file} does not name tensor {name} of {shard}",
                    hint="Index and files come from different models; download both again.",
                    file=index_path,
                    name=shown(name),
                    shard=file_name,
                )
