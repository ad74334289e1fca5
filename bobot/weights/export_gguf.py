"""A model as one GGUF file that llama.cpp loads, with its tokenizer and chat template inside.

Matrices keep their stored type. Blocks of a GGUF stay the bytes they are, MXFP4 changes its layout
only; what GGUF has no type for (FP8, int8, int4 with these groups) becomes bf16.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from torch import Tensor

from bobot.checkpoints.gguf_write import KINDS, planned_bytes, stream_gguf
from bobot.checkpoints.index import GGUF_SAMPLING
from bobot.checkpoints.writing import PlannedTensor
from bobot.errors import UsageError
from bobot.models.config import Dialect
from bobot.quant import mxfp4
from bobot.quant.gguf_types import BLOCK_TYPES, block_format
from bobot.quant.repack import mxfp4_to_gguf
from bobot.quant.weight import QuantWeight, Weight
from bobot.text import Tokenizer
from bobot.text.tokenizer_writing import gguf_metadata
from bobot.weights.export import (
    ExportReport,
    Progress,
    TargetTensor,
    check_destination,
    check_disk,
    target_tensors,
    unpacked,
)
from bobot.weights.source import ModelSource

FILE_TYPES = {
    "F32": 0,
    "F16": 1,
    "Q4_0": 2,
    "Q8_0": 7,
    "Q2_K": 10,
    "Q3_K": 12,
    "Q4_K": 15,
    "Q5_K": 17,
    "Q6_K": 18,
    "BF16": 32,
    "MXFP4": 38,
}
"""general.file_type by the type that most bytes have (llama.h, llama_ftype)."""


def export_gguf(
    source: ModelSource,
    tokenizer: Tokenizer | None,
    path: Path,
    name: str,
    progress: Progress | None = None,
) -> ExportReport:
    """Writes the model to `path`, which must not exist yet. Raises StorageError when the disk is
    too small, TokenizerError for a tokenizer that GGUF can't name, UsageError for a family that
    llama.cpp has not.
    """
    check_destination(path)
    source.ignored()
    source.check_tied()
    target = gguf_dialect(source)
    report = ExportReport()
    plan = {tensor.name: _planned(tensor, report) for tensor in target_tensors(source, target)} | {
        theirs: PlannedTensor("F32", tuple(values.shape), partial(list, [values]))
        for theirs, values in target.computed(source.config).items()
    }
    metadata = _metadata(source, target, tokenizer, name, plan)
    report.num_tensors = len(plan)
    report.num_bytes = sum(planned_bytes(tensor) for tensor in plan.values())
    check_disk(path.parent, report.num_bytes)
    path.parent.mkdir(parents=True, exist_ok=True)
    stream_gguf(path, metadata, _counted(plan, progress))
    return report


def gguf_dialect(source: ModelSource) -> Dialect:
    target = source.family.dialects.get("gguf")
    if target is None or target.settings is None:
        raise UsageError(
            "GGUF has no architecture for {family}.",
            hint="Export it to hf.",
            family=source.family.name,
        )
    return target


def _planned(tensor: TargetTensor, report: ExportReport) -> PlannedTensor:
    """llama.cpp wants vectors, biases and routers in F32, and multiplies by everything else."""
    sample = tensor.sample
    is_small = len(tensor.shape) == 1 or tensor.name.endswith((".bias", "ffn_gate_inp.weight"))
    if isinstance(sample, Tensor):
        kind = "F32" if is_small else KINDS[sample.dtype]
        return PlannedTensor(kind, tensor.shape, partial(unpacked, tensor.read))
    kind = None if is_small else packed_kind(sample)
    if kind is not None:
        return PlannedTensor(kind, tensor.shape, partial(_packed_rows, tensor.read))
    report.unpacked[sample.format.name] += 1
    return PlannedTensor(
        "F32" if is_small else "BF16", tensor.shape, partial(unpacked, tensor.read)
    )


def packed_kind(weight: QuantWeight) -> str | None:
    """The GGUF type that holds the packed weight bit for bit."""
    if weight.format is mxfp4.MXFP4:
        return "MXFP4"
    kinds = (kind.name for kind in BLOCK_TYPES.values() if block_format(kind) is weight.format)
    return next(kinds, None)


def _packed_rows(read: Callable[[], Iterable[Weight]]) -> Iterator[Tensor]:
    for piece in read():
        assert isinstance(piece, QuantWeight)
        is_ours = piece.format is mxfp4.MXFP4
        yield mxfp4_to_gguf(piece) if is_ours else piece.parts["blocks"]


def _metadata(
    source: ModelSource,
    target: Dialect,
    tokenizer: Tokenizer | None,
    name: str,
    plan: dict[str, PlannedTensor],
) -> dict[str, object]:
    assert target.settings is not None
    settings = target.settings(source.config)
    sizes: Counter[str] = Counter()
    for tensor in plan.values():
        sizes[tensor.kind] += planned_bytes(tensor)
    main = sizes.most_common(1)[0][0]
    general: dict[str, object] = {
        "general.architecture": settings.pop("general.architecture"),
        "general.type": "model",
        "general.name": name,
    }
    if main in FILE_TYPES:
        general["general.file_type"] = FILE_TYPES[main]
    if any(kind not in KINDS.values() for kind in sizes):
        general["general.quantization_version"] = 2
    given = source.checkpoint.generation_config
    sampling = {key: given[ours] for key, ours in GGUF_SAMPLING.items() if ours in given}
    if source.checkpoint.dialect == "gguf":
        raw = source.checkpoint.config
        kept = ("tokenizer.", "general.license", "general.languages", "general.name")
        vocabulary = {key: value for key, value in raw.items() if key.startswith(kept)}
    else:
        vocabulary = gguf_metadata(tokenizer, source.config.vocab_size)
    return {**general, **sampling, **settings, **vocabulary}


def _counted(plan: dict[str, PlannedTensor], progress: Progress | None) -> dict[str, PlannedTensor]:
    """The plan, with `progress(bytes done, of all)` called after each piece."""
    if progress is None:
        return plan
    total = sum(planned_bytes(tensor) for tensor in plan.values())
    done = [0]

    def counting(tensor: PlannedTensor) -> Iterator[Tensor]:
        for piece in tensor.pieces():
            yield piece
            share = piece.shape[0] if piece.ndim == len(tensor.shape) else 1
            done[0] += planned_bytes(tensor) * share // max(tensor.shape[0], 1)
            progress(done[0], total)

    return {
        name: PlannedTensor(tensor.kind, tensor.shape, partial(counting, tensor))
        for name, tensor in plan.items()
    }
