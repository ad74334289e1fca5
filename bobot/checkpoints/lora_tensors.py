"""What every reader of LoRA adapters hands over: two matrices and a scale for each changed layer,
under the name that the file gives the layer. Which layers there are, the caller knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bobot.checkpoints.stored import StoredTensor, shown
from bobot.errors import CheckpointError

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class StoredLora:
    """The change scale * B @ A of one layer's weight (out, in)."""

    a: StoredTensor
    """(rank, in)."""
    b: StoredTensor
    """(out, rank)."""
    scale: float

    @property
    def rank(self) -> int:
        return self.a.shape[0]


@dataclass(frozen=True)
class LoraFile:
    path: Path
    dialect: str
    """Whose names the layers have: "hf" or "gguf"."""
    layers: Mapping[str, StoredLora]

    @property
    def num_elements(self) -> int:
        """Of all matrices."""
        shapes = [part.shape for layer in self.layers.values() for part in (layer.a, layer.b)]
        return sum(rows * columns for rows, columns in shapes)


def paired(
    path: Path, tensors: Mapping[str, StoredTensor], prefix: str, endings: tuple[str, str]
) -> dict[str, tuple[StoredTensor, StoredTensor]]:
    """A and B of each layer, by its name between `prefix` and the `endings` of A and B.

    Raises CheckpointError for any other tensor, a matrix without its other half, one of another
    dtype, and two that can't be multiplied.
    """
    halves: tuple[dict[str, StoredTensor], ...] = ({}, {})
    for name, stored in tensors.items():
        which = next((n for n, ending in enumerate(endings) if name.endswith(ending)), None)
        if which is None or not name.startswith(prefix):
            raise CheckpointError(
                "{path}: the tensor {name} is no matrix of a LoRA adapter.",
                hint="Only changes of linear layers are supported: no trained embeddings, biases"
                " or whole modules. Merge the adapter into its model, and load that.",
                path=path,
                name=shown(name),
            )
        if stored.dtype not in DTYPES or len(stored.shape) != 2 or 0 in stored.shape:
            raise CheckpointError(
                "{path}: the tensor {name} is {found} {shape}; a matrix of an adapter has two axes"
                " and is {allowed}.",
                path=path,
                name=shown(name),
                found=stored.dtype,
                shape=list(stored.shape),
                allowed=", ".join(DTYPES),
            )
        layer = name[len(prefix) : -len(endings[which])]
        halves[which][layer] = stored
    if not tensors:
        raise CheckpointError("{path} holds no tensors.", path=path)
    return {layer: _pair(path, layer, halves) for layer in sorted({**halves[0], **halves[1]})}


def _pair(
    path: Path, layer: str, halves: tuple[dict[str, StoredTensor], ...]
) -> tuple[StoredTensor, StoredTensor]:
    a, b = (half.get(layer) for half in halves)
    if a is None or b is None:
        raise CheckpointError(
            "{path}: of the two matrices for {layer} one is missing.",
            hint="The download is incomplete or damaged; download it again.",
            path=path,
            layer=shown(layer),
        )
    if a.shape[0] != b.shape[1]:
        raise CheckpointError(
            "{path}: the matrices for {layer}, {a} and {b}, can't be multiplied.",
            path=path,
            layer=shown(layer),
            a=list(a.shape),
            b=list(b.shape),
        )
    return a, b
