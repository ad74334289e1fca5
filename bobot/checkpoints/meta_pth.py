"""Meta's published form: `consolidated.NN.pth` for each model-parallel rank, and `params.json`.

A .pth is a zip file as torch.save writes it since version 1.6: data.pkl names the tensors,
data/KEY hold their bytes. The zip is checked member by member (zip_members.py), the pickle is read
as data (tensor_pickle.py), the tensors are mapped. A member's checksum is compared when its tensor
is first read. Not for torch's older container, TorchScript, or any other pickle: those are
refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from bobot.checkpoints.mapped import MappedFile
from bobot.checkpoints.stored import StoredTensor, dtype_name, num_elements, shown
from bobot.checkpoints.tensor_pickle import TensorRef, no_zip, read_tensor_pickle
from bobot.checkpoints.zip_members import Member, read_members, verify
from bobot.errors import CheckpointError, UnsafeFileError

_SHARD = re.compile(r"consolidated\.(\d\d)\.pth")
_MEMBER = re.compile(
    r"data/\d+|version|byteorder|\.format_version|\.storage_alignment|\.data/serialization_id"
)


def shard_paths(folder: Path) -> list[Path]:
    """consolidated.00.pth, .01.pth ... in order; empty when there is none. Raises CheckpointError
    for a gap."""
    found = {
        int(match[1]): path
        for path in folder.iterdir()
        if (match := _SHARD.fullmatch(path.name)) is not None
    }
    missing = sorted(set(range(max(found, default=-1) + 1)) - found.keys())
    if missing:
        raise CheckpointError(
            "{folder}: consolidated.{rank:02d}.pth is missing; the files go up to {last:02d}",
            hint="Download the missing file; the others can stay.",
            folder=folder,
            rank=missing[0],
            last=max(found),
        )
    return [found[rank] for rank in sorted(found)]


def read_pth(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one .pth file. Raises UnsafeFileError for code, CheckpointError for damage."""
    file = MappedFile(path)
    if file.read(0, 4) != b"PK\3\4":
        raise no_zip(file)
    members = _without_folder(path, read_members(file))
    pickle_member = members.pop("data.pkl")
    verify(file, pickle_member)
    _check_byte_order(file, members)
    tensors = read_tensor_pickle(
        path, file.read(pickle_member.start, pickle_member.start + pickle_member.num_bytes)
    )
    verified: set[str] = set()
    return {
        name: _stored(file, _storage_member(path, name, ref, members), ref, verified)
        for name, ref in tensors.items()
    }


def _without_folder(path: Path, members: dict[str, Member]) -> dict[str, Member]:
    """Members by their name in the archive's folder; others than torch.save's are refused."""
    folder = next(iter(members), "").partition("/")[0] + "/"
    if f"{folder}data.pkl" not in members:
        raise CheckpointError("{file} has no data.pkl; it is not a torch file", file=path)
    found: dict[str, Member] = {}
    for full_name, member in members.items():
        name = full_name.removeprefix(folder)
        if name == full_name or (name != "data.pkl" and _MEMBER.fullmatch(name) is None):
            raise UnsafeFileError(
                "{file} contains {name}, which torch.save does not write for tensors",
                hint="Get the model as safetensors.",
                file=path,
                name=shown(full_name),
            )
        found[name] = member
    return found


def _check_byte_order(file: MappedFile, members: dict[str, Member]) -> None:
    if member := members.get("byteorder"):
        order = file.read(member.start, min(member.start + member.num_bytes, member.start + 16))
        if order != b"little":
            raise CheckpointError(
                "{file}: byte order {found!r}; bobot reads 'little'", file=file.path, found=order
            )


def _storage_member(path: Path, name: str, ref: TensorRef, members: dict[str, Member]) -> Member:
    member = members.get(f"data/{ref.storage_key}")
    wanted = ref.storage_elements * ref.dtype.itemsize
    if member is None or member.num_bytes != wanted:
        raise CheckpointError(
            "{file}: storage {key} of tensor {name} has {found} bytes; the pickle says {wanted}",
            hint="The file is damaged; download it again.",
            file=path,
            key=shown(ref.storage_key),
            name=shown(name),
            found=member.num_bytes if member else "no",
            wanted=wanted,
        )
    return member


def _stored(file: MappedFile, member: Member, ref: TensorRef, verified: set[str]) -> StoredTensor:
    count = num_elements(ref.shape)
    assert count is not None
    num_bytes = count * ref.dtype.itemsize
    load = _loader(file, member, ref, verified)
    return StoredTensor(ref.shape, dtype_name(ref.dtype), num_bytes, load)


def _loader(
    file: MappedFile, member: Member, ref: TensorRef, verified: set[str]
) -> Callable[[], Tensor]:
    def load() -> Tensor:
        if member.name not in verified:
            verify(file, member)
            verified.add(member.name)
        if _is_contiguous(ref):
            return file.tensor(member.start + ref.offset * ref.dtype.itemsize, ref.dtype, ref.shape)
        storage = file.tensor(member.start, ref.dtype, (ref.storage_elements,))
        return storage.as_strided(ref.shape, ref.strides, ref.offset).contiguous()

    return load


def _is_contiguous(ref: TensorRef) -> bool:
    if 0 in ref.shape:
        return True
    expected = 1
    for size, stride in zip(reversed(ref.shape), reversed(ref.strides), strict=True):
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True
