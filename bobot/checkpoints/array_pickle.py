"""One pickled array, as xAI's checkpoint holds one per file: found in the file, not loaded.

A file is a numpy array, a jax array (which wraps a numpy array) or a `QuantizedWeight8bit` of two
of them, in pickle protocol 4. The bytes of an array are one run of the file; only the few opcodes
around it are read, so a file of gigabytes takes as long as one of bytes. Read as data by the
machine of pickle_machine.py. Sources: xai-org/grok-1 `checkpoint.py` and `model.py`, numpy's
ndarray.__reduce__.

Not for arrays of objects, records, text or big-endian numbers: those are refused.
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from bobot.checkpoints.mapped import MappedFile
from bobot.checkpoints.pickle_machine import STEPS, Global, Machine
from bobot.checkpoints.stored import Shape, num_elements
from bobot.errors import CheckpointError

MAX_OPCODES = 1000
"""The largest file of the published checkpoint has under a hundred."""
MAX_WORD_BYTES = 1000
"""No name or number in such a file is longer; only the bytes of arrays are."""

_QUANTIZED = "__main__.QuantizedWeight8bit"
_JAX_ARRAY = "jax._src.array._reconstruct_array"
_ARRAY, _DTYPE, _BFLOAT16 = "numpy.ndarray", "numpy.dtype", "ml_dtypes.bfloat16"
_NUMPY_ARRAY = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
_DTYPES = {"f4": torch.float32, "f2": torch.float16, "i1": torch.int8, _BFLOAT16: torch.bfloat16}
_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
_RUN_LENGTH_BYTES = {"SHORT_BINBYTES": 1, "BINBYTES": 4, "BINBYTES8": 8}


@dataclass(frozen=True)
class StoredArray:
    """Where an array's bytes lie. In Fortran order the first axis is the one that runs fastest."""

    dtype: torch.dtype
    shape: Shape
    is_fortran: bool
    start: int

    @property
    def num_bytes(self) -> int:
        count = num_elements(self.shape)
        assert count is not None
        return count * self.dtype.itemsize

    def tensor(self, file: MappedFile) -> Tensor:
        """The array, mapped. `file` is the one it was found in."""
        if not self.is_fortran:
            return file.tensor(self.start, self.dtype, self.shape)
        turned = file.tensor(self.start, self.dtype, self.shape[::-1])
        return turned.permute(*reversed(range(len(self.shape))))


@dataclass(frozen=True)
class StoredQuantized:
    """int8 numbers and their scales: value = weight * scale."""

    weight: StoredArray
    scales: StoredArray


def read_array_pickle(file: MappedFile) -> StoredArray | StoredQuantized:
    """What the file holds. Raises UnsafeFileError for anything but arrays, CheckpointError for
    damage.
    """
    value = _ArrayMachine(file.path).run(_opcodes(file), file.size)
    if not isinstance(value, (StoredArray, StoredQuantized)):
        raise CheckpointError("{file} holds no array", file=file.path)
    return value


@dataclass(frozen=True)
class _Run:
    """Bytes of the file that need not be read."""

    start: int
    num_bytes: int


@dataclass
class _Dtype:
    """Changed when its byte order is set, since the arrays of a file may share one."""

    dtype: torch.dtype
    byte_order: object = None


class _Unfilled:
    """A numpy array that has no bytes yet."""


class _UnfilledQuantized:
    """A QuantizedWeight8bit without its arrays."""


def _opcodes(file: MappedFile) -> Iterator[tuple[pickletools.OpcodeInfo, Any, int]]:
    """As pickletools.genops, but bytes are stepped over and come as a _Run."""
    source = _Source(file)
    for _ in range(MAX_OPCODES):
        position = source.position
        code = source.read(1)
        opcode = _OPCODES.get(code)
        if opcode is None:
            raise ValueError(f"no opcode at byte {position}, but {code!r}")
        if length_bytes := _RUN_LENGTH_BYTES.get(opcode.name):
            argument = source.skip(int.from_bytes(source.read(length_bytes), "little"))
        else:
            reader: Any = opcode.arg and opcode.arg.reader  # reads what has `read` and `readline`
            argument = reader(source) if reader else None
        yield opcode, argument, position
    raise ValueError(f"more than {MAX_OPCODES} opcodes")


