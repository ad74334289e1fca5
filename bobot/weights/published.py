"""How a checkpoint stores its packed weights: which tensors make up one, and how they must look.

`quantization_config` of a Hugging Face config names the form; OpenAI's own layout of gpt-oss has
none and needs none. Whether a weight is packed is seen from its tensors: forms leave some layers as
they were, and say so in lists (`ignore`, `modules_to_not_convert`) that need not be read for that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bobot.checkpoints import Checkpoint
from bobot.errors import CheckpointError
from bobot.models.config import Fields
from bobot.quant import int4, mxfp4, scaled
from bobot.quant.weight import QuantWeight, Weight
from bobot.weights import bitsandbytes


@dataclass(frozen=True)
class PackedForm:
    """Part name -> what is appended to the weight's name; `join` makes the weight of the parts.

    `join` raises ValueError with a reason when the parts don't fit together.
    """

    suffixes: Mapping[str, str]
    join: Callable[[Mapping[str, Tensor]], Weight]

    def names(self, name: str) -> dict[str, str]:
        return {part: name + suffix for part, suffix in self.suffixes.items()}


def packed_form(checkpoint: Checkpoint) -> PackedForm | None:
    """The form of the checkpoint's packed weights; None where all are plain.

    Raises ConfigError for a form that bobot does not know.
    """
    if checkpoint.dialect == "openai":
        return PackedForm({"blocks": ".blocks", "scales": ".scales"}, _join_mxfp4)
    settings = checkpoint.config.get("quantization_config")
    if checkpoint.dialect != "hf" or settings is None:
        return None
    fields = Fields(settings if isinstance(settings, dict) else {}, "quantization_config")
    method = fields.take_one_of("quant_method", _METHODS)
    return _METHODS[method](fields)


def read_packed(checkpoint: Checkpoint, form: PackedForm, name: str) -> Weight:
    """The packed weight `name`, its parts mapped from the file; unpacked in the rare form that
    can't stay packed (bitsandbytes.py).

    Raises CheckpointError when a part is missing or does not fit the others.
    """
    parts = {}
    for part, theirs in form.names(name).items():
        info = checkpoint.tensors.get(theirs)
        if info is None:
            raise CheckpointError(
                "{path}: the packed weight {name} lacks its part {part}.",
                hint="A shard is absent or of another model: download it again.",
                path=checkpoint.path.name,
                name=name,
                part=theirs,
            )
        parts[part] = checkpoint.read(theirs, info.shape)
    try:
        return form.join(parts)
    except ValueError as error:
        raise CheckpointError(
            "{path}: the parts of {name} do not fit together: {reason}.",
            hint="The file is damaged or of another model: download it again.",
            path=checkpoint.path.name,
            name=name,
            reason=error,
        ) from error


def _mxfp4(fields: Fields) -> PackedForm:
    fields.ignore("modules_to_not_convert", "dequantize")
    fields.done()
    return PackedForm({"blocks": "_blocks", "scales": "_scales"}, _join_mxfp4)


def _fp8(fields: Fields) -> PackedForm:
    """DeepSeek's blocks."""
    fields.take_one_of("fmt", ["e4m3"], "e4m3")
    fields.take_one_of("activation_scheme", ["dynamic"], "dynamic")
    block = fields.left.pop("weight_block_size", None)
    if block != [128, 128]:
        raise fields.wrong("weight_block_size", block, "[128, 128]")
    fields.ignore("modules_to_not_convert", "scale_fmt")
    fields.done()
    suffixes = {"values": "", "scales": "_scale_inv"}
    return PackedForm(suffixes, lambda parts: _join_scaled(parts, 128, 128, torch.float8_e4m3fn))


def _compressed_tensors(fields: Fields) -> PackedForm:
    """int4 and int8 weights with symmetric scales per group; MXFP4."""
    form = fields.take_one_of("format", ["pack-quantized", "int-quantized", "mxfp4-pack-quantized"])
    fields.ignore(
        "ignore",
        "quantization_status",
        "global_compression_ratio",
        "version",
        "sparsity_config",
        "transform_config",
    )
    if fields.left.pop("kv_cache_scheme", None) is not None:
        raise fields.wrong("kv_cache_scheme", "set", "null")
    groups = fields.left.pop("config_groups", None)
    fields.done()
    if not isinstance(groups, dict) or len(groups) != 1:
        raise fields.wrong("config_groups", groups, "an object with one group")
    (group,) = groups.values()
    weights = group.get("weights") if isinstance(group, dict) else None
    if not isinstance(weights, dict) or group.get("input_activations") is not None:
        raise fields.wrong("config_groups", groups, "a group with weights and no input_activations")
    wants = Fields(weights, "quantization_config (weights)")
    allowed = {"pack-quantized": [4, 8], "int-quantized": [8], "mxfp4-pack-quantized": [4]}[form]
    bits = wants.take_one_of("num_bits", allowed)
    wants.take_one_of("type", ["float" if form.startswith("mx") else "int"])
    wants.take_one_of("symmetric", [True], True)
    wants.take_one_of("dynamic", [False], False)
    wants.take_one_of("strategy", ["group"])
    wants.take_one_of("actorder", [None], None)
    size = wants.take("group_size", int, minimum=8)
    wants.ignore(
        "block_structure", "observer", "observer_kwargs", "scale_dtype", "zp_dtype", "is_mx"
    )
    wants.done()
    if form == "int-quantized":
        return PackedForm(
            {"values": "", "scales": "_scale"},
            lambda parts: _join_scaled(parts, 1, size, torch.int8),
        )
    if form == "mxfp4-pack-quantized":
        return PackedForm({"blocks": "_packed", "scales": "_scale"}, _join_packed_mxfp4)
    suffixes = {"packed": "_packed", "scales": "_scale", "shape": "_shape"}
    join = _join_int4 if bits == 4 else _join_packed_int8
    return PackedForm(suffixes, lambda parts: join(parts, size))


