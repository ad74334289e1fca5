"""The head of a GGUF file: metadata and the directory of its tensors, not the tensors themselves.

Used by the tokenizer that a GGUF embeds and by the checkpoint reader. Layout (ggml docs/gguf.md),
all little-endian: "GGUF", version u32, number of tensors u64, number of pairs u64, the pairs, the
tensor entries, padding to `general.alignment`, the data. A string is a u64 length and its UTF-8
bytes.

Nothing is allocated before its size was compared with the file and with the limits below, so that a
small hostile file costs little time and memory. Damage raises CheckpointError.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bobot.errors import CheckpointError

MAX_PAIRS = 1 << 16
MAX_TENSORS = 1 << 20
MAX_VALUES = 1 << 24  # over all arrays of a file; the largest vocabularies need about 2**20
MAX_STRING_BYTES = 1 << 26
MAX_DIMENSIONS = 4
MAX_NESTING = 4
MAX_ALIGNMENT = 1 << 20

_STRING, _ARRAY = 8, 9
_NUMBERS = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_U32, _U64 = _NUMBERS[4], _NUMBERS[10]
_SMALLEST_PAIR_BYTES = 8 + 4 + 1
_SMALLEST_TENSOR_BYTES = 8 + 4 + 4 + 8


class GgufTensor(NamedTuple):
    """`shape` is in GGML order (fastest axis first); `offset` counts from data_offset."""

    name: str
    shape: tuple[int, ...]
    ggml_type: int
    offset: int


@dataclass(frozen=True)
class GgufHeader:
    version: int
    metadata: dict[str, Any]
    tensors: list[GgufTensor]
    alignment: int
    data_offset: int  # from the start of the file; may lie past its end when there are no tensors


def read_header(path: str | Path) -> GgufHeader:
    """The metadata and the tensor directory of the GGUF file at `path` (versions 2 and 3).

    Every tensor's offset is aligned and inside the file; whether its bytes fit too depends on its
    type and is for the reader of the tensors to check. Raises CheckpointError.
    """
    with open(path, "rb") as file:
        if file.seek(0, 2) < 24:
            raise CheckpointError(
                "{file}: not a GGUF file: shorter than its 24-byte head", file=path
            )
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(data, path).header()


class _Reader:
    """A cursor over the file that checks each step against the end of the file."""

    def __init__(self, data: mmap.mmap, path: str | Path) -> None:
        self.data = data
        self.path = path
        self.position = 4
        self.values_left = MAX_VALUES

    def header(self) -> GgufHeader:
        version = self.version()
        num_tensors = self.count("tensors", MAX_TENSORS, _SMALLEST_TENSOR_BYTES)
        num_pairs = self.count("metadata pairs", MAX_PAIRS, _SMALLEST_PAIR_BYTES)
        metadata: dict[str, Any] = {}
        for _ in range(num_pairs):
            key = self.string()
            if key in metadata:
                raise CheckpointError(
                    "{file}: metadata key {key!r} occurs twice", file=self.path, key=key
                )
            metadata[key] = self.value(self.number(_U32))
        alignment = self.alignment(metadata)
        tensors = [self.tensor() for _ in range(num_tensors)]
        data_offset = -(-self.position // alignment) * alignment
        self.check_directory(tensors, alignment, data_offset)
        return GgufHeader(version, metadata, tensors, alignment, data_offset)

    def version(self) -> int:
        magic = self.data[:4]
        if magic != b"GGUF":
            raise CheckpointError(
                "{file}: not a GGUF file: it starts with {found!r}, not b'GGUF'",
                file=self.path,
                found=magic,
            )
        version = self.number(_U32)
        if version not in (2, 3):
            raise CheckpointError(
                "{file}: GGUF version {found}; bobot reads little-endian versions 2 and 3",
                hint="Convert it again with a current llama.cpp.",
                file=self.path,
                found=version,
            )
        return version

    def alignment(self, metadata: dict[str, Any]) -> int:
        alignment = metadata.get("general.alignment", 32)
        is_integer = isinstance(alignment, int) and not isinstance(alignment, bool)
        if not is_integer or not 1 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
            raise CheckpointError(
                "{file}: general.alignment is {found!r}; allowed: a power of two up to {most}",
                file=self.path,
                found=alignment,
                most=MAX_ALIGNMENT,
            )
        return alignment

    def check_directory(self, tensors: list[GgufTensor], alignment: int, data_offset: int) -> None:
        if len({tensor.name for tensor in tensors}) != len(tensors):
            raise CheckpointError("{file}: two tensors have the same name", file=self.path)
        for tensor in tensors:
            if tensor.offset % alignment or data_offset + tensor.offset > len(self.data):
                raise CheckpointError(
                    "{file}: tensor {name!r} starts at byte {offset} of the data;"
                    " allowed: a multiple of {alignment} up to {most}",
                    hint="The file is incomplete or damaged: download it again.",
                    file=self.path,
                    name=tensor.name,
                    offset=tensor.offset,
                    alignment=alignment,
                    most=max(0, len(self.data) - data_offset),
                )

    def tensor(self) -> GgufTensor:
        name = self.string()
        num_dimensions = self.number(_U32)
        if num_dimensions > MAX_DIMENSIONS:
            raise CheckpointError(
                "{file}: tensor {name!r} has {found} dimensions; allowed: up to {most}",
                file=self.path,
                name=name,
                found=num_dimensions,
                most=MAX_DIMENSIONS,
            )
        shape = tuple(self.number(_U64) for _ in range(num_dimensions))
        num_elements = 1
        for size in shape:
            num_elements *= size
        if not 0 < num_elements < 1 << 63:
            raise CheckpointError(
                "{file}: tensor {name!r} has the impossible shape {shape}",
                file=self.path,
                name=name,
                shape=list(shape),
            )
        return GgufTensor(name, shape, self.number(_U32), self.number(_U64))

    def value(self, kind: int, nesting: int = 0) -> Any:
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY and nesting < MAX_NESTING:
            return self.array(nesting + 1)
        raise CheckpointError(
            "{file}: metadata value of unknown type {found}", file=self.path, found=kind
        )

    def array(self, nesting: int) -> list[Any]:
        kind = self.number(_U32)
        item_bytes = _NUMBERS[kind].size if kind in _NUMBERS else 8
        count = self.count("array values", self.values_left, item_bytes)
        self.values_left -= count
        if kind in _NUMBERS:
            start, code = self.take(count * item_bytes), _NUMBERS[kind].format[1:]
            return list(struct.unpack_from(f"<{count}{code}", self.data, start))
        if kind == _STRING:
            return self.strings(count)
        return [self.value(kind, nesting) for _ in range(count)]

    def strings(self, count: int) -> list[str]:
        """string() `count` times, unrolled: a vocabulary and its merges have 400 000."""
        data, size, read = self.data, len(self.data), _U64.unpack_from
        items, end = [], self.position
        try:
            for _ in range(count):
                start = end + 8
                if start > size:
                    break
                end = start + read(data, end)[0]
                items.append(data[start:end].decode())
        except UnicodeDecodeError as error:
            raise CheckpointError(
                "{file}: a string in its head is not UTF-8", file=self.path
            ) from error
        self.take(end - self.position if len(items) == count else size)
        return items

    def count(self, what: str, most: int, item_bytes: int) -> int:
        count = self.number(_U64)
        fitting = (len(self.data) - self.position) // item_bytes
        if count > min(most, fitting):
            raise CheckpointError(
                "{file}: announces {found} {what}; at most {most} can follow",
                hint="The file is incomplete or damaged: download it again.",
                file=self.path,
                found=count,
                what=what,
                most=min(most, fitting),
            )
        return count

    def string(self) -> str:
        (length,) = _U64.unpack_from(self.data, self.take(8))
        if length > MAX_STRING_BYTES:
            raise CheckpointError(
                "{file}: a string of {found} bytes; allowed: up to {most}",
                file=self.path,
                found=length,
                most=MAX_STRING_BYTES,
            )
        start = self.take(length)
        try:
            return str(self.data[start : self.position], "utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(
                "{file}: a string in its head is not UTF-8", file=self.path
            ) from error

    def number(self, form: struct.Struct) -> Any:
        return form.unpack_from(self.data, self.take(form.size))[0]

    def take(self, num_bytes: int) -> int:
        """Where the next `num_bytes` start; the cursor moves behind them."""
        start = self.position
        if start + num_bytes > len(self.data):
            raise CheckpointError(
                "{file}: ends at byte {size}, inside its head",
                hint="The file is incomplete: download it again.",
                file=self.path,
                size=len(self.data),
            )
        self.position = start + num_bytes
        return start
