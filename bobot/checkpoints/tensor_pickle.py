"""The pickle inside a torch zip file: a dictionary of tensors, each a view of a storage.

Read as data by the machine of pickle_machine.py; torch's own classes and functions are names here.
Memory and time grow with the size of the pickle, which is at most MAX_PICKLE_BYTES.
"""

from __future__ import annotations

import logging
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from bobot.checkpoints.mapped import MappedFile
from bobot.checkpoints.pickle_machine import STEPS, Global, Machine
from bobot.checkpoints.stored import Shape, dtype_name, num_elements
from bobot.errors import CheckpointError, UnsafeFileError

log = logging.getLogger("bobot.checkpoints")

MAX_PICKLE_BYTES = 1 << 20
"""The names and shapes of Llama 3.1 405B take a tenth of it."""

_STORAGES: dict[str, torch.dtype] = {
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.HalfStorage": torch.float16,
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.BoolStorage": torch.bool,
    "torch.ByteStorage": torch.uint8,
    "torch.CharStorage": torch.int8,
    "torch.ShortStorage": torch.int16,
    "torch.IntStorage": torch.int32,
    "torch.LongStorage": torch.int64,
}
_UNTYPED = "torch.storage.UntypedStorage"
_DTYPES: dict[str, torch.dtype] = {
    f"torch.{dtype_name(dtype)}": dtype
    for dtype in (
        *_STORAGES.values(),
        *(torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint32, torch.uint64),
    )
}
_OLD_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""How torch.save began its files before version 1.6: the pickled number 0x1950a86a20f9469cfc6c."""
_TENSOR, _TENSOR_3 = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3"
_PARAMETER, _ORDERED_DICT = "torch._utils._rebuild_parameter", "collections.OrderedDict"
_KNOWN_GLOBALS = {*_STORAGES, *_DTYPES, _UNTYPED, _TENSOR, _TENSOR_3, _PARAMETER, _ORDERED_DICT}


@dataclass(frozen=True)
class StorageRef:
    """`num_elements` of dtype in the archive member data/KEY; of an untyped storage, dtype is None
    and bytes count."""

    key: str
    dtype: torch.dtype | None
    num_elements: int


@dataclass(frozen=True)
class TensorRef:
    """A strided view of a storage; offset and strides count elements."""

    storage_key: str
    storage_elements: int
    dtype: torch.dtype
    offset: int
    shape: Shape
    strides: Shape


def read_tensor_pickle(path: Path, data: bytes) -> dict[str, TensorRef]:
    """The tensors by name that the pickle describes.

    Raises UnsafeFileError for anything but tensors, CheckpointError for damage.
    """
    if len(data) > MAX_PICKLE_BYTES:
        raise CheckpointError(
            "{file}: a pickle of {found} bytes; allowed: at most {limit}",
            file=path,
            found=len(data),
            limit=MAX_PICKLE_BYTES,
        )
    value = _TensorMachine(path).run(pickletools.genops(data), len(data))
    if not isinstance(value, dict) or not all(isinstance(v, TensorRef) for v in value.values()):
        raise CheckpointError("{file} is not a plain table of named tensors", file=path)
    return value


def no_zip(file: MappedFile) -> CheckpointError:
    """Why a file that should be a torch zip is not opened; names what a pickle would call."""
    if file.read(0, len(_OLD_MAGIC)) == _OLD_MAGIC:
        return CheckpointError(
            "{file} has the container that torch wrote before version 1.6; bobot does not read it",
            hint="Get the model as safetensors.",
            file=file.path,
        )
    if file.read(0, 1) != b"\x80":
        return CheckpointError(
            "{file} is no torch file: it begins with {found!r}, not with a zip header",
            hint="Download it again.",
            file=file.path,
            found=file.read(0, 8),
        )
    try:
        read_tensor_pickle(file.path, file.read(0, MAX_PICKLE_BYTES))
    except UnsafeFileError as error:
        return error
    except CheckpointError as error:
        log.debug("not a pickle of tensors either: %s", error)
    return UnsafeFileError(
        "{file} is a bare pickle; bobot reads pickles only inside a torch zip file",
        hint="Get the model as safetensors.",
        file=file.path,
    )


def _tensor(storage: object, offset: int, shape: Shape, strides: Shape, *rest: object) -> TensorRef:
    if not isinstance(storage, StorageRef) or storage.dtype is None or len(rest) not in (2, 3):
        raise ValueError("a tensor without a typed storage")
    return _view(storage, storage.dtype, storage.num_elements, offset, shape, strides)


def _tensor_3(
    storage: object,
    offset: int,
    shape: Shape,
    strides: Shape,
    requires_grad: object,
    hooks: object,
    dtype: object,
    metadata: object = None,
) -> TensorRef:
    kind = _DTYPES.get(dtype.name) if isinstance(dtype, Global) else None
    if not isinstance(storage, StorageRef) or storage.dtype is not None or kind is None:
        raise ValueError("a tensor without a storage or a dtype")
    if storage.num_elements % kind.itemsize:
        raise ValueError("a storage that ends inside an element")
    count = storage.num_elements // kind.itemsize
    return _view(storage, kind, count, offset, shape, strides)


def _view(
    storage: StorageRef,
    dtype: torch.dtype,
    storage_elements: int,
    offset: int,
    shape: Shape,
    strides: Shape,
) -> TensorRef:
    """A view that stays in its storage and is no larger than it (no stride of 0 that repeats)."""
    if not isinstance(shape, tuple) or not isinstance(strides, tuple):
        raise ValueError("a tensor without a shape")
    # What failed is not printed: tuples that hold each other twice print as 2**depth words.
    count = num_elements(shape)
    if count is None or len(shape) != len(strides):
        raise ValueError("a tensor with an impossible shape")
    if any(num_elements([number]) is None for number in (offset, *strides)):
        raise ValueError("a tensor with an impossible offset or stride")
    if count == 0:
        return TensorRef(storage.key, storage_elements, dtype, 0, shape, strides)
    last = offset + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
    if count > storage_elements or last >= storage_elements:
        raise ValueError(f"a tensor that needs element {last} of {storage_elements}")
    return TensorRef(storage.key, storage_elements, dtype, offset, shape, strides)


def _parameter(data: object, requires_grad: object, hooks: object) -> object:
    if not isinstance(data, TensorRef):
        raise ValueError("a parameter without a tensor")
    return data


def _ordered_dict() -> dict:
    return {}


class _TensorMachine(Machine):
    known_globals = _KNOWN_GLOBALS
    builders: ClassVar[dict[str, Callable]] = {
        _TENSOR: _tensor,
        _TENSOR_3: _tensor_3,
        _PARAMETER: _parameter,
        _ORDERED_DICT: _ordered_dict,
    }
    steps: ClassVar = {
        **STEPS,
        "BINPERSID": lambda machine, _: machine.persistent(),
        "BUILD": lambda machine, _: machine.build(),
    }

    def persistent(self) -> None:
        (pid,) = self.pop(1)
        if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage":
            raise ValueError("a reference to something other than a storage")
        _, kind, key, _, count = pid
        is_kind = isinstance(kind, Global) and (kind.name in _STORAGES or kind.name == _UNTYPED)
        if not is_kind or not isinstance(key, str) or num_elements([count]) is None:
            raise ValueError("a storage with a wrong type, key or length")
        self.push(StorageRef(key, _STORAGES.get(kind.name), count))

    def build(self) -> None:
        """state_dict() hangs `_metadata` (module versions) on its OrderedDict; it is read and
        dropped."""
        (state,) = self.pop(1)
        if not isinstance(self.stack[-1], dict) or not isinstance(state, dict):
            raise self.unsafe("a call of __setstate__")
        if state.keys() - {"_metadata"}:
            raise self.unsafe("an attribute " + ", ".join(state))