def _bitsandbytes(fields: Fields) -> PackedForm:
    kind, suffixes = bitsandbytes.read_settings(fields)
    return PackedForm(suffixes, lambda parts: bitsandbytes.join(kind, parts))


_METHODS: dict[str, Callable[[Fields], PackedForm]] = {
    "mxfp4": _mxfp4,
    "fp8": _fp8,
    "compressed-tensors": _compressed_tensors,
    "bitsandbytes": _bitsandbytes,
}


def _join_mxfp4(parts: Mapping[str, Tensor]) -> QuantWeight:
    blocks, scales = parts["blocks"], parts["scales"]
    _expect("blocks", blocks, (*scales.shape, mxfp4.BYTES_PER_GROUP), torch.uint8)
    _expect("scales", scales, tuple(blocks.shape[:-1]), torch.uint8)
    return mxfp4.weight_from_parts(blocks, scales)


def _join_packed_mxfp4(parts: Mapping[str, Tensor]) -> QuantWeight:
    blocks, scales = parts["blocks"], parts["scales"]
    columns = scales.shape[-1] * mxfp4.BYTES_PER_GROUP
    _expect("packed", blocks, (*scales.shape[:-1], columns), torch.uint8)
    _expect("scales", scales, tuple(scales.shape), torch.uint8)
    grouped = blocks.unflatten(-1, (-1, mxfp4.BYTES_PER_GROUP))
    return mxfp4.weight_from_parts(grouped, scales)


def _join_scaled(
    parts: Mapping[str, Tensor], row_block: int, col_block: int, dtype: torch.dtype
) -> QuantWeight:
    values, scales = parts["values"], parts["scales"]
    if values.ndim not in (2, 3):
        raise ValueError(f"the values have {values.ndim} axes")
    _expect("values", values, tuple(values.shape), dtype)
    shape = scaled.scales_shape(tuple(values.shape), row_block, col_block)
    _expect("scales", scales, shape, torch.float32, torch.bfloat16, torch.float16)
    return scaled.weight_from_parts(values, scales, row_block, col_block)


def _join_int4(parts: Mapping[str, Tensor], group: int) -> QuantWeight:
    _check_packed(parts, group, int4.VALUES_PER_WORD)
    return int4.weight_from_parts(parts["packed"], parts["scales"])


def _join_packed_int8(parts: Mapping[str, Tensor], group: int) -> QuantWeight:
    """Four values a word, stored as q + 128."""
    _check_packed(parts, group, 4)
    values = scaled.unpack_int8(parts["packed"])
    return scaled.weight_from_parts(values, parts["scales"], 1, group)


def _check_packed(parts: Mapping[str, Tensor], group: int, values_per_word: int) -> None:
    """Raises ValueError unless words, scales and shape belong together."""
    packed, scales = parts["packed"], parts["scales"]
    if packed.ndim != 2:
        raise ValueError(f"the packed values have {packed.ndim} axes")
    rows, columns = packed.shape[0], packed.shape[1] * values_per_word
    _expect("packed", packed, tuple(packed.shape), torch.int32)
    if columns % group:
        raise ValueError(f"{columns} inputs are no multiple of the group of {group}")
    _expect(
        "scales", scales, (rows, columns // group), torch.bfloat16, torch.float16, torch.float32
    )
    _expect("shape", parts["shape"], (2,), torch.int32, torch.int64)
    if parts["shape"].tolist() != [rows, columns]:
        raise ValueError(f"the shape is {parts['shape'].tolist()}, the values are {rows}x{columns}")


def _expect(part: str, tensor: Tensor, shape: tuple[int, ...], *dtypes: torch.dtype) -> None:
    if tuple(tensor.shape) != shape or tensor.dtype not in dtypes:
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        found = str(tensor.dtype).removeprefix("torch.")
        raise ValueError(f"{part} is {found} {list(tensor.shape)}, not {names} {list(shape)}")
