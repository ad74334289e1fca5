"""What each weight of a model takes in the form it is published in, and in the forms it could be
had in: storage and exact bytes. Nothing is loaded; how fast that runs is in speed.py.

Storage is named as elsewhere: a dtype ("bfloat16"), a packed format of quant/ ("int4", "scaled
128x128") or a GGUF block type ("Q4_K").
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import cache, partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from bobot.errors import UsageError
from bobot.models.config import Derived
from bobot.models.registry import Family
from bobot.quant import four_bit_floats, int4, mxfp4, scaled
from bobot.quant.gguf_types import BLOCK_TYPES, weight_from_blocks
from bobot.quant.grid import GRIDS, Grid, packed_shape
from bobot.quant.weight import QuantWeight, Weight
from bobot.weights.quantize import names_to_pack
from bobot.weights.source import DTYPES, ModelSource, model_dtype, source_names, split_name

XAI_BLOCKS = 8
"""Scales per row of the matrices that xAI cuts along their inputs (xai-org/grok-1 `model.py`)."""


class Role(StrEnum):
    """What a parameter is for, as far as its storage and its use depend on it."""

    EXPERTS = "experts"
    """A stack (E, out, in), of which a token passes a few."""
    MATRIX = "matrices"
    """A matrix inside the layers."""
    ROUTER = "routers"
    HEAD = "output"
    """The last matrix; also the embedding, where the two are one."""
    EMBEDDING = "embedding"
    SMALL = "norms and biases"


@dataclass(frozen=True)
class Part:
    """One parameter of the model."""

    name: str
    shape: tuple[int, ...]
    role: Role
    is_float32: bool = False
    """Stays float32 whatever dtype the rest has."""
    is_unpacked: bool = False
    """Plain in memory also where the file has it packed."""

    @property
    def numel(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class Stored:
    """A parameter as it lies in memory once it is loaded. `sample` has its storage and, but for the
    experts of a stack, its shape.
    """

    part: Part
    sample: Weight = field(repr=False)

    @property
    def storage(self) -> str:
        if isinstance(self.sample, QuantWeight):
            return self.sample.format.name
        return str(self.sample.dtype).removeprefix("torch.")

    @property
    def num_bytes(self) -> int:
        return self.sample.nbytes * self.part.numel // self.sample.numel()


@dataclass(frozen=True)
class Form:
    """All parameters in one form."""

    name: str
    dtype: torch.dtype
    """Of activations and KV cache."""
    weights: tuple[Stored, ...]

    @property
    def num_bytes(self) -> int:
        return sum(stored.num_bytes for stored in self.weights)

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.num_bytes / sum(stored.part.numel for stored in self.weights)

    @property
    def main_storage(self) -> str:
        """The storage of most parameters."""
        counts: Counter[str] = Counter()
        for stored in self.weights:
            counts[stored.storage] += stored.part.numel
        return counts.most_common(1)[0][0]

    @property
    def plain_roles(self) -> list[Role]:
        """What is not packed, in a form where most is; empty where nothing is packed."""
        if self.main_storage in DTYPES:
            return []
        found = {stored.part.role for stored in self.weights if stored.storage in DTYPES}
        return [role for role in Role if role in found]


def parts_of(model: nn.Module) -> list[Part]:
    """Every parameter once, in the model's order."""
    owners: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), set()).add(name.rpartition(".")[0])
    stacks = {
        name.rpartition(".")[0]: parameter.shape[0]
        for name, parameter in model.named_parameters()
        if parameter.ndim == 3
    }
    float32 = getattr(model, "float32_parameters", ())
    unpacked = getattr(model, "unpacked_parameters", ())
    parts = []
    for name, parameter in model.named_parameters():
        template, layer = split_name(name)
        modules = [model.get_submodule(owner) for owner in owners[id(parameter)]]
        if parameter.ndim == 3:
            role = Role.EXPERTS
        elif parameter.ndim < 2 or name.rpartition(".")[0] in stacks:
            role = Role.SMALL
        elif all(isinstance(module, nn.Embedding) for module in modules):
            role = Role.EMBEDDING
        elif not layer:
            role = Role.HEAD
        else:
            role = Role.ROUTER if parameter.shape[0] in stacks.values() else Role.MATRIX
        shape = tuple(parameter.shape)
        parts.append(Part(name, shape, role, template in float32, template in unpacked))
    return parts


