"""Malformed and hostile weight files, made on the fly: one function per file, listed in CASES.

Each function writes into an empty folder and returns what to open. A pickle that would run leaves
a file named `canary` in that folder.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from hostile_pickles import PICKLES, table_of

from bobot.errors import BobotError, CheckpointError, UnsafeFileError

ONE_FLOAT = struct.pack("<f", 1.0)
ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@dataclass(frozen=True)
class Case:
    """What `make` writes must raise `error` with `words` in its message, opened or read."""

    name: str
    make: Callable[[Path], Path]
    error: type[BobotError]
    words: str


# --- safetensors ---------------------------------------------------------------------------------


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


# --- sharded index and config --------------------------------------------------------------------


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


# --- Meta's .pth ---------------------------------------------------------------------------------


def torch_zip(pickled: bytes, storages: dict[str, bytes] | None = None, **options: int) -> bytes:
    """What torch.save would write around a pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for key, data in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", data)
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


def good_zip() -> bytes:
    buffer = io.BytesIO()
    torch.save({"w": torch.arange(64, dtype=torch.float32)}, buffer)
    return buffer.getvalue()


def meta_folder(folder: Path, *files: bytes, names: str = "consolidated.{:02d}.pth") -> Path:
    (folder / "params.json").write_text("{}")
    for rank, data in enumerate(files):
        (folder / names.format(rank)).write_bytes(data)
    return folder


def meta(change: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    return lambda folder: meta_folder(folder, change(good_zip()))


def whole(data: Callable[[], bytes]) -> Callable[[Path], Path]:
    return lambda folder: meta_folder(folder, data())


def saved(value: object, **options: bool) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        buffer = io.BytesIO()
        torch.save(value, buffer, **options)
        return meta_folder(folder, buffer.getvalue())

    return make


def with_member(name: str, data: bytes = b"x") -> Callable[[bytes], bytes]:
    def change(good: bytes) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(good)) as old, zipfile.ZipFile(buffer, "w") as new:
            for member in old.infolist():
                new.writestr(member.filename, old.read(member))
            new.writestr(name, data)
        return buffer.getvalue()

    return change


def flip_data_byte(good: bytes) -> bytes:
    position = good.index(struct.pack("<2f", 1.0, 2.0))
    return good[:position] + b"\xff" + good[position + 1 :]


def flip_pickle_byte(good: bytes) -> bytes:
    return good.replace(b"cpu", b"cpv")


def encrypted(good: bytes) -> bytes:
    position = good.index(b"PK\1\2") + 8
    return good[:position] + bytes([good[position] | 1]) + good[position + 1 :]


def renamed_in_front(good: bytes) -> bytes:
    return good.replace(b"archive/data.pkl", b"archive/data.xkl", 1)


def overlapping(good: bytes) -> bytes:
    """The first member is said to be 4096 bytes longer, so that it covers the second."""
    first = good.index(b"PK\1\2")
    size = struct.unpack_from("<I", good, first + 24)[0] + 4096
    return good[: first + 20] + struct.pack("<2I", size, size) + good[first + 28 :]


def entry_count(good: bytes) -> bytes:
    return good[:-14] + struct.pack("<2H", 65000, 65000) + good[-10:]


def zip_bomb() -> bytes:
    return torch_zip(bytes(50 << 20), compression=zipfile.ZIP_DEFLATED)


def storage_of(num_bytes: int, said: int) -> Callable[[], bytes]:
    return lambda: torch_zip(table_of("FloatStorage", said, (16,), (1,)), {"0": bytes(num_bytes)})


def view(said: int, shape: tuple, strides: tuple, offset: int = 0) -> Callable[[], bytes]:
    pickled = table_of("FloatStorage", said, shape, strides, offset)
    return lambda: torch_zip(pickled, {"0": bytes(4 * said)})


def gap_in_numbers(folder: Path) -> Path:
    meta_folder(folder, good_zip(), good_zip(), good_zip())
    (folder / "consolidated.01.pth").unlink()
    return folder


def other_names_in_shard(folder: Path) -> Path:
    buffer = io.BytesIO()
    torch.save({"v": torch.zeros(4)}, buffer)
    return meta_folder(folder, good_zip(), buffer.getvalue())


def no_params(folder: Path) -> Path:
    meta_folder(folder, good_zip())
    (folder / "params.json").unlink()
    return folder


