"""Writes xAI's `ckpt-0`, its pickles put together opcode by opcode: no library's habits decide.

A leaf is a tensor, a `Hole` (an array whose bytes are a hole in the file, however large), or a pair
of these: an 8-bit weight and its scales.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

START, STOP = b"\x80\x04", b"."
FALSE, TRUE, NONE = b"\x89", b"\x88", b"N"


class Hole(NamedTuple):
    shape: tuple[int, ...]
    dtype: torch.dtype


Array = Tensor | Hole
Leaf = Array | tuple[Array, Array]
Segments = list[bytes | int]
"""Bytes, and lengths of holes between them."""


def word(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


def name(module: str, attribute: str) -> bytes:
    return word(module) + word(attribute) + b"\x93"


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def items(*values: bytes) -> bytes:
    """A tuple."""
    return b"(" + b"".join(values) + b"t"


def numbers(values: tuple[int, ...]) -> bytes:
    return items(*(number(value) for value in values))


RECONSTRUCT = name("numpy.core.multiarray", "_reconstruct")
UNFILLED = items(name("numpy", "ndarray"), numbers((0,)), b"C\x01b")
BFLOAT16 = name("ml_dtypes", "bfloat16")


def number_type(kind: bytes, order: str = "<") -> bytes:
    state = items(number(3), word(order), NONE, NONE, NONE, number(-1), number(-1), number(0))
    return name("numpy", "dtype") + items(kind, FALSE, TRUE) + b"R" + state + b"b"


TYPES = {
    torch.float32: number_type(word("f4")),
    torch.float16: number_type(word("f2")),
    torch.int8: number_type(word("i1"), "|"),
    torch.bfloat16: number_type(BFLOAT16),
}


def array(values: Array, form: str = "numpy", *, is_fortran: bool = False) -> Segments:
    """A numpy array, or a jax array around one."""
    if isinstance(values, Hole):
        num_bytes = math.prod(values.shape) * values.dtype.itemsize
        data: bytes | int = num_bytes
    else:
        stored = values.permute(*reversed(range(values.ndim))) if is_fortran else values
        data = stored.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        num_bytes = len(data)
    flag = TRUE if is_fortran else FALSE
    state = b"(" + number(1) + numbers(tuple(values.shape)) + TYPES[values.dtype] + flag
    state += b"B" + struct.pack("<I", num_bytes)
    if form == "numpy":
        return [RECONSTRUCT + UNFILLED + b"R" + state, data, b"tb"]
    jax = name("jax._src.array", "_reconstruct_array")
    info = b"}(" + word("weak_type") + FALSE + word("named_shape") + b"}u"
    return [jax + b"(" + RECONSTRUCT + UNFILLED + state, data, b"t" + info + b"tR"]


def leaf_segments(leaf: Leaf, form: str = "numpy") -> Segments:
    """The whole file of a leaf."""
    if isinstance(leaf, Tensor | Hole):
        return [START, *array(leaf, form), STOP]
    weight, scales = leaf
    head = name("__main__", "QuantizedWeight8bit") + b")\x81}(" + word("weight")
    between = word("scales")
    return [START, head, *array(weight, form), between, *array(scales, form), b"ub", STOP]


def write_leaf(path: Path, leaf: Leaf, form: str = "numpy") -> None:
    with path.open("wb") as file:
        for segment in leaf_segments(leaf, form):
            if isinstance(segment, int):
                file.seek(segment, 1)
            else:
                file.write(segment)


def tree_order(tree: Mapping[str, Any]) -> list[str]:
    """jax's order of the leaves: modules as text, then parameters. 10 comes before 2."""
    return sorted(tree, key=lambda path: tuple(path.rsplit("/", 1)))


def write_ckpt(
    folder: Path, tree: Mapping[str, Leaf], config: Mapping[str, Any] | None, form: str = "numpy"
) -> Path:
    """ckpt-0 in `folder`, and config.json beside it unless it is None. Returns `folder`."""
    ckpt = folder / "ckpt-0"
    ckpt.mkdir(parents=True)
    for i, path in enumerate(tree_order(tree)):
        write_leaf(ckpt / f"tensor{i:05d}_000", tree[path], form)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(dict(config)), encoding="utf-8")
    return folder
