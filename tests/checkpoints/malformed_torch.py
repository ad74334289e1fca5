"""Malformed and hostile torch files, made on the fly."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from hostile_pickles import PICKLES, table_of
from malformed_case import Case

from bobot.errors import CheckpointError, UnsafeFileError


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
