"""Write a GGUF file (version 3): metadata and tensors, dense or in packed blocks.

Layout: see bobot/text/gguf_metadata.py, which reads it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from bobot.checkpoints.writing import PlannedTensor, atomic_file
from bobot.quant.gguf_types import BLOCK_TYPES, DENSE_TYPES, quantize_q8_0

ALIGNMENT = 32

_DTYPES = {kind.name: kind.dtype for kind in DENSE_TYPES.values()}
_BLOCKS = {kind.name: kind for kind in BLOCK_TYPES.values()}
_TYPE_IDS = {kind.name: number for number, kind in (*DENSE_TYPES.items(), *BLOCK_TYPES.items())}
KINDS = {dtype: name for name, dtype in _DTYPES.items()}
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY, _INT64 = 4, 5, 6, 7, 8, 9, 11
_FORMS = {_UINT32: "<I", _INT32: "<i", _FLOAT32: "<f", _BOOL: "<?", _INT64: "<q"}


def write_gguf(
    path: Path,
    metadata: Mapping[str, object],
    tensors: Mapping[str, Tensor],
    types: Mapping[str, str] | None = None,
) -> None:
    """Write `tensors` in their order; types[name] is a dense type or Q8_0, by default the stored
    dtype. See `stream_gguf`.
    """
    kinds = {name: (types or {}).get(name) or KINDS[t.dtype] for name, t in tensors.items()}
    plan = {name: _planned(kinds[name], tensor) for name, tensor in tensors.items()}
    stream_gguf(path, metadata, plan)


def _planned(kind: str, tensor: Tensor) -> PlannedTensor:
    return PlannedTensor(kind, tuple(tensor.shape), lambda: [tensor])


def stream_gguf(
    path: Path, metadata: Mapping[str, object], tensors: Mapping[str, PlannedTensor]
) -> None:
    """Write tensors one after another, each made when its turn comes.

    A piece of a dense type is values; of a block type, packed rows (uint8); of Q8_0 either. Shapes
    are in torch order and count values; the last axis of a block type holds whole blocks.
    Metadata values: bool, int (uint32 where it fits, else int64), float (float32), str, and lists
    of one of these (ints in a list: int32 where all fit).
    The file appears whole or not at all. Raises StorageError when the disk is full.
    """
    head = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    head += [_string(key) + _value(value) for key, value in metadata.items()]
    offset = 0
    for name, tensor in tensors.items():
        head.append(_entry(name, tensor, offset))
        offset += planned_bytes(tensor)
        offset += -offset % ALIGNMENT
    with atomic_file(path) as file:
        file.write(_padded(b"".join(head)))
        for name, tensor in tensors.items():
            begin = file.tell()
            for piece in tensor.pieces():
                file.write(_data(piece, tensor.kind))
            assert file.tell() - begin == planned_bytes(tensor), name
            file.write(bytes(-file.tell() % ALIGNMENT))


def planned_bytes(tensor: PlannedTensor) -> int:
    count = math.prod(tensor.shape)
    if (blocks := _BLOCKS.get(tensor.kind)) is None:
        return count * _DTYPES[tensor.kind].itemsize
    return count // blocks.block_size * blocks.block_bytes


def _entry(name: str, tensor: PlannedTensor, offset: int) -> bytes:
    shape = tuple(reversed(tensor.shape))
    form = f"<I{len(shape)}QIQ"
    return _string(name) + struct.pack(form, len(shape), *shape, _TYPE_IDS[tensor.kind], offset)


def _data(piece: Tensor, kind: str) -> memoryview:
    values = piece.detach().cpu()
    if kind == "Q8_0" and values.is_floating_point():
        values = quantize_q8_0(values)
    elif kind in _DTYPES:
        values = values.to(_DTYPES[kind])
    return values.contiguous().view(-1).view(torch.uint8).numpy().data


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % ALIGNMENT)


def _string(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def _value(value: object) -> bytes:
    if isinstance(value, list | tuple):
        kind = _list_kind(value)
        items = b"".join(_scalar(kind, item) for item in value)
        return struct.pack("<IIQ", _ARRAY, kind, len(value)) + items
    kind = _scalar_kind(value)
    return struct.pack("<I", kind) + _scalar(kind, value)


def _scalar(kind: int, value: object) -> bytes:
    return _string(str(value)) if kind == _STRING else struct.pack(_FORMS[kind], value)


def _scalar_kind(value: object) -> int:
    """bool before int: in Python True is an int."""
    if isinstance(value, bool):
        return _BOOL
    if isinstance(value, int):
        return _UINT32 if 0 <= value < 1 << 32 else _INT64
    if isinstance(value, float):
        return _FLOAT32
    if isinstance(value, str):
        return _STRING
    raise TypeError(f"GGUF metadata can't hold a {type(value).__name__}")


def _list_kind(values: list | tuple) -> int:
    kinds = {_scalar_kind(value) for value in values} or {_STRING}
    if kinds <= {_UINT32, _INT64}:
        return _INT32 if all(-(1 << 31) <= value < 1 << 31 for value in values) else _INT64
    if len(kinds) != 1:
        raise TypeError("a GGUF list holds values of one type")
    return kinds.pop()
