"""Malformed safetensors files, indexes and configs, made on the fly."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

from hostile_pickles import PICKLES
from malformed_case import Case

from bobot.errors import CheckpointError, UnsafeFileError

ONE_FLOAT = struct.pack("<f", 1.0)
ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def safetensors_file(folder: Path, header: bytes, data: bytes, length: int | None = None) -> Path:
    path = folder / "model.safetensors"
    length = len(header) if length is None else length
    path.write_bytes(struct.pack("<Q", length) + header + data)
    return path


def entries(folder: Path, data: bytes, **tensors: object) -> Path:
    return safetensors_file(folder, json.dumps(tensors).encode(), data)


def one_entry(**changes: object) -> Callable[[Path], Path]:
    return lambda folder: entries(folder, ONE_FLOAT, w={**ENTRY, **changes})


def two_entries(first: list[int], second: list[int], size: int = 8) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        one, two = {**ENTRY, "data_offsets": first}, {**ENTRY, "data_offsets": second}
        return entries(folder, bytes(size), a=one, b=two)

    return make


def raw_header(text: str, data: bytes = ONE_FLOAT) -> Callable[[Path], Path]:
    return lambda folder: safetensors_file(folder, text.encode("latin-1"), data)


def header_longer_than_file(folder: Path) -> Path:
    return safetensors_file(folder, b"{}", b"", length=1 << 20)


def header_of_16_exabytes(folder: Path) -> Path:
    return safetensors_file(folder, b"{}", b"", length=(1 << 64) - 1)


def header_over_the_limit(folder: Path) -> Path:
    path = safetensors_file(folder, b"{", b"", length=40 << 20)
    with open(path, "r+b") as file:
        file.truncate(41 << 20)
    return path


def empty_file(folder: Path) -> Path:
    path = folder / "model.safetensors"
    path.touch()
    return path


def seven_bytes(folder: Path) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(b"\2\0\0\0\0\0\0")
    return path


def git_lfs_pointer(folder: Path) -> Path:
    path = folder / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    return path


def web_page(folder: Path) -> Path:
    path = folder / "model.safetensors"
    path.write_text("\n<!DOCTYPE html><html><body>Please log in</body></html>")
    return path


def pickle_called_safetensors(folder: Path) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(PICKLES["os.system"](folder))
    return path


def zip_called_safetensors(folder: Path) -> Path:
    (folder / "config.json").write_text("{}")
    with zipfile.ZipFile(folder / "model.safetensors", "w") as archive:
        archive.writestr("x/data.pkl", PICKLES["os.system"](folder))
    return folder


SAFETENSORS = [
    Case("wrong dtype", one_entry(dtype="F31"), CheckpointError, "F31"),
    Case("dtype is a list", one_entry(dtype=["F32"]), CheckpointError, "dtype"),
    Case("negative size", one_entry(shape=[-1]), CheckpointError, "[-1]"),
    Case("huge size", one_entry(shape=[1 << 62]), CheckpointError, "4611686018427387904"),
    Case(
        "sizes that overflow 64 bits", one_entry(shape=[1 << 40] * 4), CheckpointError, "can't lie"
    ),
    Case("a product that wraps to 1", one_entry(shape=[1 << 32, 1 << 32]), CheckpointError, "w"),
    Case("100000 axes", one_entry(shape=[1] * 100_000), CheckpointError, "can't lie"),
    Case("size is true", one_entry(shape=[True]), CheckpointError, "True"),
    Case("size is a fraction", one_entry(shape=[1.0]), CheckpointError, "1.0"),
    Case("bytes do not match the shape", one_entry(shape=[2]), CheckpointError, "0 to 4"),
    Case("offsets backwards", one_entry(data_offsets=[4, 0]), CheckpointError, "4 to 0"),
    Case("negative offsets", one_entry(data_offsets=[-4, 0]), CheckpointError, "-4"),
    Case("three offsets", one_entry(data_offsets=[0, 2, 4]), CheckpointError, "[0, 2, 4]"),
    Case("offsets as text", one_entry(data_offsets="04"), CheckpointError, "04"),
    Case("offsets behind the end", one_entry(data_offsets=[4, 8]), CheckpointError, "byte 4"),
    Case("unknown key in an entry", one_entry(extra=1), CheckpointError, "extra"),
    Case("entry is a number", raw_header('{"w": 5}'), CheckpointError, "data_offsets"),
    Case("overlapping tensors", two_entries([0, 4], [2, 6]), CheckpointError, "byte 2"),
    Case("the same bytes twice", two_entries([0, 4], [0, 4], 4), CheckpointError, "byte 0"),
    Case("hole between tensors", two_entries([0, 4], [8, 12], 12), CheckpointError, "byte 8"),
    Case("tail behind the tensors", two_entries([0, 4], [4, 8], 9), CheckpointError, "bytes"),
    Case("truncated data", two_entries([0, 4], [4, 8], 7), CheckpointError, "incomplete"),
    Case("header longer than the file", header_longer_than_file, CheckpointError, "1048576"),
    Case("header of 16 exabytes", header_of_16_exabytes, CheckpointError, "header"),
    Case("header over the limit", header_over_the_limit, CheckpointError, "41943040"),
    Case("header is a list", raw_header("[]"), CheckpointError, "begin with an object"),
    Case("header is no JSON", raw_header('{"w"'), CheckpointError, "JSON"),
    Case("header with two objects", raw_header("{}{}"), CheckpointError, "JSON"),
    Case("header not UTF-8", raw_header('{"\xff": 1}'), CheckpointError, "utf-8"),
    Case("header nested deep", raw_header('{"a":' * 200_000), CheckpointError, "deeply"),
    Case("duplicate tensor", raw_header('{"w": {}, "w": {}}'), CheckpointError, "twice"),
    Case("duplicate key", raw_header('{"w": {"dtype": 1, "dtype": 2}}'), CheckpointError, "twice"),
    Case("metadata of numbers", raw_header('{"__metadata__": {"a": 1}}'), CheckpointError, "text"),
    Case("NaN offset", raw_header('{"w": {"data_offsets": [NaN]}}'), CheckpointError, "NaN"),
    Case("number of 5000 digits", raw_header('{"w": %s}' % ("9" * 5000)), CheckpointError, "JSON"),
    Case(
        "line break in a name", raw_header('{"a\\nb\\u001b[2J": 5}'), CheckpointError, "a\\nb\\x1b"
    ),
    Case("empty file", empty_file, CheckpointError, "empty"),
    Case("seven bytes", seven_bytes, CheckpointError, "header"),
    Case("git-LFS pointer", git_lfs_pointer, CheckpointError, "git lfs pull"),
    Case("web page", web_page, CheckpointError, "web page"),
    Case("pickle called .safetensors", pickle_called_safetensors, UnsafeFileError, "system"),
    Case("zip called .safetensors", zip_called_safetensors, UnsafeFileError, "zip"),
]


def sharded(folder: Path, weight_map: object, shards: dict[str, list[str]]) -> Path:
    (folder / "config.json").write_text("{}")
    for file_name, names in shards.items():
        tensors = {n: {**ENTRY, "data_offsets": [4 * i, 4 * i + 4]} for i, n in enumerate(names)}
        header = json.dumps(tensors).encode()
        data = struct.pack("<Q", len(header)) + header + bytes(4 * len(names))
        (folder / file_name).write_bytes(data)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def index(weight_map: object, **shards: list[str]) -> Callable[[Path], Path]:
    return lambda folder: sharded(
        folder, weight_map, {f"{name}.safetensors": names for name, names in shards.items()}
    )


def config(text: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        entries(folder, ONE_FLOAT, w=ENTRY)
        (folder / "config.json").write_bytes(text.encode("latin-1"))
        return folder

    return make


def no_config(folder: Path) -> Path:
    entries(folder, ONE_FLOAT, w=ENTRY)
    return folder


def dangling_link(folder: Path) -> Path:
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").symlink_to("../blobs/0123")
    return folder


def only_pytorch_bin(folder: Path) -> Path:
    (folder / "pytorch_model.bin").write_bytes(PICKLES["os.system"](folder))
    return folder


def two_ggufs(folder: Path) -> Path:
    (folder / "model-Q4.gguf").touch()
    (folder / "model-Q8.gguf").touch()
    return folder


A = "a.safetensors"
FOLDERS = [
    Case("missing shard", index({"x": A, "y": "b.safetensors"}, a=["x"]), CheckpointError, "b.saf"),
    Case("index to a parent", index({"x": "../a.safetensors"}), UnsafeFileError, "../a"),
    Case("index to an absolute path", index({"x": "/etc/passwd"}), UnsafeFileError, "/etc/passwd"),
    Case("index to a windows path", index({"x": "..\\a"}), UnsafeFileError, "same folder"),
    Case("index to the folder", index({"x": ".."}), UnsafeFileError, "same folder"),
    Case("index to a number", index({"x": 5}), UnsafeFileError, "same folder"),
    Case("index without a map", index(None), CheckpointError, "weight_map"),
    Case("index names too much", index({"x": A, "y": A}, a=["x"]), CheckpointError, "y"),
    Case("index names too little", index({"x": A}, a=["x", "y"]), CheckpointError, "tensor y"),
    Case(
        "one tensor in two shards",
        index({"x": A, "y": "b.safetensors"}, a=["x"], b=["x", "y"]),
        CheckpointError,
        "tensor x of b",
    ),
    Case("config with NaN", config('{"eps": NaN}'), CheckpointError, "NaN"),
    Case("config with -Infinity", config('{"eps": -Infinity}'), CheckpointError, "-Infinity"),
    Case("config with 1e999", config('{"eps": 1e999}'), CheckpointError, "1e999"),
    Case(
        "config with a key twice", config('{"a": 1, "a": 2}'), CheckpointError, "'a' appears twice"
    ),
    Case("config is a list", config("[1]"), CheckpointError, "list"),
    Case("config of 5 MB", config('{"a": "%s"}' % ("x" * (5 << 20))), CheckpointError, "4194304"),
    Case("config not UTF-8", config('{"a": "\xff"}'), CheckpointError, "utf-8"),
    Case("config nested deep", config("[" * 200_000), CheckpointError, "deeply"),
    Case("no config", no_config, CheckpointError, "config.json"),
    Case("link that leads nowhere", dangling_link, CheckpointError, "No such file"),
    Case("only pytorch_model.bin", only_pytorch_bin, CheckpointError, "safetensors"),
    Case("two GGUF models", two_ggufs, CheckpointError, "model-Q4.gguf, model-Q8.gguf"),
    Case("nothing", lambda folder: folder, CheckpointError, "looked for model.safetensors"),
]
