"""A model written with fewer bits per weight, as a Hugging Face folder that other tools read.

What becomes smaller are the matrices of the layers and their experts; embeddings, output, routers
and norms stay as they are. Rounding to nearest streams one tensor at a time; with calibration
(calibration.py) the packed matrices are in memory until they are written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bobot.checkpoints.safetensors import CODES
from bobot.checkpoints.writing import PlannedTensor
from bobot.errors import UsageError
from bobot.quant.grid import GRIDS, GROUP, Grid, packed_shape, round_to_nearest
from bobot.quant.weight import QuantWeight, Weight, stack, values_of
from bobot.text import Tokenizer
from bobot.weights.export import ExportReport, Progress, check_destination, target_tensors, unpacked
from bobot.weights.export_hf import hf_dialect, hf_settings, write_folder
from bobot.weights.packing import packed_parts, packing_settings
from bobot.weights.source import ModelSource

_ROUTERS = (".gate.weight", ".router.weight")


@dataclass
class QuantizeReport(ExportReport):
    """What became smaller, and what did not."""

    num_packed: int = 0
    """Matrices, each expert counted."""
    num_plain_bytes: int = 0
    """What all weights would take in bf16."""
    left: list[str] = field(default_factory=list)
    """Matrices whose number of inputs is no multiple of the group."""


def grid_named(name: str) -> Grid:
    """Raises UsageError for a format that is not offered."""
    if name not in GRIDS:
        raise UsageError(
            "quantize is {found!r}; allowed: {allowed}.", found=name, allowed=", ".join(GRIDS)
        )
    return GRIDS[name]


def quantizable(model: nn.Module) -> dict[str, bool]:
    """Names of the matrices that may become smaller -> whether their inputs make whole groups."""
    found: dict[str, bool] = {}
    for name, parameter in model.named_parameters():
        path, _, leaf = name.rpartition(".")
        is_linear = isinstance(model.get_submodule(path), nn.Linear) and leaf == "weight"
        is_stack = parameter.ndim == 3
        is_inside = ".layers." in name and not name.endswith(_ROUTERS)
        if is_inside and (is_linear or is_stack):
            found[name] = parameter.shape[-1] % GROUP == 0
    return found


def rounded(weight: Weight, grid: Grid) -> QuantWeight:
    """A matrix or a stack rounded to nearest, expert by expert."""
    if weight.ndim == 3:
        packed = stack([rounded(weight[e], grid) for e in range(weight.shape[0])])
        assert isinstance(packed, QuantWeight)
        return packed
    return round_to_nearest(values_of(weight), grid)


def rounding_at_load(grid: Grid) -> Callable[[ModelSource], Callable[[str, Weight], Weight]]:
    """`change` of load_model: matrices rounded to nearest; what is packed stays as it is."""

    def of_source(source: ModelSource) -> Callable[[str, Weight], Weight]:
        names = quantizable(source.model)

        def change(name: str, weight: Weight) -> Weight:
            is_plain = isinstance(weight, Tensor)
            return rounded(weight, grid) if is_plain and names.get(name) else weight

        return change

    return of_source


def quantize_model(
    source: ModelSource,
    tokenizer: Tokenizer | None,
    path: Path,
    grid: Grid,
    calibrated: Mapping[str, QuantWeight] | None = None,
    progress: Progress | None = None,
) -> QuantizeReport:
    """Writes the model into the new folder `path`. `calibrated` has weights rounded already; all
    others are rounded to nearest. Raises UsageError where nothing can become smaller.
    """
    check_destination(path)
    source.ignored()
    source.check_tied()
    names = names_to_pack(source.model, source.family.name, grid)
    report = QuantizeReport(left=[name for name, is_whole in names.items() if not is_whole])
    chosen = {name for name, is_whole in names.items() if is_whole}
    view = _Rounded(source, grid, chosen, calibrated or {})
    family = source.family.name
    plan: dict[str, PlannedTensor] = {}
    plain = ["lm_head"]  # where it is tied, no tensor says so
    packed: QuantWeight | None = None
    for tensor in target_tensors(view, hf_dialect(source)):
        count = torch.Size(tensor.shape).numel()
        report.num_plain_bytes += count * torch.bfloat16.itemsize
        if isinstance(tensor.sample, QuantWeight) and view.is_chosen(tensor.sample):
            packed = tensor.sample
            report.num_packed += tensor.shape[0] if len(tensor.shape) == 3 else 1
            for suffix, part in (packed_parts(packed, family) or {}).items():
                shape = tuple(part.shape)
                read = partial(_parts, tensor.read, suffix, family)
                plan[tensor.name + suffix] = PlannedTensor(CODES[part.dtype], shape, read)
            continue
        kind = "BF16"
        if isinstance(tensor.sample, QuantWeight):
            report.unpacked[tensor.sample.format.name] += 1
        else:
            kind = CODES[tensor.sample.dtype]
        module = tensor.name.removesuffix(".weight")
        if len(tensor.shape) == 2 and module not in plain:
            plain.append(module)
        plan[tensor.name] = PlannedTensor(kind, tensor.shape, partial(unpacked, tensor.read))
    if packed is None:
        raise UsageError(
            "{name} has no matrix of whole groups of {group} inputs: nothing can become smaller.",
            name=source.name,
            group=GROUP,
        )
    settings = hf_settings(source, tokenizer, plan)
    settings["quantization_config"] = packing_settings(packed, family, plain)
    write_folder(source, tokenizer, path, settings, plan, report, progress)
    return report


def names_to_pack(model: nn.Module, family: str, grid: Grid) -> dict[str, bool]:
    """`quantizable`, as far as the family's files can hold it: gpt-oss has a published form for its
    experts in MXFP4, and for nothing else.
    """
    names = quantizable(model)
    if family != "gpt_oss":
        return names
    if grid.name != "mxfp4":
        raise UsageError(
            "gpt-oss to {asked}: no other program reads its experts so; allowed: mxfp4.",
            hint="Its published files are mxfp4 already.",
            asked=grid.name,
        )
    return {name: names[name] for name in names if model.get_parameter(name).ndim == 3}


@dataclass(frozen=True)
class _Rounded:
    """The source's weights, the chosen ones rounded when they are asked for."""

    source: ModelSource
    grid: Grid
    chosen: set[str]
    done: Mapping[str, QuantWeight]

    @property
    def model(self) -> Any:
        return self.source.model

    @property
    def config(self) -> Any:
        return self.source.config

    def is_chosen(self, weight: QuantWeight) -> bool:
        """Whether the sample is one of `sample`'s for a chosen weight: those have no values."""
        return weight.device.type == "meta"

    def sample(self, name: str) -> Weight:
        if name not in self.chosen:
            return self.source.sample(name)
        return packed_shape(tuple(self.model.get_parameter(name).shape), self.grid)

    def read(self, name: str) -> Weight:
        if name in self.done:
            return self.done[name]
        weight = self.source.read(name)
        return rounded(weight, self.grid) if name in self.chosen else weight

    def read_expert(self, name: str, e: int) -> Weight:
        if name in self.done:
            return self.done[name][e]
        weight = self.source.read_expert(name, e)
        return rounded(weight, self.grid) if name in self.chosen else weight


def _parts(read: Any, suffix: str, family: str) -> Any:
    for piece in read():
        yield (packed_parts(piece, family) or {})[suffix]
