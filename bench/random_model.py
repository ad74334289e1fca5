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

import torch
from torch import Tensor

from bobot.checkpoints.gguf_write import KINDS, stream_gguf
from bobot.checkpoints.safetensors import CODES, stream_safetensors
from bobot.checkpoints.writing import PlannedTensor
from bobot.models.registry import Family, family_of
from bobot.quant.gguf_types import BLOCK_TYPES
from bobot.quant.weight import QuantWeight, Weight
from bobot.weights.forms import Stored, other_forms, published_form
from bobot.weights.packing import packed_parts
from bobot.weights.source import build_on_meta, source_names

ROWS_AT_ONCE = 1024
ORDINARY_BYTE = 0x2C
"""Twice, it is an ordinary scale of a GGUF block: float16 0.065."""


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
    """The model that a Hugging Face config describes as a GGUF, "Q8_0" or "Q4_K_M"."""
    family, model = _laid_out(config)
    form = next(form for form in other_forms(model, family) if form.name == form_name)
    dialect = family.dialects["gguf"]
    assert dialect.settings is not None
    plan = {}
    for stored in form.weights:
        (name,) = source_names(stored.part.name, stored.part.shape, dialect)
        is_plain = isinstance(stored.sample, Tensor)
        kind = KINDS[torch.float32] if is_plain else stored.storage
        plan[name] = PlannedTensor(kind, stored.part.shape, partial(_blocks, stored))
    for name, values in dialect.computed(model.config).items():
        plan[name] = PlannedTensor("F32", tuple(values.shape), partial(list, [values]))
    stream_gguf(path, dialect.settings(model.config), plan)


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


def _blocks(stored: Stored) -> Iterator[Tensor]:
    shape = stored.part.shape
    if isinstance(stored.sample, QuantWeight):
        kind = next(kind for kind in BLOCK_TYPES.values() if kind.name == stored.storage)
        count = stored.num_bytes // kind.block_bytes
        blocks = torch.randint(0, 256, (1 << 12, kind.block_bytes), dtype=torch.uint8)
        blocks[:, :4] = blocks[:, -2:] = ORDINARY_BYTE  # where the scales stand
        yield blocks.repeat(-(-count // len(blocks)), 1)[:count].view(math.prod(shape[:-1]), -1)
    else:
        yield torch.ones(shape) if len(shape) == 1 else torch.empty(shape).normal_(0, 0.02)
