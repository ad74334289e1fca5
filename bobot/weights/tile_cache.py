"""The tiles of a model, kept on disk: made once, then mapped into memory and shared by all
processes that run the model, so that a load neither rearranges nor copies anything.

One safetensors file per checkpoint in the user's cache folder, named after what the checkpoint's
files are (path, size, time of change) and what is made of them. Tensors begin at pages of 4096
bytes, the experts of a stack lie behind one another. Deleting the folder loses nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from bobot import hardware
from bobot.checkpoints.safetensors import read_safetensors, stream_safetensors
from bobot.checkpoints.writing import PlannedTensor
from bobot.errors import BobotError, CheckpointError, StorageError
from bobot.hub.made import forget, forget_missing, made_from, remember_source
from bobot.layers.linear import Linear
from bobot.ops.linear import HALF_DTYPES, has_amx
from bobot.paths import make_private_folder, user_paths
from bobot.quant.tiles import TileLayout, tile_layout, tiled, weight_from_tiles
from bobot.quant.weight import QuantWeight, Weight
from bobot.weights.source import ModelSource, split_name

VERSION = 1
"""Of the order inside tiles (kernels/csrc/tiles.h) and of this file's layout."""
PAGE_BYTES = 4096
SMALL_BYTES = 256 << 20
"""Up to here tiles are made again at each load: that takes a fraction of a second."""
MIN_OUTPUTS = 512
"""Of a plain matrix: more than a router has experts."""
ROOM_BYTES = 2 << 30
"""Stays free on the disk."""

PLAIN_KERNELS = ("bfloat16", "float16")

_log = logging.getLogger("bobot.weights")


@dataclass(frozen=True)
class PlannedTiles:
    """A parameter that can be tiles."""

    layout: TileLayout
    experts: int | None
    """Matrices of a stack; None for a single one."""
    published_bytes: int

    @property
    def shape(self) -> tuple[int, ...]:
        return ((self.experts or 1), self.layout.num_bytes)

    @property
    def num_bytes(self) -> int:
        return (self.experts or 1) * self.layout.num_bytes


def plan_tiles(source: ModelSource) -> dict[str, PlannedTiles]:
    """Which parameters of a checkpoint can be tiles; reads no weights but headers and samples.

    Where packed ones can, the linear layers of 16 bits beside them are tiles as well, so that a
    step in one call takes as many tokens as tiles do. One row reads both forms at the speed of
    memory; with 4 to 32 rows tiles are 3 to 6 times as fast as rows and 1.1 to 1.7 times as torch;
    with 512 rows torch is 1.1 to 1.4 times as fast as tiles (AVX512-BF16; 8192 x 2048).
    Not so a model all in 16 bits: it stays mapped, for tiles would be a second copy on the disk.
    Nor on machines with AMX, where torch has the fastest product of plain bfloat16.
    """
    plan = {}
    layouts: dict[object, tuple[TileLayout | None, float]] = {}
    for name, parameter in source.model.named_parameters():
        template, _ = split_name(name)
        if template in getattr(source.model, "unpacked_parameters", ()):
            continue
        key = (template, tuple(parameter.shape), source.stored_dtypes(name))
        if key not in layouts:
            sample = source.sample(name)
            layout = tile_layout(sample) if _may_be_tiles(source, name, sample) else None
            layouts[key] = layout, sample.nbytes / sample.numel()
        layout, bytes_per_weight = layouts[key]
        if layout is not None:
            experts = parameter.shape[0] if parameter.ndim > 2 else None
            published = round(bytes_per_weight * parameter.numel())
            plan[name] = PlannedTiles(layout, experts, published)
    is_packed = any(planned.layout.kernel not in PLAIN_KERNELS for planned in plan.values())
    return plan if is_packed else {}


