"""How many parameters stored tensors stand for: packed weights count each value in them, scales and
tables count none.

A tensor is known by its name, stored type and shape; nothing is unpacked.
"""

from __future__ import annotations

import io
import math
import pickletools
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from bobot.errors import CheckpointError

TYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3",
    "F8_E5M2": "float8_e5m2",
    "I8": "int8",
}
"""The names that safetensors files give to types, and ours."""

PICKLED_TYPES = {"f4": "float32", "f2": "float16", "i1": "int8", "bfloat16": "bfloat16"}

_HEAD_BYTES = 1 << 14
_NO_PARAMETERS = (
    "_scale_inv",
    "weight_scale",
    "weight_shape",
    "weight_zero_point",
    "inv_freq",
    "rope.freqs",
)
_TUPLE_SIZES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class StoredTensor(NamedTuple):
    name: str
    dtype: str
    """As the file names it: BF16, U8, I32 ..."""
    shape: tuple[int, ...]


def count_parameters(tensors: Iterable[StoredTensor], packed_bits: int = 4) -> Counter[str]:
    """Type -> number of parameters of that type.

    gpt-oss keeps two 4-bit values in each byte of a `blocks` tensor beside its `scales`;
    compressed-tensors keeps 32 / packed_bits values in each int32 of a `weight_packed`.
    """
    counts: Counter[str] = Counter()
    for name, dtype, shape in tensors:
        size = math.prod(shape)
        if dtype == "U8" and name.endswith(("_blocks", ".blocks")):
            counts["mxfp4"] += 2 * size
        elif name.endswith("weight_packed"):
            counts[f"int{packed_bits}"] += size * 32 // packed_bits
        elif not name.endswith(_NO_PARAMETERS) and not (dtype == "U8" and _is_scales(name)):
            counts[TYPES.get(dtype, dtype.lower())] += size
    return counts


def _is_scales(name: str) -> bool:
    return name.endswith(("_scales", ".scales"))


def pickled_tensor(path: Path) -> StoredTensor:
    """The first array of a pickle, from the opcodes in its first bytes; nothing is executed.

    numpy pickles an array's state as (1, shape, dtype, ...): the whole numbers between the version
    and the tuple that ends them are the shape. In xAI's files the first array is the weight, its
    scales come after. Raises CheckpointError where no such state is found.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    numbers: list[int] = []
    shape: tuple[int, ...] | None = None
    try:
        for opcode, argument, _ in pickletools.genops(io.BytesIO(head)):
            if shape is not None and argument in PICKLED_TYPES:
                return StoredTensor(path.name, PICKLED_TYPES[argument], shape)
            if opcode.name in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
                continue
            size = _TUPLE_SIZES.get(opcode.name, len(numbers) - 1)
            is_tuple = opcode.name in _TUPLE_SIZES or opcode.name == "TUPLE"
            if shape is None and is_tuple and numbers[:1] == [1] and len(numbers) == size + 1:
                shape = tuple(numbers[1:])
            is_number = opcode.name.startswith(("BININT", "LONG"))
            numbers = [*numbers, argument] if is_number and isinstance(argument, int) else []
    except ValueError:
        pass  # the head ends in the middle of the array's bytes, after what we look for
    raise CheckpointError(
        "{file}: no array is described in its first {size} bytes.",
        hint="It is incomplete or no checkpoint file; fetch it again.",
        file=path,
        size=len(head),
    )
