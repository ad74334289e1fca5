"""Join a family's definition with a checkpoint's tensors: a model that runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bobot.errors import UsageError
from bobot.layers.linear import Embedding
from bobot.quant.tiles import Activations, takes_integers, tiled, with_activations
from bobot.quant.weight import QuantWeight, Weight
from bobot.weights.source import DTYPES, ModelSource, model_dtype, open_model, split_name
from bobot.weights.tile_cache import PlannedTiles, plan_tiles, tiles_of

Progress = Callable[[int, int], None]
Change = Callable[[str, Weight], Weight]


@dataclass(frozen=True)
class LoadReport:
    """What was loaded and what was decided on the way."""

    family: str
    dialect: str
    dtype: torch.dtype
    num_parameters: int
    num_bytes: int
    """Of the weights as published."""
    ignored: tuple[str, ...]
    generation_config: dict[str, Any]


def load_model(
    path: str | Path,
    device: str = "cpu",
    dtype: str | torch.dtype | None = None,
    progress: Progress | None = None,
    change: Callable[[ModelSource], Change] | None = None,
    tiles: bool = True,
    activations: Activations = None,
) -> tuple[Any, LoadReport]:
    """The model of a checkpoint folder or file, in eval mode, without gradients.

    dtype None keeps the checkpoint's own (`source.model_dtype`); tensors already in that dtype stay
    memory-mapped. `progress(done, total)` counts parameters. `change` makes the
    function that each weight passes when it is read. `tiles`: packed weights are put into the order
    in which they are multiplied (weights/tile_cache.py), else they stay mapped as published.
    `activations`: "int8" rounds what is multiplied with packed weights to 8 bits, which is coarser
    than any dtype and faster.
    Raises ConfigError, CheckpointError (a missing, unexpected or misshapen tensor, by name).
    """
    target = torch_dtype(dtype)
    with open_model(path) as source:
        ignored = source.ignored()
        is_on_cpu = torch.device(device).type == "cpu"
        plan = plan_tiles(source) if tiles and is_on_cpu and change is None else {}
        state, sizes = _read_all(source, plan, progress, change)
        source.check_tied()
        if target is None:
            target = model_dtype((name, weight, sizes[name]) for name, weight in state.items())
        generation_config = dict(source.checkpoint.generation_config)
        model, family, form = source.model, source.family, source.checkpoint.dialect
    num_bytes = 0
    for name, weight in state.items():
        placed = _placed(model, name, weight, device, target)
        num_bytes += sizes[name] if name in plan else placed.nbytes
        if isinstance(placed, QuantWeight) and tiles and change is not None:
            placed = tiled(placed)
        state[name] = placed
    if activations is not None:
        state = _with_activations(state, activations, target)
    _assign(model, state, target)
    model.eval().requires_grad_(False)
    report = LoadReport(
        family=family.name,
        dialect=form,
        dtype=target,
        num_parameters=sum(weight.numel() for weight in state.values()),
        num_bytes=num_bytes,
        ignored=ignored,
        generation_config=generation_config,
    )
    return model, report


def torch_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """The torch dtype of a name. Raises UsageError for one that models can't run in."""
    if dtype is None or dtype in DTYPES.values():
        return dtype  # pyright: ignore[reportReturnType]
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise UsageError(
            "dtype is {found!r}; allowed: {allowed}, or none for the checkpoint's own.",
            found=name,
            allowed=", ".join(DTYPES),
        )
    return DTYPES[name]


def _read_all(
    source: ModelSource,
    plan: Mapping[str, PlannedTiles],
    progress: Progress | None,
    change: Callable[[ModelSource], Change] | None,
) -> tuple[dict[str, Weight], dict[str, int]]:
    """Every parameter by name, the planned ones as tiles, and its bytes as published."""
    changed = None if change is None else change(source)
    names = [name for name, _ in source.model.named_parameters()]

    def report(done: int) -> None:
        if progress is not None:
            progress(done, len(names))

    found: dict[str, Weight] = dict(tiles_of(source, plan, report)) if plan else {}
    state: dict[str, Weight] = {}
    for done, name in enumerate(names):
        weight = found[name] if name in found else source.read(name)
        state[name] = weight if changed is None else changed(name, weight)
        report(max(done + 1, len(found)))
    sizes = {
        name: plan[name].published_bytes if name in plan else weight.nbytes
        for name, weight in state.items()
    }
    return state, sizes


def _placed(
    model: nn.Module, name: str, weight: Weight, device: str, target: torch.dtype
) -> Weight:
    """The weight on the device, in the dtype that the model wants it in."""
    template, _ = split_name(name)
    if isinstance(weight, QuantWeight):
        if template not in getattr(model, "unpacked_parameters", ()):
            return weight.to(device)
        weight = weight.dequantize()
    is_float32 = template in getattr(model, "float32_parameters", ())
    return weight.to(device=device, dtype=torch.float32 if is_float32 else target)


def _with_activations(
    state: Mapping[str, Weight], activations: Activations, dtype: torch.dtype
) -> dict[str, Weight]:
    """The weights, tiles with the activations that were chosen. UsageError where that is no choice:
    float32 was, or no weight is packed.
    """
    if activations not in ("int8", None):
        raise UsageError("activations is {found!r}; allowed: int8, or none.", found=activations)
    if dtype == torch.float32:
        raise UsageError(
            "activations is int8, and this model computes in float32.",
            hint="Leave one of them out: float32 is for precision, int8 for speed.",
        )
    changed: dict[str, Weight] = {
        name: with_activations(weight, activations)
        for name, weight in state.items()
        if isinstance(weight, QuantWeight) and takes_integers(weight)
    }
    if not changed:
        raise UsageError(
            "activations is int8, and no weight of this model has a product for it here.",
            hint="It needs weights packed as integers (such as Q4_0 or int4), the kernels and"
            " vector instructions.",
        )
    return {**state, **changed}


def _assign(model: nn.Module, state: dict[str, Weight], dtype: torch.dtype) -> None:
    """Put the weights in place of the meta parameters, tied ones in every place."""
    places: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        places.setdefault(id(parameter), []).append(name)
    for names in places.values():
        weight = state[next(name for name in names if name in state)]
        if isinstance(weight, Tensor):
            weight = nn.Parameter(weight, requires_grad=False)
        for name in names:
            path, _, leaf = name.rpartition(".")
            owner = model.get_submodule(path)
            delattr(owner, leaf)
            setattr(owner, leaf, weight)
            if isinstance(owner, Embedding):
                owner.dtype = dtype