def _may_be_tiles(source: ModelSource, name: str, sample: Weight) -> bool:
    """A packed weight, or the plain one of 16 bits of a linear layer. Not that of a router, which
    reads what experts read in a form of their own.
    """
    if isinstance(sample, QuantWeight):
        return True
    template, _ = split_name(name)
    owner = source.model.get_submodule(name.rpartition(".")[0])
    is_float32 = template in getattr(source.model, "float32_parameters", ())
    is_linear = type(owner) is Linear and sample.ndim == 2 and len(sample) >= MIN_OUTPUTS
    return is_linear and sample.dtype in HALF_DTYPES and not is_float32 and not has_amx()


def tiles_of(
    source: ModelSource, plan: Mapping[str, PlannedTiles], progress: Callable[[int], None]
) -> dict[str, QuantWeight]:
    """The planned parameters as tiles: from the cache, into the cache, or in memory alone where the
    model is small or the disk has no room. Empty where memory has none: such a model runs from its
    files as published. `progress` gets the number of parameters done.
    """
    total = sum(planned.num_bytes for planned in plan.values())
    facts = hardware.detect()
    if total > SMALL_BYTES and total > 0.9 * facts.ram_bytes:
        return {}
    if total > SMALL_BYTES:
        path = cache_file(source, plan)
        try:
            if not path.exists():
                _write(path, source, plan, progress)
            return _read(path, plan)
        except BobotError as error:
            _log.warning("tiles are made in memory: %s", error)
        if total > 0.8 * facts.ram_available_bytes:
            return {}
    found = {}
    for done, name in enumerate(plan):
        found[name] = _tiled(source, name)
        progress(done + 1)
    return found


def _tiled(source: ModelSource, name: str) -> QuantWeight:
    weight = tiled(source.read(name))
    assert isinstance(weight, QuantWeight)
    return weight


def cache_file(source: ModelSource, plan: Mapping[str, PlannedTiles]) -> Path:
    """Where the tiles of these files lie, or will."""
    path = source.checkpoint.path.resolve()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    identity: list[object] = [VERSION, str(path)]
    for file in files:
        status = file.stat()
        identity.append((file.name, status.st_size, status.st_mtime_ns))
    identity.append([(name, each.layout.arguments(), each.experts) for name, each in plan.items()])
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    return user_paths().tiles / f"{digest[:32]}.safetensors"


def _write(
    path: Path,
    source: ModelSource,
    plan: Mapping[str, PlannedTiles],
    progress: Callable[[int], None],
) -> None:
    make_private_folder(path.parent)
    forget_missing()
    for older in made_from(source.checkpoint.path):
        forget(older)
    total = sum(planned.num_bytes for planned in plan.values())
    free = hardware.detect(path.parent).disk_free_bytes
    if free < total + ROOM_BYTES:
        raise StorageError(
            "{path}: the tiles of this model take {needed} MiB and {free} MiB are free.",
            path=path.parent,
            needed=total >> 20,
            free=free >> 20,
        )
    done = 0

    def pieces(name: str) -> list[Tensor]:
        nonlocal done
        tiles = _tiled(source, name).parts["tiles"]
        done += 1
        progress(done)
        return [tiles.view(plan[name].shape)]

    def planned(name: str) -> PlannedTensor:
        return PlannedTensor("U8", plan[name].shape, lambda: pieces(name))

    remember_source(path, source.checkpoint.path)
    stream_safetensors(path, {name: planned(name) for name in plan}, alignment=PAGE_BYTES)


def _read(path: Path, plan: Mapping[str, PlannedTiles]) -> dict[str, QuantWeight]:
    stored = read_safetensors(path)
    found = {}
    for name, planned in plan.items():
        tiles = stored[name].load() if name in stored else None
        if not isinstance(tiles, Tensor) or tuple(tiles.shape) != planned.shape:
            raise CheckpointError(
                "{file} does not hold the tiles of {name}.",
                hint="Delete it; it is made again.",
                file=path,
                name=name,
            )
        flat = tiles if planned.experts else tiles[0]
        found[name] = weight_from_tiles(planned.layout, flat)
    return found
