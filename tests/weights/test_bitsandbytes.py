"""NF4 and FP4 as bitsandbytes publishes them: what is accepted, what it means, what is refused.

The files here are packed by this file, from the format's description.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from bobot import kernels
from bobot.checkpoints.stored import Checkpoint, StoredTensor, dtype_name
from bobot.errors import BobotError, CheckpointError, ConfigError
from bobot.layers.context import PackedAttention
from bobot.models.llama import Llama
from bobot.models.llama_dialects import config_from_hf
from bobot.quant.tiles import TileFormat
from bobot.quant.weight import QuantWeight
from bobot.weights.load import load_model
from bobot.weights.published import packed_form, read_packed

# QLoRA (arXiv:2305.14314), appendix E; and 1, 2 and 1 bits of sign, exponent and fraction.
# fmt: off
NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]
# fmt: on
TWELFTHS = [0, 0.0625, 8, 12, 4, 6, 2, 3, 0, -0.0625, -8, -12, -4, -6, -2, -3]
TABLES = {"nf4": NF4, "fp4": [number / 12 for number in TWELFTHS]}
EIGHT_BITS = torch.linspace(-1, 1, 256).sin()
"""Any 256 numbers serve as the table of packed scales."""


def settings(kind: str = "nf4", *, is_nested: bool = True) -> dict[str, Any]:
    return {
        "_load_in_4bit": True,
        "_load_in_8bit": False,
        "bnb_4bit_compute_dtype": "bfloat16",
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": kind,
        "bnb_4bit_use_double_quant": is_nested,
        "llm_int8_enable_fp32_cpu_offload": False,
        "llm_int8_has_fp16_weight": False,
        "llm_int8_skip_modules": ["lm_head"],
        "llm_int8_threshold": 6.0,
        "load_in_4bit": True,
        "load_in_8bit": False,
        "quant_method": "bitsandbytes",
    }


def packed(
    name: str, weight: Tensor, kind: str = "nf4", *, is_nested: bool = True, **changes: Any
) -> tuple[dict[str, Tensor], Tensor]:
    """The tensors of the file, and the values that they mean."""
    flat = weight.float().flatten()
    blocks = torch.nn.functional.pad(flat, (0, -len(flat) % 64)).view(-1, 64)
    table = torch.tensor(TABLES[kind])
    state: dict[str, Any] = {
        "quant_type": kind,
        "blocksize": 64,
        "dtype": "bfloat16",
        "shape": list(weight.shape),
    }
    scales = blocks.abs().amax(1)
    files = {"absmax": scales, "quant_map": table}
    if is_nested:
        offset = float(scales.mean())
        outer = (scales - offset).abs().amax().repeat(-(-len(scales) // 256))
        places = ((scales - offset)[:, None] / outer[0] - EIGHT_BITS).abs().argmin(1)
        files["absmax"] = places.to(torch.uint8)
        files |= {"nested_absmax": outer, "nested_quant_map": EIGHT_BITS.clone()}
        state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": offset}
        scales = EIGHT_BITS[places] * outer[0] + offset
    codes = (blocks[..., None] / scales[:, None, None] - table).abs().argmin(-1)
    values = (table[codes] * scales[:, None]).flatten()[: len(flat)].view(weight.shape)
    pairs = codes.flatten()[: len(flat)].view(-1, 2)
    files["codes"] = (pairs[:, 0] << 4 | pairs[:, 1]).to(torch.uint8).view(-1, 1)
    text = json.dumps(state | changes).encode()
    files[f"quant_state.bitsandbytes__{kind}"] = torch.tensor(list(text), dtype=torch.uint8)
    return {name if part == "codes" else f"{name}.{part}": t for part, t in files.items()}, values


def checkpoint(tensors: dict[str, Tensor], config: Any) -> Checkpoint:
    def stored(tensor: Tensor) -> StoredTensor:
        return StoredTensor(
            tuple(tensor.shape), dtype_name(tensor.dtype), tensor.nbytes, lambda: tensor
        )

    shard = {name: stored(tensor) for name, tensor in tensors.items()}
    return Checkpoint(Path("model"), "hf", [shard], {"quantization_config": config})


def read(tensors: dict[str, Tensor], config: Any) -> Tensor | QuantWeight:
    source = checkpoint(tensors, config)
    form = packed_form(source)
    assert form is not None
    return read_packed(source, form, "w")


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))) * 0.02


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("is_nested", [False, True])
@pytest.mark.parametrize("shape", [(6, 64), (33, 192), (300, 128)])
def test_the_values_are_those_of_the_definition(
    kind: str, is_nested: bool, shape: tuple[int, int]
) -> None:
    files, values = packed("w", random(*shape), kind, is_nested=is_nested)
    weight = read(files, settings(kind, is_nested=is_nested))
    assert isinstance(weight, QuantWeight) and weight.shape == shape
    assert torch.equal(weight.dequantize(), values)
    assert torch.equal(weight.values(2, 5), values[2:5])
    assert torch.equal(weight.rows(torch.tensor([5, 0])), values[[5, 0]])
    error = (values - random(*shape)).norm() / random(*shape).norm()
    assert error < 0.2, f"the packing of this test is wrong by {error:.2f}"


@pytest.mark.parametrize("shape", [(6, 96), (5, 34), (1, 2)])
def test_rows_that_are_no_whole_blocks_are_unpacked(shape: tuple[int, int]) -> None:
    files, values = packed("w", random(*shape))
    weight = read(files, settings())
    assert isinstance(weight, Tensor) and weight.dtype == torch.bfloat16
    assert torch.equal(weight, values.bfloat16())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"load_in_8bit": True}, ["load_in_8bit", "True"]),
        ({"load_in_4bit": False}, ["load_in_4bit", "False"]),
        ({"bnb_4bit_quant_type": "af4"}, ["bnb_4bit_quant_type", "af4", "nf4"]),
        ({"bnb_4bit_quant_storage": "bfloat16"}, ["bnb_4bit_quant_storage", "uint8"]),
        ({"bnb_4bit_use_double_quant": 1}, ["bnb_4bit_use_double_quant"]),
        ({"surprise": 1}, ["surprise"]),
    ],
)
def test_settings_that_are_not_known_are_refused(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        packed_form(checkpoint({}, settings() | changes))
    for word in words:
        assert word in str(caught.value), f"{word} is not in: {caught.value}"


STATE = "w.quant_state.bitsandbytes__nf4"
DAMAGED: dict[str, tuple[dict[str, Tensor], list[str]]] = {
    "fewer codes": ({"w": torch.zeros(191, 1, dtype=torch.uint8)}, ["191", "192"]),
    "another dtype": ({"w": torch.zeros(192, 1)}, ["float32", "uint8"]),
    "fewer scales": ({"w.absmax": torch.zeros(5, dtype=torch.uint8)}, ["absmax", "5", "6"]),
    "another table": ({"w.quant_map": torch.linspace(-1, 1, 16)}, ["quant_map", "nf4"]),
    "too few outer scales": ({"w.nested_absmax": torch.zeros(0)}, ["nested_absmax"]),
    "a short table": ({"w.nested_quant_map": torch.zeros(16)}, ["nested_quant_map", "256"]),
    "no JSON": ({STATE: torch.tensor([123], dtype=torch.uint8)}, ["JSON"]),
    "too long": ({STATE: torch.zeros(5000, dtype=torch.uint8)}, ["quant_state", "5000"]),
}


@pytest.mark.parametrize("mistake", DAMAGED)
def test_parts_that_do_not_fit_are_refused(mistake: str) -> None:
    changed, words = DAMAGED[mistake]
    with pytest.raises(CheckpointError) as caught:
        read(packed("w", random(6, 64))[0] | changed, settings())
    for word in words:
        assert word in str(caught.value), f"{word} is not in: {caught.value}"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"quant_type": "fp4"}, "quant_type"),
        ({"blocksize": 0}, "blocksize"),
        ({"blocksize": 2**40}, "blocksize"),
        ({"blocksize": 64.0}, "blocksize"),
        ({"nested_blocksize": -256}, "nested_blocksize"),
        ({"nested_dtype": "float16"}, "nested_dtype"),
        ({"nested_offset": "0"}, "nested_offset"),
        ({"dtype": "int8"}, "dtype"),
        ({"shape": [6, 64, 1]}, "shape"),
        ({"shape": [-6, -64]}, "shape"),
        ({"shape": [2**40, 2**40]}, "shape"),
        ({"shape": [7, 64]}, "192"),
        ({"shape": [3, 3]}, "9 values"),
        ({"extra": 1}, "extra"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(CheckpointError, match=word):
        read(packed("w", random(6, 64), **changes)[0], settings())


CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 40,
    "max_position_embeddings": 32,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}


def write(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """A model whose layers are NF4, and the values of all its weights."""
    torch.manual_seed(0)
    source = type("Source", (), {"config": CONFIG})()
    state = Llama(config_from_hf(source)).state_dict()  # type: ignore[arg-type]
    files, values = {}, {}
    for name, tensor in state.items():
        files[name] = values[name] = tensor.bfloat16().clone()
        if "_proj" in name:
            parts, values[name] = packed(name, tensor)
            files |= parts
    config = CONFIG | {"quantization_config": settings()}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(files, folder / "model.safetensors")
    return folder, values


@torch.inference_mode()
@pytest.mark.parametrize("num_tokens", [1, 20])
def test_a_model_gives_the_logits_of_its_values(num_tokens: int, tmp_path: Path) -> None:
    path, values = write(tmp_path)
    plain = Llama(config_from_hf(type("Source", (), {"config": CONFIG})()))  # type: ignore[arg-type]
    plain.load_state_dict({name: tensor.float() for name, tensor in values.items()})
    model, report = load_model(path, dtype="float32")
    ids, positions = torch.arange(num_tokens), torch.arange(num_tokens)
    expected = plain.logits(plain(ids, positions, PackedAttention()))
    found = model.logits(model(ids, positions, PackedAttention()))
    difference = (found - expected).abs().max().item()
    assert difference <= 1e-5, f"logits differ by {difference:.1e}"
    weight = model.model.layers[1].mlp.down_proj.weight
    assert torch.equal(weight.dequantize(), values["model.layers.1.mlp.down_proj.weight"])
    has_tiles = kernels.available and kernels.isa() != "portable"
    assert isinstance(weight.format, TileFormat) == has_tiles
    assert load_model(path)[1].dtype == torch.bfloat16
    assert report.num_parameters == sum(tensor.numel() for tensor in values.values())


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    path, _ = write(tmp_path)
    config = CONFIG | {"quantization_config": settings("fp4")}
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(BobotError, match=r"quant_state\.bitsandbytes__fp4"):
        load_model(path)