def form_of_files(name: str, source: ModelSource) -> Form:
    """The form of the files at hand, from their headers: what a load of them takes, to the byte.

    Raises CheckpointError for missing and unexpected tensors.
    """
    source.ignored()
    samples: dict[tuple[object, ...], Weight] = {}
    found: list[tuple[Part, Weight]] = []
    for part in parts_of(source.model):
        dtypes = source.stored_dtypes(part.name)
        key = (split_name(part.name)[0], part.shape, *dtypes)
        if key not in samples:
            is_plain = bool(dtypes) and dtypes[0] in DTYPES
            samples[key] = (
                _meta(1, dtype=DTYPES[dtypes[0]]) if is_plain else source.sample(part.name)
            )
        found.append((part, samples[key]))
    dtype = model_dtype((p.name, sample, Stored(p, sample).num_bytes) for p, sample in found)
    packed = ((part, w if isinstance(w, QuantWeight) else None) for part, w in found)
    return _form(name, dtype, packed)


def published_form(
    name: str, model: nn.Module, family: Family, dialect: str, config: Mapping[str, Any]
) -> Form:
    """The form that a model's settings describe, for files that are not here."""
    settings = config.get("quantization_config")
    dtype = DTYPES.get(str(config.get("torch_dtype") or config.get("dtype")), torch.bfloat16)
    method = settings.get("quant_method") if isinstance(settings, dict) else None
    if dialect == "xai":
        return _form(name, torch.float32, ((p, _xai_sample(p)) for p in parts_of(model)))
    kept: Callable[[Part], bool] = _never
    rule = _METHODS.get("mxfp4" if dialect == "openai" else str(method), _plain)
    if isinstance(settings, dict):
        kept = partial(_is_kept, settings, family)
    found = [(p, None if kept(p) else rule(p, settings)) for p in parts_of(model)]
    return _form(name, dtype, found)


def other_forms(model: nn.Module, family: Family) -> list[Form]:
    """The forms that a model can be converted to, from wide to narrow."""
    parts = parts_of(model)
    gguf = _GgufTypes(model, family) if "gguf" in family.dialects else None
    forms = [_form("bfloat16", torch.bfloat16, ((part, None) for part in parts))]
    forms += [form for grid in GRIDS.values() if (form := _quantized(model, family, grid, parts))]
    if gguf is not None:
        for storage, rule in (("Q8_0", gguf.q8_0), ("Q4_K_M", gguf.q4_k_m)):
            forms.append(_form(storage, torch.float32, ((part, rule(part)) for part in parts)))
    return sorted(forms, key=lambda form: -form.num_bytes)


def _quantized(model: nn.Module, family: Family, grid: Grid, parts: list[Part]) -> Form | None:
    """What `bobot quantize` makes; None where the family has no such form."""
    try:
        names = names_to_pack(model, family.name, grid)
    except UsageError:
        return None
    found = (
        (part, _grid_sample(grid, *part.shape[-2:]) if names.get(part.name) else None)
        for part in parts
    )
    return _form(grid.name, torch.bfloat16, found)


@cache
def _grid_sample(grid: Grid, rows: int, columns: int) -> QuantWeight:
    return packed_shape((rows, columns), grid)


