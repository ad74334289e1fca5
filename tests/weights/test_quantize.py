"""A model with fewer bits: the same from the command, at load and in memory; calibrated better."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import VOCAB, saved

import bobot
from bobot.cli import main
from bobot.errors import UsageError
from bobot.layers.context import PackedAttention
from bobot.quant.grid import GRIDS
from bobot.weights.calibration import calibrate
from bobot.weights.load import load_model
from bobot.weights.quantize import quantizable, quantize_model, rounded
from bobot.weights.source import open_model

IDS = list(range(3, 60))


def quantized(folder: Path, target: Path, name: str) -> Any:
    with open_model(folder) as source:
        return quantize_model(source, None, target, GRIDS[name])


@pytest.mark.parametrize("family", ["llama", "mixtral", "deepseek_v3"])
@pytest.mark.parametrize("name", GRIDS)
def test_written_and_rounded_at_load_are_the_same_model(
    family: str, name: str, tmp_path: Path
) -> None:
    folder = saved(family, tmp_path / "saved")
    report = quantized(folder, tmp_path / "small", name)
    assert report.num_packed > 0 and not report.left, report
    written = bobot.load(tmp_path / "small").logits(IDS)
    at_load = bobot.load(folder, quantize=name).logits(IDS)
    difference = float((written - at_load).abs().max())
    assert difference < 1e-5, f"{family} {name}: {difference}"


def test_int8_stays_close_and_four_bits_less_so(tmp_path: Path) -> None:
    folder = saved("llama", tmp_path)
    plain = bobot.load(folder).logits(IDS)
    errors = {
        name: float(
            (bobot.load(folder, quantize=name).logits(IDS) - plain).abs().mean() / plain.std()
        )
        for name in GRIDS
    }
    assert errors["int8"] < 0.05 < errors["int4"] < errors["mxfp4"] < 0.7, errors


def test_published_mxfp4_is_found_again_from_bf16(shared: Path, tmp_path: Path) -> None:
    """gpt-oss as fine-tuned models save it, back in the form it was published in."""
    source = shared / "parity" / "gptoss"
    quantized(source / "hf_bf16", tmp_path / "small", "mxfp4")
    written = bobot.load(tmp_path / "small", dtype="float32").logits(IDS)
    published = bobot.load(source / "hf", dtype="float32").logits(IDS)
    assert float((written - published).abs().max()) < 1e-5


def test_calibration_changes_the_answers_less(tmp_path: Path) -> None:
    folder = saved("mixtral", tmp_path)
    generator = torch.Generator().manual_seed(1)
    sequences = torch.randint(0, VOCAB, (12, 128), generator=generator).tolist()
    model, _ = load_model(folder)
    names = list(quantizable(model))
    originals = {name: model.get_parameter(name).detach().clone() for name in names}
    held_out = torch.randint(0, VOCAB, (100,), generator=generator)

    def logits_with(weights: dict[str, torch.Tensor]) -> torch.Tensor:
        fresh, _ = load_model(folder)
        for name, values in weights.items():
            fresh.get_parameter(name).data = values
        positions = torch.arange(len(held_out))
        with torch.no_grad():
            return fresh.logits(fresh(held_out, positions, PackedAttention()))

    found = calibrate(model, GRIDS["int4"], names, sequences)
    assert found.weights.keys() == set(names)
    assert (found.num_unseen, found.num_experts_unseen) == (0, 0)
    plain = logits_with({})
    nearest = logits_with({n: rounded(w, GRIDS["int4"]).dequantize() for n, w in originals.items()})
    corrected = logits_with({n: w.dequantize() for n, w in found.weights.items()})
    errors = [float((logits - plain).square().mean()) for logits in (corrected, nearest)]
    assert errors[0] < errors[1], f"calibrated {errors[0]}, to nearest {errors[1]}"


def test_experts_that_few_tokens_reach_are_rounded_and_counted(tmp_path: Path) -> None:
    model, _ = load_model(saved("mixtral", tmp_path))
    names = [name for name in quantizable(model) if "experts" in name]
    found = calibrate(model, GRIDS["int4"], names, [[1, 2, 3]])
    assert found.num_experts_unseen == 2 * 3 * 4, found.num_experts_unseen


def test_inputs_that_make_no_whole_groups_stay_and_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved("llama", tmp_path / "saved")
    weights = load_file(folder / "model.safetensors")
    for layer in (0, 1):
        for part, cut in (("gate", 0), ("up", 0), ("down", 1)):
            name = f"model.layers.{layer}.mlp.{part}_proj.weight"
            weights[name] = weights[name].narrow(cut, 0, 80).contiguous()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text()) | {"intermediate_size": 80}
    (folder / "config.json").write_text(json.dumps(config))
    assert main(["quantize", str(folder), str(tmp_path / "small"), "--to", "int4"]) == 0
    assert "2 matrices stay as they are" in capsys.readouterr().err
    settings = json.loads((tmp_path / "small" / "config.json").read_text())
    ignored = settings["quantization_config"]["ignore"]
    assert {"lm_head", "model.layers.0.mlp.down_proj"} <= set(ignored), ignored
    assert bobot.load(tmp_path / "small").logits(IDS).isfinite().all()


def test_what_can_not_be_done_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved("gpt_oss", tmp_path / "saved")
    with pytest.raises(UsageError, match="allowed: mxfp4"):
        quantized(folder, tmp_path / "small", "int4")
    text = tmp_path / "text.txt"
    text.write_text("too short")
    command = ["quantize", "bobot", str(tmp_path / "small"), "--to", "int4"]
    for options, words in (
        (["--method", "gptq"], "do not go together"),
        (["--calibration", str(tmp_path / "none.txt")], "can't read"),
        (["--calibration", str(text)], "at least 2048"),
    ):
        assert main([*command, *options]) in (1, 2)
        assert words in capsys.readouterr().err
    assert main(["quantize", "bobot", str(folder), "--to", "int4"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert not (tmp_path / "small").exists()


def test_the_command_calibrates_on_a_text(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(
        "Once upon a time there was a little girl who liked to play in the park. " * 120
    )
    model = shared / "weights" / "stories260K"
    command = ["quantize", str(model), str(tmp_path / "small"), "--to", "int4", "--json"]
    assert main([*command, "--calibration", str(text)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["num_packed"], len(told["left"]), told["num_unseen"]) == (30, 5, 0), told
    story = bobot.load(tmp_path / "small").generate("Once upon", max_tokens=20, temperature=0.0)
    assert " time" in "".join(story)
