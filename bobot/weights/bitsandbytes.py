"""Weights of four bits as bitsandbytes publishes them with transformers: NF4 and FP4.

    weight                       uint8 (values / 2, 1): all values of the matrix in one run
    weight.absmax                the scale of each block of 64 (or `blocksize`) values: float32, or
                                 uint8 where the scales are packed themselves ("double quant")
    weight.quant_map             float32 (16): the table of the format
    weight.nested_absmax         float32, of each 256 (`nested_blocksize`) scales; double quant only
    weight.nested_quant_map      float32 (256); double quant only
    weight.quant_state.bitsandbytes__nf4   uint8: a JSON object with shape, dtype and the above

    scale = nested_quant_map[absmax] * nested_absmax + nested_offset

Source: bitsandbytes `functional.py`, QuantState.as_dict; transformers BitsAndBytesConfig.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bobot.checkpoints.strict_json import parse_json
from bobot.errors import CheckpointError
from bobot.models.config import Fields
from bobot.quant import four_bit_floats
from bobot.quant.weight import Weight

MAX_STATE_BYTES = 4096
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_NESTED = ("nested_blocksize", "nested_dtype", "nested_offset")


def read_settings(fields: Fields) -> tuple[str, dict[str, str]]:
    """The format ("nf4" or "fp4"), and the suffixes of a weight's parts.

    Raises ConfigError for eight bits and for weights that are not stored as bytes.
    """
    fields.take_one_of("load_in_4bit", [True])
    fields.take_one_of("load_in_8bit", [False], False)
    kind = fields.take_one_of("bnb_4bit_quant_type", list(four_bit_floats.TABLES), "fp4")
    is_nested = fields.take("bnb_4bit_use_double_quant", bool, False)
    fields.take_one_of("bnb_4bit_quant_storage", ["uint8"], "uint8")
    fields.ignore(
        "_load_in_4bit",
        "_load_in_8bit",
        "bnb_4bit_compute_dtype",
        "llm_int8_enable_fp32_cpu_offload",
        "llm_int8_has_fp16_weight",
        "llm_int8_skip_modules",
        "llm_int8_threshold",
    )
    fields.done()
    suffixes = {"codes": "", "absmax": ".absmax", "quant_map": ".quant_map"}
    if is_nested:
        suffixes |= {"nested_absmax": ".nested_absmax", "nested_quant_map": ".nested_quant_map"}
    return kind, suffixes | {"state": f".quant_state.bitsandbytes__{kind}"}


def join(kind: str, parts: Mapping[str, Tensor]) -> Weight:
    """The weight of these parts. A matrix whose rows are no whole blocks is unpacked, to the dtype
    it had. Raises ValueError with a reason when they don't fit together.
    """
    is_nested = "nested_absmax" in parts
    state = _state(parts["state"], kind, is_nested)
    (rows, columns), block = state["shape"], state["blocksize"]
    num_values = rows * columns
    if num_values % 2:
        raise ValueError(f"{num_values} values do not fill their bytes")
    _expect("the weight", parts["codes"], num_values // 2, torch.uint8)
    _expect("quant_map", parts["quant_map"], 16, torch.float32)
    if not torch.equal(parts["quant_map"].flatten(), four_bit_floats.table(kind)):
        raise ValueError(f"quant_map is not the table of {kind}")
    num_scales = -(-num_values // block)
    _expect("absmax", parts["absmax"], num_scales, torch.uint8 if is_nested else torch.float32)
    scales = _unnested(parts, state) if is_nested else parts["absmax"].flatten()
    codes = parts["codes"].reshape(-1)
    if columns % block == 0:
        codes, scales = codes.view(rows, -1), scales.view(rows, -1)
        return four_bit_floats.weight_from_parts(kind, codes, scales)
    padded = torch.zeros(num_scales * block // 2, dtype=torch.uint8)
    padded[: len(codes)] = codes
    values = four_bit_floats.unpacked(kind, padded, scales)[:num_values]
    return values.view(rows, columns).to(DTYPES[state["dtype"]])


def _unnested(parts: Mapping[str, Tensor], state: Mapping[str, Any]) -> Tensor:
    """The scales, which are packed in eight bits."""
    places, block = parts["absmax"].flatten(), state["nested_blocksize"]
    _expect("nested_absmax", parts["nested_absmax"], -(-len(places) // block), torch.float32)
    _expect("nested_quant_map", parts["nested_quant_map"], 256, torch.float32)
    outer = parts["nested_absmax"].flatten().repeat_interleave(block)[: len(places)]
    return parts["nested_quant_map"].flatten()[places.int()] * outer + state["nested_offset"]


def _state(tensor: Tensor, kind: str, is_nested: bool) -> dict[str, Any]:
    """The checked settings of one weight."""
    if tensor.dtype != torch.uint8 or tensor.numel() > MAX_STATE_BYTES:
        raise ValueError(f"quant_state is {tensor.dtype} with {tensor.numel()} numbers")
    try:
        state = parse_json(Path("quant_state"), bytes(tensor.flatten().tolist()))
    except CheckpointError as error:
        raise ValueError(str(error)) from error
    wanted = {"quant_type", "blocksize", "dtype", "shape", *(_NESTED if is_nested else ())}
    if state.keys() != wanted:
        odd = ", ".join(sorted(state.keys() ^ wanted))
        raise ValueError(f"quant_state lacks or should not have: {odd}")
    if state["quant_type"] != kind:
        raise ValueError(f"quant_type is {state['quant_type']!r}, not {kind!r}")
    if state["dtype"] not in DTYPES:
        raise ValueError(f"dtype is {state['dtype']!r}, not {' or '.join(DTYPES)}")
    shape = state["shape"]
    is_matrix = isinstance(shape, list) and len(shape) == 2 and all(map(_is_size, shape))
    if not is_matrix or math.prod(shape) > 1 << 40:
        raise ValueError(f"shape is {shape!r}, not that of a matrix")
    for name in ("blocksize", *(["nested_blocksize"] if is_nested else [])):
        if not _is_size(state[name]) or not 32 <= state[name] <= 4096 or state[name] % 32:
            raise ValueError(f"{name} is {state[name]!r}, not a multiple of 32 up to 4096")
    if is_nested and (state["nested_dtype"] != "float32" or not _is_number(state["nested_offset"])):
        raise ValueError("nested_dtype or nested_offset is no float32")
    return state


def _is_size(value: object) -> bool:
    return type(value) is int and value > 0


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


def _expect(part: str, tensor: Tensor, count: int, dtype: torch.dtype) -> None:
    if tensor.numel() != count or tensor.dtype != dtype:
        found, wanted = (str(kind).removeprefix("torch.") for kind in (tensor.dtype, dtype))
        raise ValueError(f"{part} is {tensor.numel()} x {found}, not {count} x {wanted}")