def _form(name: str, dtype: torch.dtype, found: Iterable[tuple[Part, QuantWeight | None]]) -> Form:
    """Parts with a packed sample are stored like it; the others are plain, in `dtype`."""
    weights = []
    for part, sample in found:
        if sample is None or part.is_unpacked:
            kind = torch.float32 if part.is_float32 else dtype
            sample = _meta(*part.shape, dtype=kind)
        weights.append(Stored(part, sample))
    return Form(name, dtype, tuple(weights))


@cache
def packed_sample(storage: str, rows: int, columns: int) -> QuantWeight | None:
    """A matrix of that storage on the meta device; None where its columns don't fill the blocks."""
    make, unit = _STORAGES[storage]
    return None if columns % unit else make(rows, columns)


def _inner_sample(storage: str, part: Part) -> QuantWeight | None:
    """Packs the matrices and experts of the layers; the rest stays as it is."""
    if part.role not in (Role.MATRIX, Role.EXPERTS):
        return None
    return packed_sample(storage, *part.shape[-2:])


def _experts_sample(storage: str, part: Part, settings: object) -> QuantWeight | None:
    return packed_sample(storage, *part.shape[-2:]) if part.role is Role.EXPERTS else None


def _fp8_sample(part: Part, settings: object) -> QuantWeight | None:
    return _inner_sample("fp8", part)