TORCH_FILES = [
    Case("gap in the numbers", gap_in_numbers, CheckpointError, "consolidated.01.pth"),
    Case("another model's shard", other_names_in_shard, CheckpointError, "file 1"),
    Case("no params.json", no_params, CheckpointError, "params.json"),
    Case("truncated zip", meta(lambda good: good[:-100]), CheckpointError, "zip"),
    Case("first half of a zip", meta(lambda good: good[: len(good) // 2]), CheckpointError, "zip"),
    Case("bytes behind the zip", meta(lambda good: good + b"x"), CheckpointError, "zip"),
    Case(
        "zip behind a pickle", meta(lambda good: b"\x80\2]." + good), UnsafeFileError, "EMPTY_LIST"
    ),
    Case("zip behind zeros", meta(lambda good: bytes(64) + good), CheckpointError, "zip header"),
    Case("damaged tensor", meta(flip_data_byte), CheckpointError, "checksum of archive/data/0"),
    Case("damaged pickle", meta(flip_pickle_byte), CheckpointError, "checksum of archive/data.pkl"),
    Case("encrypted member", meta(encrypted), UnsafeFileError, "encrypted"),
    Case("another name in front", meta(renamed_in_front), UnsafeFileError, "data.pkl"),
    Case("overlapping members", meta(overlapping), UnsafeFileError, "overlaps"),
    Case("65000 members announced", meta(entry_count), CheckpointError, "65000"),
    Case("zip bomb", whole(zip_bomb), UnsafeFileError, "compressed"),
    Case("code member", meta(with_member("archive/code/x.py")), UnsafeFileError, "code/x.py"),
    Case("member outside", meta(with_member("../x")), UnsafeFileError, "../x"),
    Case("constants.pkl", meta(with_member("archive/constants.pkl")), UnsafeFileError, "constants"),
    Case("big-endian", meta(lambda g: with_byte_order(b"big")), CheckpointError, "byte order"),
    Case("no data.pkl", whole(lambda: zip_of("archive/version")), CheckpointError, "data.pkl"),
    Case("storage too short", whole(storage_of(60, 16)), CheckpointError, "60 bytes"),
    Case("storage of 2^60", whole(storage_of(60, 1 << 60)), CheckpointError, "storage"),
    Case("view behind the storage", whole(view(16, (16,), (1,), 1)), CheckpointError, "element 16"),
    Case("stride of 0", whole(view(16, (1 << 30,), (0,))), CheckpointError, "needs element"),
    Case("negative stride", whole(view(16, (4,), (-1,), 8)), CheckpointError, "stride"),
    Case("negative offset", whole(view(16, (4,), (1,), -1)), CheckpointError, "offset"),
    Case(
        "shape of 2^40 x 2^40",
        whole(view(16, (1 << 40, 1 << 40), (0, 0))),
        CheckpointError,
        "shape",
    ),
    Case("shape and strides differ", whole(view(16, (4,), (1, 1))), CheckpointError, "shape"),
    Case(
        "container from before torch 1.6",
        saved({"w": torch.zeros(4)}, _use_new_zipfile_serialization=False),
        CheckpointError,
        "before version 1.6",
    ),
    Case("a list, not a table", saved([torch.zeros(4)]), UnsafeFileError, "EMPTY_LIST"),
    Case("a table of numbers", saved({"w": 5}), CheckpointError, "named tensors"),
    Case("a table of tables", saved({"model": {"w": torch.zeros(2)}}), CheckpointError, "named"),
    Case("a whole module", saved(torch.nn.Linear(2, 2)), UnsafeFileError, "torch.nn"),
]


def with_byte_order(order: bytes) -> bytes:
    pickled = table_of("FloatStorage", 4, (4,), (1,))
    return with_member("archive/byteorder", order)(torch_zip(pickled, {"0": bytes(16)}))


def zip_of(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, "3\n")
    return buffer.getvalue()


def in_zip(pickled: Callable[[Path], bytes]) -> Callable[[Path], Path]:
    return lambda folder: meta_folder(folder, torch_zip(pickled(folder), {"0": bytes(64)}))


def bare(pickled: Callable[[Path], bytes]) -> Callable[[Path], Path]:
    return lambda folder: meta_folder(folder, pickled(folder))


PICKLE_CASES = [
    Case(f"{form} {name}", wrap(make), CheckpointError, "")
    for name, make in PICKLES.items()
    for form, wrap in (("zipped", in_zip), ("bare", bare))
]


# --- GGUF ----------------------------------------------------------------------------------------


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

CASES = [*SAFETENSORS, *FOLDERS, *TORCH_FILES, *PICKLE_CASES, *GGUFS]
