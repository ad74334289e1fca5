"""A pickle read as data: an own interpreter for the few opcodes a dictionary of tensors needs.

Python's pickle module can call anything; a deny-list always misses something. Here the opposite is
proven: every opcode is in `_STEPS`, every global in `_KNOWN_GLOBALS`, and none of them stands for
a function. A "call" builds one of the records below; no name is imported, no attribute is set,
nothing of the file runs. Whatever else is in the file raises UnsafeFileError, which names it.
Opcodes: Python's pickletools.

Memory and time grow with the size of the pickle, which is at most MAX_PICKLE_BYTES.
"""

from __future__ import annotations

import logging
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bobot.checkpoints.mapped import MappedFile
from bobot.checkpoints.stored import Shape, dtype_name, num_elements, shown
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
class Global:
    """The name of an allowed class or function. It is compared, never imported."""

    name: str


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


_MARK = object()


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
    value = _Machine(path).run(data)
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


class _Machine:
    """The stack and the memo while one pickle is read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stack: list = []
        self.memo: dict[int, object] = {}

    def run(self, data: bytes) -> object:
        try:
            for opcode, argument, position in pickletools.genops(data):
                if opcode.name == "STOP":
                    return self.result(position, data)
                step = _STEPS.get(opcode.name)
                if step is None:
                    raise self.unsafe(_offender(opcode.name, argument))
                step(self, argument)
        except (ValueError, IndexError, KeyError, TypeError) as error:
            raise CheckpointError(
                "{file}: its pickle is damaged: {reason}", file=self.path, reason=shown(error)
            ) from None
        raise AssertionError("genops ends with STOP or raises")

    def result(self, stop: int | None, data: bytes) -> object:
        if stop is None or stop + 1 != len(data):
            raise self.unsafe("bytes behind the end of the pickle")
        if len(self.stack) != 1:
            raise CheckpointError("{file}: its pickle leaves no single value", file=self.path)
        return self.stack.pop()

    def unsafe(self, what: str) -> UnsafeFileError:
        return UnsafeFileError(
            "{file} contains {what}, which a file of tensors does not need; nothing of it was run",
            hint="Do not open it with another program. Get the model as safetensors.",
            file=self.path,
            what=shown(what),
        )

    def above_mark(self) -> list:
        """Take what was pushed since the last mark."""
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                taken = self.stack[index + 1 :]
                del self.stack[index:]
                return taken
        raise ValueError("a mark is missing")

    def pop(self, count: int) -> list:
        if len(self.stack) < count:
            raise ValueError("the stack is empty")
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def push(self, value: object) -> None:
        self.stack.append(value)

    def remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def recall(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def set_items(self, pairs: list) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(pairs) % 2:
            raise ValueError("items are set on what is no dictionary")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not isinstance(key, str) or key in target:
                raise ValueError("a name that is no text, or is there twice")
            target[key] = value

    def global_name(self, module_and_name: str) -> None:
        if module_and_name not in _KNOWN_GLOBALS:
            raise self.unsafe(module_and_name)
        self.push(Global(module_and_name))

    def stack_global(self) -> None:
        module, name = self.pop(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a global without a name")
        self.global_name(f"{module}.{name}")

    def persistent(self) -> None:
        (pid,) = self.pop(1)
        if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage":
            raise ValueError("a reference to something other than a storage")
        _, kind, key, _, count = pid
        is_kind = isinstance(kind, Global) and (kind.name in _STORAGES or kind.name == _UNTYPED)
        if not is_kind or not isinstance(key, str) or num_elements([count]) is None:
            raise ValueError("a storage with a wrong type, key or length")
        self.push(StorageRef(key, _STORAGES.get(kind.name), count))

    def reduce(self) -> None:
        function, arguments = self.pop(2)
        builder = _BUILDERS.get(function.name) if isinstance(function, Global) else None
        if builder is None:
            raise self.unsafe("a call of " + getattr(function, "name", type(function).__name__))
        if not isinstance(arguments, tuple):
            raise ValueError("a call without arguments")
        self.push(builder(*arguments))

    def build(self) -> None:
        """state_dict() hangs `_metadata` (module versions) on its OrderedDict; it is read and
        dropped."""
        (state,) = self.pop(1)
        if not isinstance(self.stack[-1], dict) or not isinstance(state, dict):
            raise self.unsafe("a call of __setstate__")
        if state.keys() - {"_metadata"}:
            raise self.unsafe("an attribute " + ", ".join(state))


def _offender(opcode_name: str, argument: object) -> str:
    if opcode_name == "INST":
        return str(argument).replace(" ", ".")
    return f"the pickle opcode {opcode_name}"


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


_BUILDERS: dict[str, Callable] = {
    _TENSOR: _tensor,
    _TENSOR_3: _tensor_3,
    _PARAMETER: _parameter,
    _ORDERED_DICT: _ordered_dict,
}

_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "MARK": lambda machine, _: machine.push(_MARK),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "BININT": lambda machine, value: machine.push(value),
    "BININT1": lambda machine, value: machine.push(value),
    "BININT2": lambda machine, value: machine.push(value),
    "LONG1": lambda machine, value: machine.push(value),
    "BINUNICODE": lambda machine, value: machine.push(value),
    "SHORT_BINUNICODE": lambda machine, value: machine.push(value),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.above_mark())),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.pop(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.pop(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.pop(3))),
    "SETITEM": lambda machine, _: machine.set_items(machine.pop(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.above_mark()),
    "BINPUT": _Machine.remember,
    "LONG_BINPUT": _Machine.remember,
    "MEMOIZE": lambda machine, _: machine.remember(len(machine.memo)),
    "BINGET": _Machine.recall,
    "LONG_BINGET": _Machine.recall,
    "GLOBAL": lambda machine, value: machine.global_name(str(value).replace(" ", ".", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.stack_global(),
    "BINPERSID": lambda machine, _: machine.persistent(),
    "REDUCE": lambda machine, _: machine.reduce(),
    "BUILD": lambda machine, _: machine.build(),
}