def _compressed_sample(part: Part, settings: Mapping[str, Any]) -> QuantWeight | None:
    """compressed-tensors; its groups may be of any size."""
    if part.role not in (Role.MATRIX, Role.EXPERTS):
        return None
    (group,) = settings["config_groups"].values()
    bits, size = group["weights"]["num_bits"], group["weights"]["group_size"]
    rows, columns = part.shape[-2:]
    if columns % size:
        return None
    if bits == 8:
        return _scaled(rows, columns, torch.int8, torch.bfloat16, 1, size)
    if settings["format"] == "mxfp4-pack-quantized":
        return packed_sample("mxfp4", rows, columns)
    packed = _meta(rows, columns // int4.VALUES_PER_WORD, dtype=torch.int32)
    return int4.weight_from_parts(packed, _meta(rows, columns // size, dtype=torch.bfloat16))


def _bitsandbytes_sample(part: Part, settings: Mapping[str, Any]) -> QuantWeight | None:
    """Four bits, in blocks of 64, with the scales as they are in memory."""
    rows, columns = part.shape[-2:] if len(part.shape) > 1 else (1, 1)
    if part.role is not Role.MATRIX or columns % 64:
        return None
    kind = settings.get("bnb_4bit_quant_type") or "fp4"
    codes = _meta(rows, columns // 2, dtype=torch.uint8)
    scales = _meta(rows, columns // 64, dtype=torch.float32)
    return four_bit_floats.weight_from_parts(kind, codes, scales)


def _plain(part: Part, settings: object) -> None:
    return None


def _never(part: Part) -> bool:
    return False


def _is_kept(settings: Mapping[str, Any], family: Family, part: Part) -> bool:
    """Whether the settings name the part's module among those that are not packed: a module or a
    pattern of one, or a regular expression after "re:".
    """
    keys = ("ignore", "modules_to_not_convert", "llm_int8_skip_modules")
    patterns = [pattern for key in keys for pattern in settings.get(key) or ()]
    theirs = source_names(part.name, part.shape, family.dialects["hf"])[0]
    module = theirs.removesuffix(".weight")
    return any(
        re.fullmatch(pattern[3:], module)
        if pattern.startswith("re:")
        else fnmatchcase(module, pattern) or fnmatchcase(module, f"{pattern}.*")
        for pattern in patterns
    )


def _xai_sample(part: Part) -> QuantWeight | None:
    """Matrices of the layers are int8; those cut along their inputs have more scales."""
    if part.role not in (Role.MATRIX, Role.EXPERTS):
        return None
    rows, columns = part.shape[-2:]
    is_cut = part.name.endswith((".o_proj.weight", ".linear_1"))
    blocks = XAI_BLOCKS if is_cut else 1
    return _scaled(rows, columns, torch.int8, torch.bfloat16, 1, columns // blocks)


@cache
def _meta(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _scaled(
    rows: int,
    columns: int,
    values: torch.dtype,
    scales: torch.dtype,
    row_block: int,
    col_block: int,
) -> QuantWeight:
    shape = scaled.scales_shape((rows, columns), row_block, col_block)
    return scaled.weight_from_parts(
        _meta(rows, columns, dtype=values), _meta(*shape, dtype=scales), row_block, col_block
    )


def _mxfp4(rows: int, columns: int) -> QuantWeight:
    groups = columns // mxfp4.GROUP
    blocks = _meta(rows, groups, mxfp4.BYTES_PER_GROUP, dtype=torch.uint8)
    return mxfp4.weight_from_parts(blocks, _meta(rows, groups, dtype=torch.uint8))


_STORAGES: dict[str, tuple[Callable[[int, int], QuantWeight], int]] = {
    "fp8": (lambda r, c: _scaled(r, c, torch.float8_e4m3fn, torch.float32, 128, 128), 1),
    "mxfp4": (_mxfp4, mxfp4.GROUP),
}
"""Name -> a matrix of that many rows and columns, and what the columns must be a multiple of."""


def _block_maker(kind: Any) -> Callable[[int, int], QuantWeight]:
    return lambda rows, columns: weight_from_blocks(
        kind, _meta(rows, columns // kind.block_size * kind.block_bytes, dtype=torch.uint8)
    )


_STORAGES |= {kind.name: (_block_maker(kind), kind.block_size) for kind in BLOCK_TYPES.values()}

_METHODS: dict[str, Callable[..., QuantWeight | None]] = {
    "mxfp4": partial(_experts_sample, "mxfp4"),
    "fp8": _fp8_sample,
    "compressed-tensors": _compressed_sample,
    "bitsandbytes": _bitsandbytes_sample,
}
"""quant_method of a Hugging Face config -> how it stores a part."""


class _GgufTypes:
    """The types that llama.cpp's quantizer gives to tensors (src/llama-quant.cpp, 2026)."""

    def __init__(self, model: nn.Module, family: Family) -> None:
        self.dialect = family.dialects["gguf"]
        parts = parts_of(model)
        self.num_experts = max((p.shape[0] for p in parts if p.role is Role.EXPERTS), default=0)
        self.num_layers = 1 + max(int(split_name(p.name)[1] or 0) for p in parts)

    def q8_0(self, part: Part) -> QuantWeight | None:
        return self._sample(part, "Q8_0")

    def q4_k_m(self, part: Part) -> QuantWeight | None:
        """Mostly Q4_K; more bits where errors cost most."""
        name = source_names(part.name, part.shape, self.dialect)[0]
        layer, count = int(split_name(part.name)[1] or 0), self.num_layers
        eighth = count // 8
        has_more = layer < eighth or layer >= 7 * count // 8 or (layer - eighth) % 3 == 2
        kind = "Q4_K"
        if part.role is Role.HEAD or (has_more and ("ffn_down" in name or "attn_v" in name)):
            kind = "Q6_K"
        if self.num_experts == 8 and ("attn_k" in name or "attn_v" in name):
            kind = "Q8_0"
        if self.num_experts == 8 and "attn_output" in name:
            kind = "Q5_K"
        return self._sample(part, kind)

    def _sample(self, part: Part, kind: str) -> QuantWeight | None:
        if part.role in (Role.ROUTER, Role.SMALL):
            return None
        found = self.dialect.names.get(split_name(part.name)[0])
        if isinstance(found, Derived) and part.role is Role.MATRIX:
            return None  # put together from two tensors, and unpacked for that
        shape = part.shape[-2:]
        narrower = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
        return packed_sample(kind, *shape) or packed_sample(narrower.get(kind, kind), *shape)
