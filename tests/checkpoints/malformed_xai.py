"""Malformed and hostile files of xAI's checkpoint, made on the fly: one leaf of a good one changed.

A pickle that would run leaves a file named `canary` in the test's folder.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from hostile_pickles import PICKLES
from malformed_case import Case
from torch import Tensor
from xai_checkpoint import (
    BFLOAT16,
    FALSE,
    NONE,
    RECONSTRUCT,
    START,
    STOP,
    TRUE,
    TYPES,
    UNFILLED,
    Leaf,
    array,
    items,
    leaf_segments,
    name,
    number,
    number_type,
    numbers,
    word,
    write_ckpt,
)

from bobot.errors import BobotError, CheckpointError, UnsafeFileError

MATRIX = torch.arange(-32, 32, dtype=torch.int8).view(8, 8)
SCALES = torch.ones(1, 8, dtype=torch.bfloat16)
QUERY = "tensor00007_000"
"""A matrix, which may be plain or 8-bit."""


@cache
def good_tree() -> dict[str, Leaf]:
    plain, experts = torch.ones(8, 8), torch.ones(2, 8, 8)
    at = "transformer/decoder_layer_0/"
    tree: dict[str, Leaf] = {
        "language_model/in_out_embed/embeddings": torch.ones(5, 8),
        "language_model/rms_norm/scale": torch.ones(8),
        f"{at}router/w": torch.ones(8, 2),
    }
    tree |= {f"{at}moe/{part}/w": experts for part in ("linear", "linear_1", "linear_v")}
    for part in ("query", "key", "value", "linear"):
        tree[f"{at}multi_head_attention/{part}/w"] = plain
    tree |= {f"{at}rms_norm{which}/scale": torch.ones(8) for which in ("", "_1", "_2", "_3")}
    return tree


def file_of(leaf: Leaf, form: str = "numpy") -> bytes:
    return b"".join(part for part in leaf_segments(leaf, form) if isinstance(part, bytes))


def with_file(data: bytes, file: str = QUERY) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        write_ckpt(folder, good_tree(), None)
        (folder / "ckpt-0" / file).write_bytes(data)
        return folder

    return make


def hostile(pickled: Callable[[Path], bytes]) -> Callable[[Path], Path]:
    return lambda folder: with_file(pickled(folder))(folder)


def changed_names(change: Callable[[Path], object]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        change(write_ckpt(folder, good_tree(), None) / "ckpt-0")
        return folder

    return make


def plain(
    shape: tuple[int, ...] = (8, 8),
    kind: bytes = TYPES[torch.int8],
    run: bytes = b"B" + struct.pack("<I", 64) + bytes(64),
    order: bytes = FALSE,
    version: int = 1,
    shape_bytes: bytes | None = None,
) -> bytes:
    """A numpy array with one thing wrong."""
    shown = numbers(shape) if shape_bytes is None else shape_bytes
    state = items(number(version), shown, kind, order, run)
    return START + RECONSTRUCT + UNFILLED + b"R" + state + b"b" + STOP


def quantized(weight: Tensor = MATRIX, scales: Tensor = SCALES) -> bytes:
    return file_of((weight, scales))


def with_state(state: bytes) -> bytes:
    """A QuantizedWeight8bit given any state."""
    return START + name("__main__", "QuantizedWeight8bit") + b")\x81" + state + b"b" + STOP


def one_array() -> bytes:
    return b"".join(part for part in array(MATRIX) if isinstance(part, bytes))


def doubled() -> bytes:
    """A tuple of tuples, each of which holds the one before twice: 2**60 words if printed."""
    double = b"".join(
        b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(60)
    )
    return b"()q\x00" + double + b"t"


def jax_around(function: bytes, arguments: bytes = UNFILLED, state: bytes = b")") -> bytes:
    call = items(function, arguments, state, b"}")
    return START + name("jax._src.array", "_reconstruct_array") + call + b"R" + STOP


GOOD = file_of(MATRIX)
OBJECTS = number_type(word("O8"), "|")
UNORDERED = name("numpy", "dtype") + items(word("i1"), FALSE, TRUE) + b"R"
ODD_SCALES = torch.ones(3, 8, dtype=torch.bfloat16)

_FILES: list[tuple[str, bytes, type[BobotError], str]] = [
    ("empty file", b"", CheckpointError, "empty"),
    ("cut in the data", GOOD[:-30], CheckpointError, "64 bytes from"),
    ("cut before the end", GOOD[:-1], CheckpointError, "no opcode"),
    ("bytes behind the end", GOOD + b"\0", UnsafeFileError, "behind the end"),
    ("second pickle behind the end", GOOD + GOOD, UnsafeFileError, "behind the end"),
    ("an unknown opcode", START + b"\xff" + STOP, CheckpointError, "no opcode at byte 2"),
    ("a list", START + b"]" + STOP, UnsafeFileError, "EMPTY_LIST"),
    ("a number", START + b"K\5" + STOP, CheckpointError, "no array"),
    ("a dictionary", START + b"}" + STOP, CheckpointError, "no array"),
    ("a function", START + RECONSTRUCT + STOP, CheckpointError, "no array"),
    ("nothing", START + STOP, CheckpointError, "no single value"),
    ("two arrays", START + one_array() * 2 + STOP, CheckpointError, "no single value"),
    ("an array of objects", plain(kind=OBJECTS), CheckpointError, "O8"),
    ("records", plain(kind=number_type(word("V8"), "|")), CheckpointError, "V8"),
    ("float64", plain(kind=number_type(word("f8"))), CheckpointError, "f8"),
    ("big-endian", plain(kind=number_type(word("f4"), ">")), CheckpointError, "little-endian"),
    (
        "a type of a type",
        plain(kind=number_type(name("numpy", "dtype"))),
        CheckpointError,
        "numpy.dtype",
    ),
    ("no type", plain(kind=NONE), CheckpointError, "number type"),
    ("unset byte order", plain(kind=UNORDERED), CheckpointError, "little-endian"),
    ("2^31 x 2^31", plain((2**31 - 1, 2**31 - 1)), CheckpointError, "impossible shape"),
    ("2^48 elements claimed", plain((2**24, 2**24)), CheckpointError, "64 bytes for"),
    ("a negative axis", plain((-8, -8)), CheckpointError, "impossible shape"),
    ("nine axes", plain((1,) * 8 + (64,)), CheckpointError, "impossible shape"),
    ("an axis that is true", plain(shape_bytes=items(TRUE, number(64))), CheckpointError, "shape"),
    ("a shape that is a number", plain(shape_bytes=number(64)), CheckpointError, "shape"),
    ("a shape that doubles", plain(shape_bytes=doubled()), CheckpointError, "shape"),
    ("too few bytes", plain((8, 9)), CheckpointError, "takes 72"),
    ("too many bytes", plain((8, 7)), CheckpointError, "takes 56"),
    ("bytes that are text", plain(run=word("x" * 64)), CheckpointError, "no bytes"),
    ("bytes past the end", plain(run=b"B" + b"\xff" * 4), CheckpointError, "4294967295 bytes"),
    ("2^63 bytes", plain(run=b"\x8e" + struct.pack("<Q", 1 << 63)), CheckpointError, "bytes from"),
    ("order that is a number", plain(order=number(1)), CheckpointError, "order"),
    ("another version of numpy's state", plain(version=2), CheckpointError, "version 1"),
    ("a state of two", with_state(one_array()), CheckpointError, "weight and scales"),
    ("scales of 3 rows", quantized(scales=ODD_SCALES), CheckpointError, "[3, 8]"),
    ("scales with an axis more", quantized(scales=SCALES[None]), CheckpointError, "[1, 1, 8]"),
    ("scales for other outputs", quantized(scales=SCALES[:, :4]), CheckpointError, "[1, 4]"),
    ("scales with an axis less", quantized(scales=SCALES[0]), CheckpointError, "shape [8]"),
    ("scales of no rows", quantized(scales=SCALES[:0]), CheckpointError, "[0, 8]"),
    ("scales of int8", quantized(scales=MATRIX[:1]), CheckpointError, "scales of int8"),
    ("an 8-bit weight of floats", quantized(MATRIX.float()), CheckpointError, "float32 with"),
    (
        "a weight without scales",
        with_state(b"}(" + word("weight") + one_array() + b"u"),
        CheckpointError,
        "without weight and scales",
    ),
    (
        "a weight with a third array",
        with_state(
            b"}(" + b"".join(word(key) + one_array() for key in ("weight", "scales", "more")) + b"u"
        ),
        CheckpointError,
        "or with more",
    ),
    (
        "scales that are a number",
        with_state(b"}(" + word("weight") + one_array() + word("scales") + number(1) + b"u"),
        CheckpointError,
        "no array",
    ),
    ("a vector in a matrix's place", file_of(torch.ones(8)), CheckpointError, "1 axes"),
    ("four axes in a matrix's place", file_of(torch.ones(1, 1, 8, 8)), CheckpointError, "4 axes"),
    ("jax around a type", jax_around(name("numpy", "dtype")), CheckpointError, "no numpy array"),
    (
        "jax around itself",
        jax_around(name("jax._src.array", "_reconstruct_array")),
        CheckpointError,
        "no numpy array",
    ),
    ("jax with no state", jax_around(RECONSTRUCT), CheckpointError, "version 1"),
    ("jax with no arguments", jax_around(RECONSTRUCT, number(1)), CheckpointError, "numpy array"),
    (
        "array of another class",
        START + RECONSTRUCT + items(name("numpy", "dtype"), numbers((0,)), b"C\1b") + b"R" + STOP,
        CheckpointError,
        "class",
    ),
    (
        "a new array without its maker",
        START + name("numpy", "ndarray") + b")\x81" + STOP,
        UnsafeFileError,
        "a new numpy.ndarray",
    ),
    (
        "a call of a class",
        START + name("__main__", "QuantizedWeight8bit") + b")R" + STOP,
        UnsafeFileError,
        "a call of __main__.QuantizedWeight8bit",
    ),
    ("a call of a type", START + BFLOAT16 + b")R" + STOP, UnsafeFileError, "ml_dtypes.bfloat16"),
    ("state set on a table", START + b"}}b" + STOP, UnsafeFileError, "__setstate__"),
    (
        "another class of __main__",
        START + name("__main__", "Other") + b")\x81" + STOP,
        UnsafeFileError,
        "__main__.Other",
    ),
    ("numpy's loader", START + name("numpy", "load") + b")R" + STOP, UnsafeFileError, "numpy.load"),
    (
        "a dotted name",
        START + name("numpy.core.multiarray", "_reconstruct.__globals__") + STOP,
        UnsafeFileError,
        "__globals__",
    ),
    ("1 MiB of marks", START + b"(" * (1 << 20) + STOP, CheckpointError, "1000 opcodes"),
    ("1 MiB of memo", START + b"}" + b"\x94" * (1 << 20) + STOP, CheckpointError, "1000 opcodes"),
    (
        "a text of 2 GiB",
        START + b"X" + b"\xff\xff\xff\x7f" + b"x" * 50 + STOP,
        CheckpointError,
        "a word of 2147483647 bytes",
    ),
    ("a name without end", START + b"c" + b"x" * (1 << 20), CheckpointError, "damaged"),
]

_NAMES: list[tuple[str, Callable[[Path], object], str]] = [
    ("a file missing in the row", lambda ckpt: (ckpt / QUERY).unlink(), "tensor00007_000"),
    ("the last file missing", lambda ckpt: (ckpt / "tensor00013_000").unlink(), "13 tensor files"),
    ("a file too many", lambda ckpt: (ckpt / "tensor00014_000").write_bytes(GOOD), "15 tensor"),
    ("a file far behind", lambda ckpt: (ckpt / "tensor99999_000").write_bytes(GOOD), "00014"),
    ("a tensor in two parts", lambda ckpt: (ckpt / "tensor00007_001").write_bytes(GOOD), "further"),
    ("an unfinished download", lambda ckpt: (ckpt / f"{QUERY}.part").write_bytes(GOOD), ".part"),
    (
        "a folder in a file's place",
        lambda ckpt: ((ckpt / QUERY).unlink(), (ckpt / QUERY).mkdir()),
        "regular",
    ),
    (
        "a broken link",
        lambda ckpt: ((ckpt / QUERY).unlink(), (ckpt / QUERY).symlink_to("gone")),
        "can't be read",
    ),
    (
        "settings that are a list",
        lambda ckpt: (ckpt.parent / "config.json").write_text("[]"),
        "object",
    ),
]

XAI_FILES = [
    *(Case(f"xai {name}", with_file(data), error, words) for name, data, error, words in _FILES),
    Case(
        "xai 8-bit embedding",
        with_file(quantized(), "tensor00000_000"),
        CheckpointError,
        "a plain array",
    ),
    Case(
        "xai 8-bit router",
        with_file(quantized(), "tensor00013_000"),
        CheckpointError,
        "a plain array",
    ),
    *(
        Case(f"xai {name}", changed_names(change), CheckpointError, words)
        for name, change, words in _NAMES
    ),
    *(
        Case(f"xai pickle {name}", hostile(make), CheckpointError, "")
        for name, make in PICKLES.items()
    ),
]
