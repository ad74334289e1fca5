"""How packed weights are written into a Hugging Face folder; weights/published.py reads it back.

The forms are those of other tools: compressed-tensors for int4, int8 and MXFP4, DeepSeek's blocks
for FP8, transformers' own MXFP4 for gpt-oss.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bobot.quant import int4, mxfp4
from bobot.quant.scaled import pack_int8, scaled
from bobot.quant.weight import QuantWeight

_FP8_BLOCK = 128


def packed_parts(weight: QuantWeight, family: str) -> dict[str, Tensor] | None:
    """What is appended to the weight's name -> the tensor stored under it; None for a form that
    safetensors folders don't have.
    """
    parts = weight.parts
    if weight.format is mxfp4.MXFP4 and family == "gpt_oss":
        return {"_blocks": parts["blocks"], "_scales": parts["scales"]}
    if weight.format is mxfp4.MXFP4:
        return {"_packed": parts["blocks"].flatten(-2), "_scale": parts["scales"]}
    if weight.format is int4.INT4 and weight.ndim == 2:
        shape = torch.tensor(weight.shape, dtype=torch.int64)
        return {"_packed": parts["packed"], "_scale": parts["scales"], "_shape": shape}
    if _int8_group(weight) is not None and weight.ndim == 2:
        shape = torch.tensor(weight.shape, dtype=torch.int64)
        packed = pack_int8(parts["values"])
        return {"_packed": packed, "_scale": parts["scales"], "_shape": shape}
    if weight.format is scaled(_FP8_BLOCK, _FP8_BLOCK):
        return {"": parts["values"], "_scale_inv": parts["scales"]}
    return None


def packing_settings(weight: QuantWeight, family: str, plain: Sequence[str]) -> dict[str, object]:
    """`quantization_config` of a model whose weights are packed like this one; `plain` are the
    modules with a matrix that is not.
    """
    if weight.format is mxfp4.MXFP4 and family == "gpt_oss":
        return {"quant_method": "mxfp4", "modules_to_not_convert": list(plain)}
    if weight.format is scaled(_FP8_BLOCK, _FP8_BLOCK):
        return {
            "quant_method": "fp8",
            "fmt": "e4m3",
            "activation_scheme": "dynamic",
            "weight_block_size": [_FP8_BLOCK, _FP8_BLOCK],
            "modules_to_not_convert": list(plain),
        }
    if weight.format is mxfp4.MXFP4:
        kind, form, group, bits = "float", "mxfp4-pack-quantized", mxfp4.GROUP, 4
    elif weight.format is int4.INT4:
        group = weight.shape[-1] // weight.parts["scales"].shape[-1]
        kind, form, bits = "int", "pack-quantized", 4
    else:
        group = _int8_group(weight)
        kind, form, bits = "int", "pack-quantized", 8
    weights: dict[str, object] = {
        "num_bits": bits,
        "type": kind,
        "symmetric": True,
        "strategy": "group",
        "group_size": group,
        "dynamic": False,
    }
    if kind == "float":
        weights["scale_dtype"] = "torch.uint8"
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": weights,
                "input_activations": None,
                "output_activations": None,
            }
        },
        "ignore": list(plain),
        "kv_cache_scheme": None,
    }


def _int8_group(weight: QuantWeight) -> int | None:
    """The group of int8 weights with a scale per run of inputs; None for any other form."""
    values, scales = weight.parts.get("values"), weight.parts.get("scales")
    if values is None or scales is None or values.dtype != torch.int8:
        return None
    group, rest = divmod(weight.shape[-1], scales.shape[-1])
    return group if not rest and weight.format is scaled(1, group) else None
