"""What every reader hands over: the tensors of one checkpoint by name, lazily, in the dialect they
were published in.

A reader (one per file format) fills a `Checkpoint` with `StoredTensor`s; reading happens here.
Nothing in this package knows a model: which names must exist, and with which shapes, is asked by
the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from bobot.errors import CheckpointError
from bobot.quant.weight import Weight

Shape = tuple[int, ...]

MAX_DIMS = 8
"""No published model has a tensor with more axes; a file that claims more is damaged."""

MAX_ELEMENTS = 1 << 48
"""More elements than any file can hold; sizes are checked against it first."""


@dataclass(frozen=True)
class TensorInfo:
    """One tensor as stored. dtype is the torch name ("bfloat16") or the GGUF block type ("Q4_K").

    Of a tensor that is cut over several model-parallel files, shape is that of the first file's
    part and num_bytes is the sum of all parts.
    """

    name: str
    shape: Shape
    dtype: str
    num_bytes: int


@dataclass(frozen=True)
class StoredTensor:
    """One tensor in one file; `load()` gives it with exactly `shape`."""

    shape: Shape
    dtype: str
    num_bytes: int
    load: Callable[[], Weight]


class Checkpoint:
    """The files of one model, opened for reading. A context manager.

    dialect is "hf", "meta", "mistral", "openai", "xai" or "gguf" and says whose names the tensors
    carry; config is the raw config.json, params.json or GGUF metadata; num_shards counts Meta's
    model-parallel files.
    """

    def __init__(
        self,
        path: Path,
        dialect: str,
        shards: Sequence[Mapping[str, StoredTensor]],
        config: Mapping[str, Any],
        generation_config: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = path
        self.dialect = dialect
        self.config = dict(config)
        self.generation_config = dict(generation_config or {})
        self.num_shards = len(shards)
        self._parts = _parts_by_name(path, shards)
        self.tensors = {name: _info(name, parts) for name, parts in self._parts.items()}

    def read(self, name: str, shape: Sequence[int]) -> Tensor:
        """The values of `read_weight`: packed blocks come as float32."""
        weight = self.read_weight(name, shape)
        return weight if isinstance(weight, Tensor) else weight.dequantize()

    def read_weight(self, name: str, shape: Sequence[int]) -> Weight:
        """The tensor `name` with exactly `shape`, as stored; memory-mapped when in one piece.

        A mapped tensor may be written to (its pages are then copied, the file stays as it is).
        Parts of Meta's model-parallel files are joined along the axis on which they add up to
        `shape`; parts that each have the full shape are copies and must be equal. GGUF block types
        and Grok's 8-bit weights come as they are packed. Raises CheckpointError for an unknown
        name or another shape.
        """
        wanted = tuple(shape)
        parts = self._parts.get(name)
        if parts is None:
            raise CheckpointError("{path} has no tensor {name}", path=self.path, name=shown(name))
        if all(part.shape == wanted for part in parts):
            return self._replicated(name, parts)
        axis = _joining_axis([part.shape for part in parts], wanted)
        if axis is None:
            raise CheckpointError(
                "{path}: tensor {name} is stored as {found}, but the config asks for {wanted}",
                hint="The config belongs to another model, or a file of this one is missing.",
                path=self.path,
                name=shown(name),
                found=_shapes_text([part.shape for part in parts]),
                wanted=list(wanted),
            )
        return torch.cat([_dense(part) for part in parts], dim=axis)

    def _replicated(self, name: str, parts: Sequence[StoredTensor]) -> Weight:
        if len(parts) == 1:
            return parts[0].load()
        first = _dense(parts[0])
        for rank, part in enumerate(parts[1:], start=1):
            if not torch.equal(_bits(first), _bits(_dense(part))):
                raise CheckpointError(
                    "{path}: tensor {name} should be the same in every file, "
                    "but file 0 and file {rank} differ",
                    hint="The files come from different models; download them again.",
                    path=self.path,
                    name=shown(name),
                    rank=rank,
                )
        return first

    def close(self) -> None:
        """Forget the files. Tensors read before stay valid: each keeps its own mapping alive."""
        self._parts = {}
        self.tensors = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def shown(text: object, limit: int = 120) -> str:
    """A name from a file, safe to print in one line: control characters escaped, long text cut."""
    escaped = ascii(str(text))[1:-1]
    return escaped if len(escaped) <= limit else escaped[:limit] + "..."


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def num_elements(shape: Sequence[int]) -> int | None:
    """The product of the axes; None where their number, one of them or the product is absurd."""
    if len(shape) > MAX_DIMS:
        return None
    count = 1
    for size in shape:
        if type(size) is not int or not 0 <= size <= MAX_ELEMENTS:
            return None
        count *= size
    return count if count <= MAX_ELEMENTS else None


def _parts_by_name(
    path: Path, shards: Sequence[Mapping[str, StoredTensor]]
) -> dict[str, list[StoredTensor]]:
    for rank, shard in enumerate(shards):
        if odd := sorted(shards[0].keys() ^ shard.keys()):
            raise CheckpointError(
                "{path}: tensor {name} is in only one of file 0 and file {rank}",
                hint="The files come from different models; download them again.",
                path=path,
                name=shown(odd[0]),
                rank=rank,
            )
        for name, part in shard.items():
            if part.dtype != shards[0][name].dtype:
                raise CheckpointError(
                    "{path}: tensor {name} is {first} in file 0 and {other} in file {rank}",
                    hint="The files come from different models; download them again.",
                    path=path,
                    name=shown(name),
                    first=shards[0][name].dtype,
                    other=part.dtype,
                    rank=rank,
                )
    return {name: [shard[name] for shard in shards] for name in shards[0]}


def _info(name: str, parts: Sequence[StoredTensor]) -> TensorInfo:
    num_bytes = sum(part.num_bytes for part in parts)
    return TensorInfo(name, parts[0].shape, parts[0].dtype, num_bytes)


def _joining_axis(shapes: Sequence[Shape], wanted: Shape) -> int | None:
    """The one axis on which `shapes` add up to `wanted` while all other axes agree."""
    for axis in range(len(wanted)):
        others = wanted[:axis] + wanted[axis + 1 :]
        fits = all(
            len(shape) == len(wanted) and shape[:axis] + shape[axis + 1 :] == others
            for shape in shapes
        )
        if fits and sum(shape[axis] for shape in shapes) == wanted[axis]:
            return axis
    return None


def _shapes_text(shapes: Sequence[Shape]) -> str:
    if len(set(shapes)) == 1 and len(shapes) > 1:
        return f"{len(shapes)} x {list(shapes[0])}"
    return " + ".join(str(list(shape)) for shape in shapes[:8])


def _dense(part: StoredTensor) -> Tensor:
    """A part of a model-parallel file, which are never packed."""
    weight = part.load()
    assert isinstance(weight, Tensor)
    return weight


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.uint8)
