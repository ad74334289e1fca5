"""Packed weights in the forms publishers use: what is accepted; everything else is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bobot.checkpoints.stored import Checkpoint, StoredTensor, dtype_name
from bobot.errors import CheckpointError, ConfigError
from bobot.quant import int4
from bobot.quant.grid import GRIDS, round_to_nearest
from bobot.weights.published import packed_form, read_packed

FP8 = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}
GROUP = {
    "num_bits": 4,
    "type": "int",
    "symmetric": True,
    "strategy": "group",
    "group_size": 32,
    "dynamic": False,
}


def compressed(form: str, **weights: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": GROUP | weights}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": group},
    }


def checkpoint(tensors: dict[str, Tensor], config: Any, dialect: str = "hf") -> Checkpoint:
    def stored(tensor: Tensor) -> StoredTensor:
        return StoredTensor(
            tuple(tensor.shape), dtype_name(tensor.dtype), tensor.nbytes, lambda: tensor
        )

    shard = {name: stored(tensor) for name, tensor in tensors.items()}
    return Checkpoint(Path("model"), dialect, [shard], {"quantization_config": config})


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def int4_parts() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "w_packed": int4.pack(torch.randint(-8, 8, (6, 64), generator=generator)),
        "w_scale": random(6, 2).to(torch.bfloat16),
        "w_shape": torch.tensor([6, 64], dtype=torch.int32),
    }


def fp8_parts() -> dict[str, Tensor]:
    return {"w": random(200, 130).to(torch.float8_e4m3fn), "w_scale_inv": random(2, 2).abs()}


def mxfp4_parts() -> dict[str, Tensor]:
    parts = round_to_nearest(random(6, 64), GRIDS["mxfp4"]).parts
    return {"w_blocks": parts["blocks"], "w_scales": parts["scales"]}


def test_each_published_form_gives_the_values_of_its_definition() -> None:
    packed = int4_parts()
    int8 = round_to_nearest(random(6, 64), GRIDS["int8"]).parts
    blocks = mxfp4_parts()
    cases = {
        "fp8": (fp8_parts(), FP8),
        "int4": (packed, compressed("pack-quantized")),
        "int8": (
            {"w": int8["values"], "w_scale": int8["scales"]},
            compressed("int-quantized", num_bits=8),
        ),
        "mxfp4": (blocks, {"quant_method": "mxfp4"}),
        "mxfp4 packed": (
            {"w_packed": blocks["w_blocks"].flatten(-2), "w_scale": blocks["w_scales"]},
            compressed("mxfp4-pack-quantized", type="float"),
        ),
    }
    wanted = {
        "int4": (int4.unpack(packed["w_packed"]).view(6, 2, 32) * packed["w_scale"][..., None])
        .float()
        .view(6, 64),
        "mxfp4": round_to_nearest(random(6, 64), GRIDS["mxfp4"]).dequantize(),
    }
    wanted["mxfp4 packed"] = wanted["mxfp4"]
    for name, (tensors, config) in cases.items():
        source = checkpoint(tensors, config)
        form = packed_form(source)
        assert form is not None
        weight = read_packed(source, form, "w")
        values = weight.dequantize()
        assert values.shape == weight.shape, name
        if name in wanted:
            assert torch.allclose(values, wanted[name], rtol=1e-2), name
        assert weight.nbytes <= sum(t.nbytes for t in tensors.values()), f"{name} was inflated"


def test_a_checkpoint_without_the_setting_has_plain_weights() -> None:
    assert packed_form(checkpoint({}, None)) is None


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("x", ["quant_method"]),
        ({"quant_method": "awq"}, ["quant_method", "awq", "mxfp4"]),
        (FP8 | {"weight_block_size": [64, 64]}, ["weight_block_size", "64", "128"]),
        (FP8 | {"fmt": "e5m2"}, ["fmt", "e5m2"]),
        (FP8 | {"surprise": 1}, ["surprise"]),
        (compressed("dense"), ["format", "dense"]),
        (compressed("pack-quantized", num_bits=3), ["num_bits", "3"]),
        (compressed("pack-quantized", symmetric=False), ["symmetric"]),
        (compressed("pack-quantized", group_size=-1), ["group_size", "-1"]),
        (compressed("pack-quantized", actorder="group"), ["actorder"]),
        (compressed("pack-quantized") | {"config_groups": {}}, ["config_groups"]),
        (compressed("pack-quantized") | {"config_groups": {"g": {}}}, ["config_groups"]),
        (compressed("pack-quantized") | {"kv_cache_scheme": {}}, ["kv_cache_scheme"]),
        ({"quant_method": ["fp8"]}, ["quant_method"]),
    ],
)
def test_a_form_that_is_not_known_is_refused_by_name(config: Any, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        packed_form(checkpoint({}, config))
    for word in words:
        assert word in str(caught.value), f"{word} is not in: {caught.value}"


@pytest.mark.parametrize(
    ("tensors", "config", "words"),
    [
        (fp8_parts() | {"w_scale_inv": random(2, 1)}, FP8, ["scales", "[2, 1]", "[2, 2]"]),
        (fp8_parts() | {"w": random(200, 130)}, FP8, ["values", "float32", "float8"]),
        ({"w_scale_inv": random(2, 2)}, FP8, ["lacks", "w"]),
        (
            int4_parts() | {"w_shape": torch.tensor([6, 63])},
            compressed("pack-quantized"),
            ["63", "6x64"],
        ),
        (
            int4_parts() | {"w_shape": torch.tensor([6, 64, 1])},
            compressed("pack-quantized"),
            ["shape"],
        ),
        (
            int4_parts() | {"w_packed": torch.zeros(6, 7, dtype=torch.int32)},
            compressed("pack-quantized"),
            ["56", "32"],
        ),
        (
            int4_parts() | {"w_packed": torch.zeros(6, 8, dtype=torch.int64)},
            compressed("pack-quantized"),
            ["int64", "int32"],
        ),
        (
            int4_parts() | {"w_packed": torch.zeros(1, 6, 8, dtype=torch.int32)},
            compressed("pack-quantized"),
            ["3 axes"],
        ),
        (int4_parts() | {"w_scale": random(6, 3)}, compressed("pack-quantized"), ["scales"]),
        (
            mxfp4_parts() | {"w_scales": torch.zeros(6, 3, dtype=torch.uint8)},
            {"quant_method": "mxfp4"},
            ["blocks"],
        ),
        (
            mxfp4_parts() | {"w_blocks": torch.zeros(6, 2, 15, dtype=torch.uint8)},
            {"quant_method": "mxfp4"},
            ["15", "16"],
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    tensors: dict[str, Tensor], config: Any, words: list[str]
) -> None:
    source = checkpoint(tensors, config)
    form = packed_form(source)
    assert form is not None
    with pytest.raises(CheckpointError) as caught:
        read_packed(source, form, "w")
    for word in words:
        assert word in str(caught.value), f"{word} is not in: {caught.value}"
