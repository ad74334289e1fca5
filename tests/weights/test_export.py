"""A model written in another form is the same model: to us, to transformers, to gguf-py."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path

import gguf
import pytest
import torch
from safetensors.torch import load_file
from tiny_gpt_oss import write_hf
from tiny_models import CONFIGS, VOCAB, saved, transformers_logits

import bobot
from bobot.cli import main
from bobot.errors import StorageError
from bobot.text import Tokenizer
from bobot.weights import export_hf as hf_writer
from bobot.weights.export_gguf import export_gguf
from bobot.weights.export_hf import export_hf
from bobot.weights.source import open_model

IDS = torch.randint(0, VOCAB, (60,), generator=torch.Generator().manual_seed(2))


def to_gguf(path: Path, file: Path, tokenizer: Tokenizer | None = None) -> Path:
    with open_model(path) as source:
        export_gguf(source, tokenizer, file, "tiny")
    return file


def to_hf(path: Path, folder: Path, tokenizer: Tokenizer | None = None) -> Path:
    with open_model(path) as source:
        export_hf(source, tokenizer, folder)
    return folder


def worst(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max())


@pytest.mark.parametrize("family", CONFIGS)
def test_a_model_of_transformers_comes_back_to_it_through_gguf(family: str, tmp_path: Path) -> None:
    folder = saved(family, tmp_path / "saved")
    expected = transformers_logits(folder, IDS)
    file = to_gguf(folder, tmp_path / "m.gguf")
    ours = bobot.load(file).logits(IDS)
    assert worst(ours, expected) < 5e-5, f"GGUF: {worst(ours, expected)}"
    returned = transformers_logits(to_hf(file, tmp_path / "back"), IDS)
    assert worst(returned, expected) < 1e-5, f"transformers again: {worst(returned, expected)}"


@pytest.mark.parametrize("family", CONFIGS)
def test_a_folder_exported_to_hf_holds_the_same_numbers(family: str, tmp_path: Path) -> None:
    folder = saved(family, tmp_path / "saved")
    before = load_file(folder / "model.safetensors")
    after = load_file(to_hf(folder, tmp_path / "again") / "model.safetensors")
    assert before.keys() == after.keys(), before.keys() ^ after.keys()
    wrong = [name for name in before if not torch.equal(before[name], after[name])]
    assert not wrong, wrong


def test_the_gguf_package_reads_what_we_write(tmp_path: Path) -> None:
    folder = saved("llama", tmp_path / "saved")
    stored = load_file(folder / "model.safetensors")
    reader = gguf.GGUFReader(to_gguf(folder, tmp_path / "m.gguf"))
    names = {tensor.name: tensor for tensor in reader.tensors}
    assert names["blk.1.ffn_down.weight"].data.shape == (64, 96)
    down = torch.from_numpy(names["blk.1.ffn_down.weight"].data.copy())
    assert torch.equal(down, stored["model.layers.1.mlp.down_proj.weight"])
    assert reader.fields["llama.rope.dimension_count"].contents() == 16
    assert "rope_freqs.weight" in names and "output.weight" not in names


def test_mxfp4_changes_its_layout_and_no_bit(tmp_path: Path) -> None:
    folder = tmp_path / "published"
    folder.mkdir()
    write_hf(folder)
    file = to_gguf(folder, tmp_path / "m.gguf")
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    found = tensors["blk.0.ffn_down_exps.weight"]
    assert found.tensor_type == gguf.GGMLQuantizationType.MXFP4
    values = gguf.quants.dequantize(found.data, found.tensor_type)
    with open_model(folder) as source:
        ours = source.read("model.layers.0.mlp.experts.down_proj").dequantize()
    assert torch.equal(torch.from_numpy(values), ours)
    again = load_file(to_hf(file, tmp_path / "back") / "model.safetensors")
    before = {k: v for part in folder.glob("*.safetensors") for k, v in load_file(part).items()}
    packed = [name for name in before if name.endswith(("_blocks", "_scales"))]
    wrong = [name for name in packed if not torch.equal(before[name], again[name])]
    assert packed and not wrong, f"{len(wrong)} of {len(packed)}: {wrong[:2]}"


def test_shards_have_an_index_and_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved("mixtral", tmp_path / "saved")
    monkeypatch.setattr(hf_writer, "MAX_SHARD_BYTES", 100_000)
    parts = to_hf(folder, tmp_path / "parts")
    index = json.loads((parts / "model.safetensors.index.json").read_text())
    files = set(index["weight_map"].values())
    assert len(files) > 3 and all((parts / name).is_file() for name in files)
    assert torch.equal(bobot.load(parts).logits(IDS), bobot.load(folder).logits(IDS))


def test_nothing_is_left_when_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved("llama", tmp_path / "saved")
    monkeypatch.setattr(hf_writer, "_write_companions", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        to_hf(folder, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_a_full_disk_is_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved("llama", tmp_path / "saved")
    usage = namedtuple("usage", "total used free")(1, 1, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    for write, name in ((to_hf, "new"), (to_gguf, "new.gguf")):
        with pytest.raises(StorageError, match="MB free"):
            write(folder, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("llama3/meta_mp2", {"hf", "gguf"}),
        ("mistral/native", {"hf", "gguf"}),
        ("mixtral/native", {"hf", "gguf"}),
        ("gptoss/original", {"hf", "gguf"}),
        ("kimi_k2/hf_bf16", {"hf", "gguf"}),
        ("kimi_k2/hf_fp8", {"hf"}),
        ("kimi_k2/hf_int4", {"hf"}),
        ("grok1/bf16_2layers/ckpt-0", {"hf", "gguf"}),
        ("grok1/bf16_2layers/hf_jaxnames", {"hf", "gguf"}),
        ("gguf/grok1/model-bf16.gguf", {"hf", "gguf"}),
        ("gguf/llama3_quantised/model-Q4_K_M.gguf", {"gguf"}),
    ],
)
def test_published_forms_are_the_same_model_after_export(
    name: str, what: set[str], shared: Path, tmp_path: Path
) -> None:
    """Those that keep every bit; others lose what bf16 lacks, and say so."""
    path = shared / "parity" / name
    expected = bobot.load(path, dtype="float32").logits(IDS)
    written = {"hf": to_hf, "gguf": to_gguf}
    for form in sorted(what):
        target = written[form](path, tmp_path / f"m.{form}")
        error = worst(bobot.load(target, dtype="float32").logits(IDS), expected)
        assert error < 2e-5, f"{name} as {form}: {error}"


def test_the_command_writes_says_and_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved("llama", tmp_path / "saved")
    target = tmp_path / "m.gguf"
    assert main(["export", str(folder), str(target), "--to", "gguf", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["num_tensors"] == 21, told.out
    assert "no tokenizer" in told.err
    assert main(["export", str(folder), str(target), "--to", "gguf"]) == 2
    assert "exists already" in capsys.readouterr().err


def test_packed_weights_that_the_form_lacks_become_bf16_and_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "mini"
    assert main(["export", "bobot", str(target), "--to", "hf"]) == 0
    assert "57 tensors of Q8_0 were written as bf16" in capsys.readouterr().err
    assert load_file(target / "model.safetensors")["model.norm.weight"].dtype == torch.float32
    question = [{"role": "user", "content": "Who are you?"}]
    answer = bobot.load(target, dtype="float32").chat(question, max_tokens=40, temperature=0.0)
    assert "bobot" in answer, answer