class _Source:
    """The file as pickletools reads it: never more than MAX_WORD_BYTES at once."""

    def __init__(self, file: MappedFile) -> None:
        self.file = file
        self.position = 0

    def read(self, count: int) -> bytes:
        if count > MAX_WORD_BYTES:
            raise ValueError(f"a word of {count} bytes")
        data = self.file.read(self.position, self.position + count)
        self.position += len(data)
        return data

    def readline(self) -> bytes:
        ahead = self.file.read(self.position, self.position + MAX_WORD_BYTES)
        line = ahead[: ahead.find(b"\n") + 1]
        self.position += len(line)
        return line

    def skip(self, count: int) -> _Run:
        run = _Run(self.position, count)
        if run.start + count > self.file.size:
            raise ValueError(f"{count} bytes from {run.start} on in a file of {self.file.size}")
        self.position += count
        return run


def _dtype(kind: object, is_aligned: object, is_copied: object) -> _Dtype:
    name = kind.name if isinstance(kind, Global) else kind
    dtype = _DTYPES.get(name) if isinstance(name, str) else None
    if dtype is None:
        known = ", ".join(_DTYPES)
        raise ValueError(f"an array of {name if isinstance(name, str) else 'no'} type, not {known}")
    return _Dtype(dtype)


def _unfilled(kind: object, shape: object, type_code: object) -> _Unfilled:
    if kind != Global(_ARRAY):
        raise ValueError("an array of another class than numpy.ndarray")
    return _Unfilled()


def _jax_array(function: object, arguments: object, state: object, info: object) -> StoredArray:
    """jax fills a numpy array and puts it on a device. `info` is about types that jax infers."""
    is_numpy = isinstance(function, Global) and function.name in _NUMPY_ARRAY
    if not is_numpy or not isinstance(arguments, tuple):
        raise ValueError("a jax array that wraps no numpy array")
    _unfilled(*arguments)
    return _filled(state)


def _filled(state: object) -> StoredArray:
    """The array of numpy's state (version, shape, dtype, is_fortran, bytes)."""
    if not isinstance(state, tuple) or len(state) != 5 or state[0] != 1:
        raise ValueError("an array whose state is not that of numpy's version 1")
    _, shape, dtype, is_fortran, run = state
    # What failed is not printed: tuples that hold each other twice print as 2**depth words.
    count = num_elements(shape) if isinstance(shape, tuple) else None
    if count is None or type(is_fortran) is not bool:
        raise ValueError("an array with an impossible shape or order")
    if not isinstance(dtype, _Dtype) or dtype.byte_order not in ("<", "|"):
        raise ValueError("an array without a little-endian number type")
    wanted = count * dtype.dtype.itemsize
    if not isinstance(run, _Run) or run.num_bytes != wanted:
        found = run.num_bytes if isinstance(run, _Run) else "no"
        raise ValueError(f"{found} bytes for an array of shape {list(shape)}, which takes {wanted}")
    return StoredArray(dtype.dtype, shape, is_fortran, run.start)


class _ArrayMachine(Machine):
    known_globals = (*_NUMPY_ARRAY, _ARRAY, _DTYPE, _BFLOAT16, _JAX_ARRAY, _QUANTIZED)
    builders: ClassVar = {
        _DTYPE: _dtype,
        _JAX_ARRAY: _jax_array,
        **dict.fromkeys(_NUMPY_ARRAY, _unfilled),
    }
    steps: ClassVar = {
        **STEPS,
        **dict.fromkeys(_RUN_LENGTH_BYTES, Machine.push),
        "NEWOBJ": lambda machine, _: machine.make_object(),
        "BUILD": lambda machine, _: machine.build(),
    }

    def make_object(self) -> None:
        kind, arguments = self.pop(2)
        if kind != Global(_QUANTIZED) or arguments != ():
            raise self.unsafe("a new " + getattr(kind, "name", type(kind).__name__))
        self.push(_UnfilledQuantized())

    def build(self) -> None:
        """Gives what was made last its state."""
        target, state = self.pop(2)
        if isinstance(target, _Unfilled):
            self.push(_filled(state))
        elif isinstance(target, _UnfilledQuantized):
            self.push(_quantized(state))
        elif isinstance(target, _Dtype):
            if not isinstance(state, tuple):
                raise ValueError("a number type without a state")
            _, target.byte_order, *_ = state
            self.push(target)
        else:
            raise self.unsafe("a call of __setstate__")


def _quantized(state: object) -> StoredQuantized:
    if not isinstance(state, dict) or state.keys() != {"weight", "scales"}:
        raise ValueError("a QuantizedWeight8bit without weight and scales, or with more")
    weight, scales = state["weight"], state["scales"]
    if not isinstance(weight, StoredArray) or not isinstance(scales, StoredArray):
        raise ValueError("a QuantizedWeight8bit whose weight or scales are no array")
    return StoredQuantized(weight, scales)
