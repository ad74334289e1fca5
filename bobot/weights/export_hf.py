"""A model as a Hugging Face folder that transformers loads: settings, safetensors, tokenizer.

Weights keep their stored type and, where such folders have a form for it, their packing. GGUF
blocks become bf16, but for MXFP4 of gpt-oss, which only changes its layout.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from bobot.checkpoints.safetensors import CODES, planned_bytes, stream_safetensors
from bobot.checkpoints.writing import PlannedTensor, atomic_file
from bobot.models.config import Dialect
from bobot.quant.repack import is_mxfp4, mxfp4_from_gguf
from bobot.quant.weight import QuantWeight, Weight
from bobot.text import Tokenizer
from bobot.text.tokenizer_writing import is_exact_as_json, tokenizer_config, tokenizer_json
from bobot.weights.export import (
    ExportReport,
    Progress,
    TargetTensor,
    check_destination,
    check_disk,
    target_tensors,
    unpacked,
)
from bobot.weights.packing import packed_parts, packing_settings
from bobot.weights.source import ModelSource

MAX_SHARD_BYTES = 5 * 10**9

_COPIED = re.compile(
    r"tokenizer[\w.-]*\.json|special_tokens_map\.json|added_tokens\.json|vocab\.json|merges\.txt"
    r"|chat_template[\w.-]*|.+\.jinja|.+\.model(\.v\w+)?|.+\.tiktoken|tekken\.json"
    r"|generation_config\.json|tokenization_\w+\.py|(LICEN[CS]E|NOTICE|USE_POLICY)([.-].*)?"
)
"""What goes with the weights as it is."""


def export_hf(
    source: ModelSource,
    tokenizer: Tokenizer | None,
    path: Path,
    progress: Progress | None = None,
) -> ExportReport:
    """Writes the model into the folder `path`, which must be new or empty; it appears whole or not
    at all. Raises StorageError when the disk is too small.
    """
    check_destination(path)
    source.ignored()
    source.check_tied()
    report = ExportReport()
    plan: dict[str, PlannedTensor] = {}
    packed: QuantWeight | None = None
    plain: list[str] = []
    for tensor in target_tensors(source, hf_dialect(source)):
        kept = packed_as(source, tensor.sample)
        if kept is not None:
            packed = packed or kept
            plan |= _planned_parts(source, tensor, kept)
            continue
        kind = "BF16"
        if isinstance(tensor.sample, QuantWeight):
            report.unpacked[tensor.sample.format.name] += 1
        else:
            kind = CODES[tensor.sample.dtype]
        if len(tensor.shape) == 2:
            plain.append(tensor.name.removesuffix(".weight"))
        plan[tensor.name] = PlannedTensor(kind, tensor.shape, partial(unpacked, tensor.read))
    settings = hf_settings(source, tokenizer, plan)
    if packed is not None and not _has_source_form(source, packed):
        settings["quantization_config"] = packing_settings(packed, source.family.name, plain)
    write_folder(source, tokenizer, path, settings, plan, report, progress)
    return report


def _has_source_form(source: ModelSource, packed: QuantWeight) -> bool:
    """Whether the parts to be written are those that the source's quantization_config speaks of:
    int8 has two forms, of which one is written.
    """
    parts = packed_parts(packed, source.family.name) or {}
    is_described = "quantization_config" in source.checkpoint.config
    return (
        is_described
        and source.form is not None
        and (set(parts) == set(source.form.suffixes.values()))
    )


def hf_dialect(source: ModelSource) -> Dialect:
    return source.family.dialects["hf"]


def hf_settings(
    source: ModelSource, tokenizer: Tokenizer | None, plan: Mapping[str, PlannedTensor]
) -> dict[str, Any]:
    """config.json: the publisher's own if there is one, else made from what we know.

    The publisher's Python code does not come along, so the model type becomes one that
    transformers knows itself (Kimi K2's is deepseek_v3).
    """
    write = hf_dialect(source).settings
    assert write is not None
    settings = write(source.config)
    if source.checkpoint.dialect == "hf":
        own = dict(source.checkpoint.config)
        own.pop("auto_map", None)
        if own["architectures"] == settings["architectures"]:
            own["model_type"] = settings["model_type"]
        return own
    if tokenizer is not None:
        settings["bos_token_id"] = tokenizer.bos_id
        settings["eos_token_id"] = _one_or_all(tokenizer.eos_ids)
    sizes = dict.fromkeys(("BF16", "F16", "F32"), 0)
    for tensor in plan.values():
        if tensor.kind in sizes:
            sizes[tensor.kind] += planned_bytes(tensor)
    names = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
    settings["torch_dtype"] = names[max(sizes, key=lambda kind: sizes[kind])]
    return settings


def packed_as(source: ModelSource, weight: Weight) -> QuantWeight | None:
    """The weight as the folder can hold it packed: as its publisher did, or MXFP4 of gpt-oss from
    a GGUF; None for any other. One folder has one form, and Grok's 8 bits have groups of several
    sizes.
    """
    if source.family.name == "gpt_oss":
        weight = mxfp4_from_gguf(weight)
        return weight if is_mxfp4(weight) else None
    if not isinstance(weight, QuantWeight) or source.form is None:
        return None
    return weight if packed_parts(weight, source.family.name) else None


def _planned_parts(
    source: ModelSource, tensor: TargetTensor, sample: QuantWeight
) -> dict[str, PlannedTensor]:
    found = packed_parts(sample, source.family.name) or {}
    return {
        tensor.name + suffix: PlannedTensor(
            CODES[part.dtype], tuple(part.shape), partial(_parts, source, tensor, suffix)
        )
        for suffix, part in found.items()
    }


def _parts(source: ModelSource, tensor: TargetTensor, suffix: str) -> Iterator[Tensor]:
    for piece in tensor.read():
        weight = packed_as(source, piece)
        assert weight is not None
        yield (packed_parts(weight, source.family.name) or {})[suffix]


def write_folder(
    source: ModelSource,
    tokenizer: Tokenizer | None,
    path: Path,
    settings: Mapping[str, Any],
    plan: Mapping[str, PlannedTensor],
    report: ExportReport,
    progress: Progress | None,
) -> None:
    """Settings, shards with their index, and the files beside them, renamed to `path` when all is
    there.
    """
    report.num_tensors = len(plan)
    report.num_bytes = sum(planned_bytes(tensor) for tensor in plan.values())
    check_disk(path, report.num_bytes)
    with _new_folder(path) as folder:
        _write_weights(folder, plan, report.num_bytes, progress)
        _write_json(folder / "config.json", settings)
        _write_companions(source, tokenizer, folder)


def _write_weights(
    folder: Path, plan: Mapping[str, PlannedTensor], total: int, progress: Progress | None
) -> None:
    shards = _shards(plan)
    names = [
        "model.safetensors"
        if len(shards) == 1
        else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        for number in range(1, len(shards) + 1)
    ]
    done = 0
    for file, shard in zip(names, shards, strict=True):
        stream_safetensors(folder / file, shard, {"format": "pt"})
        done += sum(planned_bytes(tensor) for tensor in shard.values())
        if progress is not None:
            progress(done, total)
    if len(shards) > 1:
        weight_map = {
            name: file for file, shard in zip(names, shards, strict=True) for name in shard
        }
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        _write_json(folder / "model.safetensors.index.json", index)


def _shards(plan: Mapping[str, PlannedTensor]) -> list[dict[str, PlannedTensor]]:
    shards: list[dict[str, PlannedTensor]] = [{}]
    size = 0
    for name, tensor in plan.items():
        num_bytes = planned_bytes(tensor)
        if shards[-1] and size + num_bytes > MAX_SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += num_bytes
    return shards


def _write_companions(source: ModelSource, tokenizer: Tokenizer | None, folder: Path) -> None:
    """Tokenizer, template, generation settings and licence: copied where they are files, made of
    what the source says where not.
    """
    origin = source.checkpoint.path
    beside = origin if origin.is_dir() else origin.parent
    if source.checkpoint.dialect != "gguf":
        for file in sorted(beside.iterdir()):
            if file.is_file() and _COPIED.fullmatch(file.name):
                shutil.copyfile(file, folder / file.name)
    if tokenizer is not None and not (folder / "tokenizer.json").exists():
        has_model = any(folder.glob("*.model*")) and not is_exact_as_json(tokenizer)
        if source.checkpoint.dialect != "hf" and not has_model:
            _write_json(folder / "tokenizer.json", tokenizer_json(tokenizer))
        if not (folder / "tokenizer_config.json").exists():
            _write_json(folder / "tokenizer_config.json", tokenizer_config(tokenizer))
    if not (folder / "generation_config.json").exists():
        generation = dict(source.checkpoint.generation_config)
        if tokenizer is not None and tokenizer.eos_ids:
            generation["eos_token_id"] = _one_or_all(tokenizer.eos_ids)
        if "temperature" in generation:
            generation["do_sample"] = True
        if generation:
            _write_json(folder / "generation_config.json", generation)


def _one_or_all(ids: Iterable[int]) -> int | list[int]:
    found = sorted(ids)
    return found[0] if len(found) == 1 else found


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_file(path) as file:
        file.write(json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n")


@contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` that takes its name when the block ends well, and is removed else."""
    partial_path = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial_path.mkdir(parents=True)
    try:
        yield partial_path
        if path.exists():
            path.rmdir()  # empty: check_destination saw to it
        partial_path.rename(path)
    finally:
        shutil.rmtree(partial_path, ignore_errors=True)
