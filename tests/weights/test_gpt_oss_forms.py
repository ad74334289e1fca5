"""The published forms of gpt-oss, written tiny: all give one model, every mistake is named."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
import tiny_gpt_oss as tiny
import torch
from safetensors.torch import load_file, save_file
from tiny_gpt_oss import CONFIG, OPENAI_CONFIG, hf_plain_tensors, hf_tensors, openai_tensors
from torch import Tensor
from transformers import GptOssConfig, GptOssForCausalLM

import bobot
from bobot.checkpoints import open_checkpoint
from bobot.errors import BobotError
from bobot.quant.weight import QuantWeight

IDS = torch.randint(0, tiny.V, (40,), generator=torch.Generator().manual_seed(5))
PLAIN_CONFIG = {k: v for k, v in CONFIG.items() if k != "quantization_config"}
LAYER = "model.layers.1.mlp.experts"


def index_of(folder: Path) -> Path:
    """A numbered set gets the index that some repositories have beside it."""
    files = sorted(folder.glob("model--*.safetensors"))
    weight_map = {name: path.name for path in files for name in load_file(path)}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), encoding="utf-8")
    return folder


FORMS: dict[str, Callable[[Path], Path]] = {
    "hf": tiny.write_hf,
    "hf plain": lambda folder: tiny.write_hf(folder, hf_plain_tensors(), PLAIN_CONFIG),
    "openai": tiny.write_openai,
    "openai as a file": lambda folder: tiny.write_openai(folder) / "model.safetensors",
    "openai in 3 files": lambda folder: tiny.write_openai(folder, num_files=3),
    "openai in 3 files with index": lambda folder: index_of(tiny.write_openai(folder, num_files=3)),
    "gguf": tiny.write_gguf,
}


@pytest.fixture(scope="module")
def expected() -> Tensor:
    """What transformers makes of the plain weights."""
    kept = {k: v for k, v in PLAIN_CONFIG.items() if k != "architectures"}
    model = GptOssForCausalLM(GptOssConfig(**kept, attn_implementation="eager"))
    model.load_state_dict({name: tensor.float() for name, tensor in hf_plain_tensors().items()})
    with torch.no_grad():
        return model(IDS[None]).logits[0]


@pytest.mark.parametrize("form", FORMS)
def test_each_form_gives_the_logits_of_transformers(
    form: str, expected: Tensor, tmp_path: Path
) -> None:
    model = bobot.load(FORMS[form](tmp_path), dtype="float32")
    difference = (model.logits(IDS) - expected).abs().max().item()
    assert difference <= 1e-4, f"logits differ by {difference:.2e}"
    experts = model.model.model.layers[0].mlp.experts
    assert isinstance(experts.gate_up_proj, QuantWeight) == (form != "hf plain")


@pytest.mark.parametrize("form", ["hf", "openai", "gguf"])
def test_packed_values_are_bit_for_bit_those_of_the_description(form: str, tmp_path: Path) -> None:
    model = bobot.load(FORMS[form](tmp_path))
    for n, layer in enumerate(model.model.model.layers):
        for name in tiny.matrices():
            found = getattr(layer.mlp.experts, name).dequantize()
            assert torch.equal(found, tiny.values(*tiny.codes_and_exponents(name, n))), (n, name)


@pytest.mark.parametrize(
    "types",
    [
        {"gate": "Q8_0", "up": "Q8_0", "down": "Q8_0"},
        {"gate": "Q5_0", "up": "Q8_0"},
        {"gate": "F16", "up": "Q4_0"},
        {"gate": "BF16", "up": "BF16", "down": "F32"},
    ],
    ids=lambda types: "-".join(types.values()),
)
def test_experts_of_a_gguf_may_have_any_types(types: dict[str, str], tmp_path: Path) -> None:
    path = tiny.write_gguf(tmp_path, types=types)
    model = bobot.load(path, dtype="float32")
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}

    def values(name: str) -> Tensor:
        tensor = stored[f"blk.2.{name}.weight"]
        return torch.tensor(gguf.quants.dequantize(tensor.data, tensor.tensor_type))

    experts = model.model.model.layers[2].mlp.experts
    x = torch.randn(5, tiny.D, generator=torch.Generator().manual_seed(6))
    both = torch.stack((values("ffn_gate_exps")[4] @ x.T, values("ffn_up_exps")[4] @ x.T), dim=1)
    gate, up = both.permute(2, 0, 1).unbind(-1)
    bias = experts.gate_up_proj_bias[4]
    gate, up = (gate + bias[::2]).clamp(max=7), (up + bias[1::2]).clamp(-7, 7)
    hidden = gate * torch.sigmoid(1.702 * gate) * (up + 1)
    wanted = hidden @ values("ffn_down_exps")[4].T + experts.down_proj_bias[4]
    with torch.no_grad():
        found = experts.run(4, x)
    error = (found - wanted).norm().item() / wanted.norm().item()
    assert error <= 1e-6, f"relative error {error:.2e}"


def test_a_published_folder_is_the_hugging_face_form_though_the_first_layout_lies_inside(
    tmp_path: Path,
) -> None:
    tiny.write_hf(tmp_path)
    (tmp_path / "original").mkdir()
    tiny.write_openai(tmp_path / "original")
    with open_checkpoint(tmp_path) as outer, open_checkpoint(tmp_path / "original") as inner:
        assert (outer.dialect, inner.dialect) == ("hf", "openai")


def test_packed_experts_are_mapped_from_the_file(tmp_path: Path) -> None:
    for folder, write in (("hf", tiny.write_hf), ("gguf", tiny.write_gguf)):
        (tmp_path / folder).mkdir()
        model = bobot.load(write(tmp_path / folder))
        experts = model.model.model.layers[0].mlp.experts
        maps = Path(f"/proc/{os.getpid()}/maps")
        if not maps.exists():
            pytest.skip("no /proc on this system")
        lines = [line.split(maxsplit=5) for line in maps.read_text().splitlines()]
        spans = [tuple(int(x, 16) for x in line[0].split("-")) for line in lines if len(line) > 5]
        for weight in (experts.gate_up_proj, experts.down_proj):
            for name, part in weight.parts.items():
                address = part.data_ptr()
                assert any(low <= address < high for low, high in spans), (folder, name)


def message(path: Path) -> str:
    """The one line with which loading fails."""
    with pytest.raises(BobotError) as caught:
        bobot.load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def without(tensors: dict[str, Tensor], *ends: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(ends)}


def changed(
    tensors: dict[str, Tensor], name: str, change: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    return {**tensors, name: change(tensors[name]).contiguous()}


HF_MISTAKES: dict[str, tuple[Callable[[], dict[str, Tensor]], list[str]]] = {
    "no blocks": (
        lambda: without(hf_tensors(), "1.mlp.experts.gate_up_proj_blocks"),
        [f"{LAYER}.gate_up_proj_blocks", "missing"],
    ),
    "no scales": (
        lambda: without(hf_tensors(), "1.mlp.experts.down_proj_scales"),
        [f"{LAYER}.down_proj_scales", "missing"],
    ),
    "neither": (
        lambda: without(hf_tensors(), "1.mlp.experts.down_proj_blocks", "down_proj_scales"),
        ["down_proj"],
    ),
    "no sinks": (
        lambda: without(hf_tensors(), "2.self_attn.sinks"),
        ["model.layers.2.self_attn.sinks", "missing"],
    ),
    "scales of another shape": (
        lambda: changed(hf_tensors(), f"{LAYER}.gate_up_proj_scales", lambda t: t[:, :-1]),
        [f"{LAYER}.gate_up_proj", "[6, 191, 2", "[6, 192, 2"],
    ),
    "blocks of 8 bytes": (
        lambda: changed(hf_tensors(), f"{LAYER}.down_proj_blocks", lambda t: t[..., :8]),
        [f"{LAYER}.down_proj", "[6, 64, 3, 8]", "[6, 64, 3, 16]"],
    ),
    "blocks of another type": (
        lambda: changed(hf_tensors(), f"{LAYER}.down_proj_blocks", lambda t: t.view(torch.int8)),
        [f"{LAYER}.down_proj", "int8", "uint8"],
    ),
    "scales in bf16": (
        lambda: changed(hf_tensors(), f"{LAYER}.down_proj_scales", lambda t: t.bfloat16()),
        [f"{LAYER}.down_proj", "bfloat16", "uint8"],
    ),
    "blocks and a plain weight": (
        lambda: {**hf_tensors(), f"{LAYER}.down_proj": torch.zeros(6, 96, 64)},
        ["unexpected", f"{LAYER}.down_proj"],
    ),
    "five experts in one layer": (
        lambda: {
            name: tensor[:5] if name.startswith(f"{LAYER}.down_proj_") else tensor
            for name, tensor in hf_tensors().items()
        },
        [f"{LAYER}.down_proj", "[5, 64", "[6, 64"],
    ),
    "bias of another width": (
        lambda: changed(hf_tensors(), f"{LAYER}.gate_up_proj_bias", lambda t: t[:, 1:]),
        [f"{LAYER}.gate_up_proj_bias", "191", "192"],
    ),
    "plain experts as [E, out, in]": (
        lambda: changed(hf_plain_tensors(), f"{LAYER}.gate_up_proj", lambda t: t.transpose(1, 2)),
        [f"{LAYER}.gate_up_proj", "[6, 64, 192]", "[6, 192, 64]"],
    ),
    "plain experts with one axis": (
        lambda: changed(hf_plain_tensors(), f"{LAYER}.down_proj", lambda t: t.flatten()),
        [f"{LAYER}.down_proj", "[36864]"],
    ),
    "plain experts of whole numbers": (
        lambda: changed(hf_plain_tensors(), f"{LAYER}.down_proj", lambda t: t.int()),
        [f"{LAYER}.down_proj", "int32"],
    ),
}


@pytest.mark.parametrize("mistake", HF_MISTAKES)
def test_a_damaged_hugging_face_form_is_refused_by_name(mistake: str, tmp_path: Path) -> None:
    make, words = HF_MISTAKES[mistake]
    line = message(tiny.write_hf(tmp_path, make()))
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_local_experts": 8}, ["8", "6"]),
        ({"intermediate_size": 128}, ["gate_up_proj", "256", "192"]),
        ({"head_dim": 16}, ["q_proj", "64", "32"]),
        ({"layer_types": ["full_attention"] * 4}, ["layer_types", "4", "3"]),
        ({"quantization_config": {"quant_method": "awq"}}, ["quant_method", "awq", "mxfp4"]),
        ({"quantization_config": None}, ["experts.down_proj", "missing"]),
        ({"architectures": ["GptOssForSequenceClassification"]}, ["GptOssForCausalLM"]),
    ],
)
def test_settings_of_another_model_are_refused(
    changes: dict[str, object], words: list[str], tmp_path: Path
) -> None:
    line = message(tiny.write_hf(tmp_path, config={**CONFIG, **changes}))
    assert all(word in line for word in words), line


def test_a_missing_file_of_a_numbered_set_is_noticed(tmp_path: Path) -> None:
    tiny.write_openai(tmp_path, num_files=3)
    (tmp_path / "model--00002-of-00003.safetensors").unlink()
    line = message(tmp_path)
    assert "2 files" in line and "announce 3" in line, line


def test_a_tensor_in_two_files_of_a_numbered_set_is_refused(tmp_path: Path) -> None:
    tiny.write_openai(tmp_path, num_files=2)
    second = tmp_path / "model--00002-of-00002.safetensors"
    save_file({**load_file(second), "block.0.attn.norm.scale": torch.ones(tiny.D)}, second)
    line = message(tmp_path)
    assert "block.0.attn.norm.scale" in line and "earlier file" in line, line


def test_a_numbered_set_without_settings_is_refused(tmp_path: Path) -> None:
    tiny.write_openai(tmp_path, num_files=2)
    (tmp_path / "config.json").unlink()
    assert "config.json" in message(tmp_path)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("block.1.attn.qkv.weight", lambda t: t[:-1], ["attn.qkv", "63", "64"]),
        ("block.1.attn.qkv.bias", lambda t: torch.cat((t, t)), ["attn.qkv", "128", "64"]),
        ("block.1.attn.qkv.weight", lambda t: t[:, :-1], ["q_proj", "63", "64"]),
        ("block.1.attn.qkv.weight", lambda t: t[0, 0], ["attn.qkv", "[]"]),
        ("block.0.mlp.mlp1_weight.scales", lambda t: t[:3], ["block.0.mlp.mlp1_weight", "[3, 192"]),
        ("block.0.mlp.mlp2_weight.blocks", lambda t: t.int(), ["mlp2_weight", "int32", "uint8"]),
    ],
)
def test_a_damaged_first_layout_is_refused_by_name(
    name: str, change: Callable[[Tensor], Tensor], words: list[str], tmp_path: Path
) -> None:
    line = message(tiny.write_openai(tmp_path, changed(openai_tensors(), name, change)))
    assert all(word in line for word in words), line


def test_a_first_layout_without_scales_is_refused_by_name(tmp_path: Path) -> None:
    tensors = without(openai_tensors(), "block.2.mlp.mlp1_weight.scales")
    assert "block.2.mlp.mlp1_weight.scales" in message(tiny.write_openai(tmp_path, tensors))


def test_a_first_layout_of_another_size_is_refused(tmp_path: Path) -> None:
    line = message(tiny.write_openai(tmp_path, config={**OPENAI_CONFIG, "num_experts": 7}))
    assert "7" in line and "6" in line, line


@pytest.mark.parametrize(
    "name", ["attn_sinks.weight", "ffn_up_exps.weight", "ffn_gate_exps.bias", "output.weight"]
)
def test_a_gguf_without_a_tensor_is_refused_by_name(name: str, tmp_path: Path) -> None:
    line = message(tiny.write_gguf(tmp_path, leave_out=(name,)))
    assert name in line and "missing" in line, line


def test_a_gguf_of_another_width_is_refused(tmp_path: Path) -> None:
    config = {**tiny.GGUF_CONFIG, "expert_feed_forward_length": 64}
    line = message(tiny.write_gguf(tmp_path, config))
    assert "gate_up_proj" in line and "192" in line and "128" in line, line
