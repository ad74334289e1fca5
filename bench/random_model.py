"""Writes a checkpoint of any family and form with made-up weights, so that memory and speed can be
measured at a real shape without a download. The text such a model produces means nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zlib import crc32

import torch
from torch import Tensor

from bobot.checkpoints.gguf_write import KINDS, stream_gguf
from bobot.checkpoints.safetensors import CODES, stream_safetensors
from bobot.checkpoints.writing import PlannedTensor
from bobot.models.registry import Family, family_of
from bobot.quant.gguf_types import BLOCK_TYPES, BlockType
from bobot.quant.weight import QuantWeight, Weight
from bobot.weights.forms import Role, Stored, other_forms, packed_sample, published_form
from bobot.weights.packing import packed_parts
from bobot.weights.source import build_on_meta, source_names

ROWS_AT_ONCE = 1024
SIZE = 0.02
"""Standard deviation of weights that keeps activations near 1."""
REPEATED = 65521
"""Blocks or values that differ before they come again: a prime, so that rows are not alike."""
SCALES = {
    "Q5_1": {0: 1.0, 2: -15.5},
    "Q4_K": {0: 1.0, 2: 7.5},
    "Q5_K": {0: 1.0, 2: 15.5},
    "Q6_K": {208: 1.0},
}
"""Where a block has its float16 scales if not at 0, and their ratio, which puts the mean at 0."""


def write_folder(folder: Path, config: Mapping[str, Any]) -> None:
    """A Hugging Face folder, packed as `quantization_config` says."""
    family, model = _laid_out(config)
    plan: dict[str, PlannedTensor] = {}
    for stored in published_form("random", model, family, "hf", config).weights:
        part = stored.part
        names = source_names(part.name, part.shape, family.dialects["hf"])
        outer = part.shape[: len(part.shape) - stored.sample.ndim] if len(names) == 1 else ()
        for name in names:
            for suffix, meta in _parts(stored.sample, family.name).items():
                inner = meta.shape[1:] if len(names) > 1 and meta.ndim == 3 else meta.shape
                is_plain = isinstance(stored.sample, Tensor)
                shape = (*outer, *(inner if is_plain else meta.shape))
                make = partial(_values, shape, meta.dtype, suffix, stored.sample.shape)
                plan[name + suffix] = PlannedTensor(CODES[meta.dtype], shape, make)
    stream_safetensors(folder / "model.safetensors", plan, {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(dict(config), indent=2), encoding="utf-8")


def write_gguf(path: Path, config: Mapping[str, Any], form_name: str) -> None:
    """The model that a Hugging Face config describes as a GGUF in a form of `gguf_form`."""
    family, model = _laid_out(config)
    dialect = family.dialects["gguf"]
    assert dialect.settings is not None
    plan: dict[str, PlannedTensor] = {}
    for stored in gguf_form(config, form_name):
        names = source_names(stored.part.name, stored.part.shape, dialect)
        shape = list(stored.part.shape)
        if len(names) > 1:  # gate and up of stacked experts
            shape[1] //= len(names)
        for name in names:
            make = partial(_gguf_values, name, tuple(shape), stored)
            plan[name] = PlannedTensor(_gguf_type(stored), tuple(shape), make)
    for name, values in dialect.computed(model.config).items():
        plan[name] = PlannedTensor("F32", tuple(values.shape), partial(list, [values]))
    metadata = dialect.settings(model.config) | {"tokenizer.ggml.model": "no_vocab"}
    stream_gguf(path, metadata, plan)


def gguf_form(config: Mapping[str, Any], name: str) -> tuple[Stored, ...]:
    """Every weight as llama.cpp's quantizer stores it: BF16, Q8_0, Q4_K_M, Q4_0 (the output in
    Q6_K), or MXFP4 (the experts alone; the rest Q8_0).
    """
    family, model = _laid_out(config)
    forms = {form.name: form.weights for form in other_forms(model, family)}
    if name == "BF16":
        return forms["bfloat16"]
    if name not in ("Q4_0", "MXFP4"):
        return forms[name]
    changed = (
        {Role.EXPERTS: "MXFP4"}
        if name == "MXFP4"
        else {Role.EXPERTS: "Q4_0", Role.MATRIX: "Q4_0", Role.EMBEDDING: "Q4_0", Role.HEAD: "Q6_K"}
    )
    return tuple(_restored(stored, changed) for stored in forms["Q8_0"])


def _restored(stored: Stored, changed: Mapping[Role, str]) -> Stored:
    kind = changed.get(stored.part.role)
    is_packed = isinstance(stored.sample, QuantWeight)
    sample = packed_sample(kind, *stored.part.shape[-2:]) if kind and is_packed else None
    return stored if sample is None else Stored(stored.part, sample)


def _gguf_type(stored: Stored) -> str:
    """llama.cpp wants vectors, biases and routers in F32."""
    if isinstance(stored.sample, QuantWeight):
        return stored.storage
    is_small = stored.part.role in (Role.SMALL, Role.ROUTER)
    return "F32" if is_small else KINDS[stored.sample.dtype]


def _laid_out(config: Mapping[str, Any]) -> tuple[Family, Any]:
    source: Any = SimpleNamespace(config=config, tensors={}, num_shards=1)
    family = family_of(source, "hf")
    return family, build_on_meta(family, family.dialects["hf"].config(source))


def _parts(sample: Weight, family: str) -> Mapping[str, Tensor]:
    """Suffix of the name -> what is stored under it, on the meta device but for a shape."""
    if isinstance(sample, Tensor):
        return {"": sample}
    found = packed_parts(sample, family)
    assert found is not None
    return found


def _values(
    shape: tuple[int, ...], dtype: torch.dtype, suffix: str, matrix: tuple[int, ...]
) -> Iterator[Tensor]:
    """Made-up values of a stored tensor, of a size that a real one could have."""
    if suffix == "_shape":
        yield torch.tensor(matrix[-2:], dtype=dtype)
    elif dtype == torch.uint8 and "scale" in suffix:
        yield torch.full(shape, 120, dtype=dtype)  # 2 ** -7
    elif "scale" in suffix:
        yield torch.full(shape, 1e-3, dtype=dtype)
    elif len(matrix) == 1:
        yield torch.ones(shape, dtype=dtype)
    elif dtype.is_floating_point and dtype.itemsize > 1:
        generator = torch.Generator().manual_seed(math.prod(shape))
        for start in range(0, shape[0], ROWS_AT_ONCE):
            rows = min(ROWS_AT_ONCE, shape[0] - start)
            yield torch.empty(rows, *shape[1:]).normal_(0, 0.02, generator=generator).to(dtype)
    else:
        count = math.prod(shape) * dtype.itemsize
        highest = 120 if dtype == torch.float8_e4m3fn else 256  # above are numbers that are none
        block = torch.randint(0, highest, (1 << 16,), dtype=torch.uint8)
        yield block.repeat(-(-count // len(block)))[:count].view(dtype).view(shape)


def _gguf_values(name: str, shape: tuple[int, ...], stored: Stored) -> Iterator[Tensor]:
    """Random values of the size that real ones have: the same for the same name."""
    generator = torch.Generator().manual_seed(crc32(name.encode()))
    if isinstance(stored.sample, QuantWeight):
        kind = next(kind for kind in BLOCK_TYPES.values() if kind.name == stored.storage)
        blocks = _random_blocks(kind, generator)
        count = math.prod(shape) // kind.block_size
        yield blocks.repeat(-(-count // len(blocks)), 1)[:count].view(math.prod(shape[:-1]), -1)
    elif stored.part.role is Role.SMALL:
        yield torch.ones(shape) if len(shape) == 1 and "bias" not in name else torch.zeros(shape)
    else:
        values = torch.empty(REPEATED).normal_(0, SIZE, generator=generator)
        yield values.repeat(-(-math.prod(shape) // REPEATED))[: math.prod(shape)].view(shape)


def _random_blocks(kind: BlockType, generator: torch.Generator) -> Tensor:
    """REPEATED blocks, uint8 (.., bytes), whose values have the standard deviation SIZE."""
    blocks = torch.randint(
        0, 256, (REPEATED, kind.block_bytes), dtype=torch.uint8, generator=generator
    )
    if kind.name == "MXFP4":
        blocks[:, 0] = 120  # 2 ** -7
        return blocks
    if kind.name == "Q4_0":  # its 16 levels reach further down: without the lowest the mean is 0
        nibbles = blocks[:, 2:]
        nibbles[nibbles & 15 == 0] |= 8
        nibbles[nibbles >> 4 == 0] |= 0x80
    places = SCALES.get(kind.name, {0: 1.0})
    scale = 1.0
    for _ in range(2):  # with a scale of 1 to see the size of the values, then with the right one
        for place, factor in places.items():
            half = torch.tensor([scale * factor], dtype=torch.float16).view(torch.uint8)
            blocks[:, place : place + 2] = half
        scale = SIZE / float(kind.dequantize(blocks[:1024].numpy()).std())
    return blocks
