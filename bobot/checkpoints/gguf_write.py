"""Write a GGUF file (version 3): metadata and tensors as F32, F16, BF16 or Q8_0.

Layout: see bobot/text/gguf_metadata.py, which reads it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from bobot.checkpoints.writing import atomic_file
from bobot.quant.gguf_types import quantize_q8_0

ALIGNMENT = 32

_TYPE_IDS = {"F32": 0, "F16": 1, "Q8_0": 8, "BF16": 30}
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY, _INT64 = 4, 5, 6, 7, 8, 9, 11
_FORMS = {_UINT32: "<I", _INT32: "<i", _FLOAT32: "<f", _BOOL: "<?", _INT64: "<q"}


def write_gguf(
    path: Path,
    metadata: Mapping[str, object],
    tensors: Mapping[str, Tensor],
    types: Mapping[str, str] | None = None,
) -> None:
    """Write `tensors` in their order; types[name] is "F32", "F16", "BF16" or "Q8_0", by default
    the stored dtype.

    Metadata values: bool, int (uint32 where it fits, else int64), float (float32), str, and lists
    of one of these (ints in a list: int32 where all fit). Q8_0 needs a last axis that is a
    multiple of 32. The file appears whole or not at all. Raises StorageError when the disk is
    full.
    """
    kinds = {name: (types or {}).get(name) or _NAMES[t.dtype] for name, t in tensors.items()}
    head = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    head += [_string(key) + _value(value) for key, value in metadata.items()]
    offset = 0
    for name, tensor in tensors.items():
        head.append(_entry(name, tensor, kinds[name], offset))
        offset += _num_bytes(tensor, kinds[name])
        offset += -offset % ALIGNMENT
    with atomic_file(path) as file:
        file.write(_padded(b"".join(head)))
        for name, tensor in tensors.items():
            file.write(_padded(_data(tensor, kinds[name])))


def _entry(name: str, tensor: Tensor, kind: str, offset: int) -> bytes:
    shape = tuple(reversed(tensor.shape))
    form = f"<I{len(shape)}QIQ"
    return _string(name) + struct.pack(form, len(shape), *shape, _TYPE_IDS[kind], offset)


def _num_bytes(tensor: Tensor, kind: str) -> int:
    if kind == "Q8_0":
        return tensor.numel() // 32 * 34
    return tensor.numel() * _DTYPES[kind].itemsize


def _data(tensor: Tensor, kind: str) -> bytes:
    values = tensor.detach().cpu()
    if kind == "Q8_0":
        return quantize_q8_0(values).numpy().tobytes()
    return values.to(_DTYPES[kind]).contiguous().view(-1).view(torch.uint8).numpy().tobytes()


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
