"""The head of a GGUF: equal to the gguf package's view, and hostile heads refused at once."""

from __future__ import annotations

import random
import struct
import time
from pathlib import Path

import gguf
import pytest
import tiny_tokenizers as tiny

from bobot.errors import CheckpointError
from bobot.text.gguf_metadata import read_header

METADATA = {"general.architecture": "llama", "a.count": 3, "a.names": ["x", "\u4f60"], "a.ok": True}


def tensor(name: str, shape: tuple[int, ...], offset: int = 0, ggml_type: int = 0) -> bytes:
    sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return tiny.gguf_string(name) + sizes + struct.pack("<IQ", ggml_type, offset)


def read(data: bytes, folder: Path) -> object:
    path = folder / "model.gguf"
    path.write_bytes(data)
    return read_header(path)


def test_header_equals_what_the_gguf_package_reads(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    head = tiny.gguf_bytes(METADATA, num_tensors=2)
    entries = tensor("one", (2, 3)) + tensor("two", (4,), offset=32)
    data = head + entries
    path.write_bytes(data + bytes(-len(data) % 32) + bytes(64))
    header = read_header(path)
    assert header.metadata == METADATA and header.version == 3
    reference = gguf.GGUFReader(path)
    assert header.data_offset == reference.data_offset and header.alignment == reference.alignment
    for ours, theirs in zip(header.tensors, reference.tensors, strict=True):
        assert ours.name == theirs.name
        assert ours.shape == tuple(theirs.shape) and ours.ggml_type == theirs.tensor_type
        assert ours.offset == theirs.data_offset - reference.data_offset


HUGE = 1 << 60
HEAD = b"GGUF" + struct.pack("<I", 3)
MALFORMED = {
    "empty": b"",
    "only magic": b"GGUF",
    "other magic": b"GGML" + bytes(40),
    "version 1": tiny.gguf_bytes(METADATA, version=1),
    "big-endian version": tiny.gguf_bytes(METADATA, version=3 << 24),
    "2**60 tensors": HEAD + struct.pack("<QQ", HUGE, 0) + bytes(64),
    "2**60 pairs": HEAD + struct.pack("<QQ", 0, HUGE) + bytes(64),
    "2**60 strings": HEAD
    + struct.pack("<QQ", 0, 1)
    + tiny.gguf_string("k")
    + struct.pack("<IIQ", 9, 8, HUGE)
    + bytes(64),
    "2**60 numbers": HEAD
    + struct.pack("<QQ", 0, 1)
    + tiny.gguf_string("k")
    + struct.pack("<IIQ", 9, 4, HUGE)
    + bytes(64),
    "string of 2**60 bytes": HEAD + struct.pack("<QQQ", 0, 1, HUGE) + bytes(64),
    "string that ends in an array": HEAD
    + struct.pack("<QQ", 0, 1)
    + tiny.gguf_string("k")
    + struct.pack("<IIQ", 9, 8, 2)
    + struct.pack("<Q", HUGE)
    + bytes(64),
    "nested arrays": HEAD
    + struct.pack("<QQ", 0, 1)
    + tiny.gguf_string("k")
    + struct.pack("<I", 9)
    + struct.pack("<IQ", 9, 1) * 3000,
    "unknown type": HEAD
    + struct.pack("<QQ", 0, 1)
    + tiny.gguf_string("k")
    + struct.pack("<I", 77)
    + bytes(64),
    "not UTF-8": HEAD + struct.pack("<QQQ", 0, 1, 2) + b"\xff\xfe" + bytes(64),
    "key twice": HEAD
    + struct.pack("<QQ", 0, 2)
    + (tiny.gguf_string("k") + struct.pack("<IB", 0, 1)) * 2
    + bytes(64),
    "alignment 0": tiny.gguf_bytes({"general.alignment": 0}) + bytes(64),
    "alignment 3": tiny.gguf_bytes({"general.alignment": 3}) + bytes(64),
    "alignment text": tiny.gguf_bytes({"general.alignment": "x"}) + bytes(64),
    "alignment 2**30": tiny.gguf_bytes({"general.alignment": 1 << 30}) + bytes(64),
    "five dimensions": tiny.gguf_bytes(METADATA, num_tensors=1) + tensor("t", (1,) * 5) + bytes(64),
    "dimension 0": tiny.gguf_bytes(METADATA, num_tensors=1) + tensor("t", (0,)) + bytes(64),
    "2**90 elements": tiny.gguf_bytes(METADATA, num_tensors=1)
    + tensor("t", (1 << 30,) * 3)
    + bytes(64),
    "offset past the end": tiny.gguf_bytes(METADATA, num_tensors=1)
    + tensor("t", (1,), offset=1 << 40)
    + bytes(64),
    "offset not aligned": tiny.gguf_bytes(METADATA, num_tensors=1)
    + tensor("t", (1,), offset=7)
    + bytes(64),
    "name twice": tiny.gguf_bytes(METADATA, num_tensors=2) + tensor("t", (1,)) * 2 + bytes(64),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_hostile_head_is_refused_at_once(name: str, tmp_path: Path) -> None:
    start = time.process_time()
    with pytest.raises(CheckpointError):
        read(MALFORMED[name], tmp_path)
    assert time.process_time() - start < 1


def test_every_truncation_and_most_bit_flips_are_refused_or_read(tmp_path: Path) -> None:
    data = tiny.gguf_bytes(METADATA, num_tensors=1) + tensor("t", (2,))
    for size in range(len(data)):
        with pytest.raises(CheckpointError):
            read(data[:size], tmp_path)
    rng = random.Random(1)
    for _ in range(500):
        damaged = bytearray(data)
        damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        try:
            read(bytes(damaged), tmp_path)
        except CheckpointError:
            continue
