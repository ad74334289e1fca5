"""Malformed GGUF files, made on the fly."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

from malformed_case import Case

from bobot.errors import CheckpointError


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def gguf_tensor(
    name: bytes = b"w", shape: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0
) -> bytes:
    form = f"<I{len(shape)}QIQ"
    return text(name) + struct.pack(form, len(shape), *shape, kind, offset)


def gguf(
    tensors: list[bytes],
    pairs: list[bytes] | None = None,
    num_bytes: int = 128,
    counts: tuple[int, int] | None = None,
    magic: bytes = b"GGUF",
    version: int = 3,
    keep: int | None = None,
) -> Callable[[Path], Path]:
    pairs = pairs or []
    num_tensors, num_pairs = counts or (len(tensors), len(pairs))
    head = magic + struct.pack("<IQQ", version, num_tensors, num_pairs)
    head += b"".join(pairs) + b"".join(tensors)
    data = (head + bytes(-len(head) % 32) + bytes(num_bytes))[:keep]

    def make(folder: Path) -> Path:
        path = folder / "model.gguf"
        path.write_bytes(data)
        return path

    return make


def pair(key: bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def missing_split(folder: Path) -> Path:
    gguf([gguf_tensor()])(folder).rename(folder / "m-00001-of-00003.gguf")
    return folder / "m-00001-of-00003.gguf"


W = gguf_tensor()
ALIGNMENT = b"general.alignment"
NESTED = b"".join(struct.pack("<IQ", 9, 1) for _ in range(1000))
GGUFS = [
    Case("2^60 tensors", gguf([W], counts=(1 << 60, 0)), CheckpointError, "1152921504606846976"),
    Case("2^60 pairs", gguf([W], counts=(1, 1 << 60)), CheckpointError, "1152921504606846976"),
    Case("string of 2^60", gguf([W], [struct.pack("<Q", 1 << 60)]), CheckpointError, "string"),
    Case(
        "array of 2^60 strings",
        gguf([W], [pair(b"a", 9, struct.pack("<IQ", 8, 1 << 60))]),
        CheckpointError,
        "1152921504606846976",
    ),
    Case(
        "array in array, 1000 deep", gguf([W], [pair(b"a", 9, NESTED)]), CheckpointError, "type 9"
    ),
    Case("alignment 0", gguf([W], [pair(ALIGNMENT, 4, bytes(4))]), CheckpointError, "alignment"),
    Case("alignment 3", gguf([W], [pair(ALIGNMENT, 4, b"\3\0\0\0")]), CheckpointError, "alignment"),
    Case(
        "alignment text", gguf([W], [pair(ALIGNMENT, 8, text(b"x"))]), CheckpointError, "alignment"
    ),
    Case("unknown metadata type", gguf([W], [pair(b"a", 77, b"")]), CheckpointError, "77"),
    Case("key twice", gguf([W], [pair(b"a", 0, b"1")] * 2), CheckpointError, "twice"),
    Case("key not UTF-8", gguf([W], [pair(b"\xff", 0, b"1")]), CheckpointError, "UTF-8"),
    Case("name not UTF-8", gguf([gguf_tensor(b"\xff")]), CheckpointError, "UTF-8"),
    Case("unknown tensor type", gguf([gguf_tensor(kind=99)]), CheckpointError, "type 99"),
    Case("type without a reader", gguf([gguf_tensor(kind=17)]), CheckpointError, "type IQ2_XS"),
    Case(
        "row no multiple of a block",
        gguf([gguf_tensor(shape=(33,), kind=8)]),
        CheckpointError,
        "Q8_0",
    ),
    Case("size 0", gguf([gguf_tensor(shape=(0,))]), CheckpointError, "shape"),
    Case("size 2^62", gguf([gguf_tensor(shape=(1 << 62,))]), CheckpointError, "shape"),
    Case(
        "sizes that wrap", gguf([gguf_tensor(shape=(1 << 32, 1 << 32))]), CheckpointError, "shape"
    ),
    Case(
        "2^31 axes", gguf([text(b"w") + struct.pack("<I", 1 << 31)]), CheckpointError, "dimension"
    ),
    Case("offset not aligned", gguf([gguf_tensor(offset=4)]), CheckpointError, "multiple"),
    Case("offset out of range", gguf([gguf_tensor(offset=1 << 40)]), CheckpointError, "byte"),
    Case("tensor behind the end", gguf([gguf_tensor(offset=64)]), CheckpointError, "lies in bytes"),
    Case(
        "overlap", gguf([W, gguf_tensor(b"v", (8,), 0, 32)], num_bytes=256), CheckpointError, "lies"
    ),
    Case(
        "tensor twice", gguf([W, gguf_tensor(offset=128)], num_bytes=256), CheckpointError, "same"
    ),
    Case("truncated data", gguf([W], num_bytes=127), CheckpointError, "incomplete"),
    Case("truncated head", gguf([W], keep=30), CheckpointError, "GGUF|head|announces"),
    Case("magic only", gguf([W], keep=4), CheckpointError, "24"),
    Case("version 1", gguf([W], version=1), CheckpointError, "version 1"),
    Case("big-endian", gguf([W], version=3 << 24), CheckpointError, "version"),
    Case("missing file of a set", missing_split, CheckpointError, "m-00002-of-00003.gguf"),
]
