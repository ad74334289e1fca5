"""Tiles on disk: made once, mapped afterwards, made again when the model changes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import tiny_gpt_oss
import torch

import bobot
from bobot import kernels
from bobot.hub.made import forget_missing
from bobot.quant.tiles import TileFormat
from bobot.weights import tile_cache
from bobot.weights.load import load_model

pytestmark = pytest.mark.skipif(
    not kernels.available or kernels.isa() == "portable", reason="weights stay in rows here"
)

IDS = [1, 30, 7, 12, 5]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the embedded model, an empty cache folder, and no model too small for it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tile_cache, "SMALL_BYTES", 0)
    target = tmp_path / "model.gguf"
    (embedded,) = Path(bobot.__file__).parent.joinpath("assets").glob("*.gguf")
    target.write_bytes(embedded.read_bytes())
    return target


def made(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "bobot" / "tiles").glob("*.safetensors"))


def test_the_second_load_maps_what_the_first_one_made(file, tmp_path, monkeypatch):
    first = bobot.load(file).logits(IDS)
    (path,) = made(tmp_path)
    monkeypatch.setattr(tile_cache, "tiled", None)
    model, report = load_model(file)
    assert torch.equal(bobot.load(file).logits(IDS), first)
    assert made(tmp_path) == [path]
    weight = model.model.layers[0].mlp.down_proj.weight
    assert isinstance(weight.format, TileFormat)
    assert report.num_bytes < file.stat().st_size


def test_logits_are_those_of_the_published_rows(file):
    rows, _ = load_model(file, dtype="float32", tiles=False)
    tiles, _ = load_model(file, dtype="float32")
    for name in ("model.layers.0.self_attn.q_proj", "model.embed_tokens"):
        a, b = (model.get_submodule(name).weight for model in (rows, tiles))
        assert not isinstance(a.format, TileFormat) and isinstance(b.format, TileFormat)
        assert torch.equal(a.dequantize(), b.dequantize())


def test_tensors_begin_at_pages(file, tmp_path):
    bobot.load(file)
    (path,) = made(tmp_path)
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    assert (8 + length) % 4096 == 0
    large = [t for t in header.values() if t["shape"][-1] >= 65536]
    assert large and all(t["data_offsets"][0] % 4096 == 0 for t in large)


def test_the_cache_takes_the_bytes_of_the_model(file, tmp_path):
    bobot.load(file)
    (path,) = made(tmp_path)
    assert path.stat().st_size <= 1.1 * file.stat().st_size


def test_a_model_that_changed_is_done_again(file, tmp_path):
    bobot.load(file)
    (before,) = made(tmp_path)
    os.utime(file, ns=(1, 1))
    bobot.load(file)
    (after,) = made(tmp_path)
    assert after != before


def test_a_damaged_file_is_named_and_the_model_runs(file, tmp_path, caplog):
    expected = bobot.load(file).logits(IDS)
    (path,) = made(tmp_path)
    path.write_bytes(path.read_bytes()[:-4096])
    assert torch.equal(bobot.load(file).logits(IDS), expected)
    assert path.name in caplog.text


def test_a_full_disk_is_told_and_the_model_runs(file, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(tile_cache, "ROOM_BYTES", 1 << 60)
    assert bobot.load(file).logits(IDS).isfinite().all()
    assert "MiB are free" in caplog.text and not made(tmp_path)


def test_a_model_larger_than_memory_runs_from_its_files(file, tmp_path, monkeypatch):
    monkeypatch.setattr(
        tile_cache.hardware, "detect", lambda *_: type("Facts", (), {"ram_bytes": 1 << 20})()
    )
    model, _ = load_model(file)
    assert not made(tmp_path)
    weight = model.model.layers[0].mlp.down_proj.weight
    assert not isinstance(weight.format, TileFormat)


def test_what_was_made_goes_with_the_model(file, tmp_path):
    bobot.load(file)
    assert forget_missing() == 0 and len(made(tmp_path)) == 1
    size = made(tmp_path)[0].stat().st_size
    file.unlink()
    assert forget_missing() == size and not made(tmp_path)
    assert not list((tmp_path / "cache" / "bobot" / "tiles").iterdir())


def test_what_a_killed_process_left_goes_after_an_hour(file, tmp_path):
    bobot.load(file)
    (path,) = made(tmp_path)
    fresh, old = (path.with_name(f".{path.name}.{pid}.partial") for pid in (1, 2))
    for partial in (fresh, old):
        partial.write_bytes(bytes(100))
    os.utime(old, (0, 0))
    assert forget_missing() == 100
    assert fresh.exists() and not old.exists() and made(tmp_path) == [path]


def without_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tile_cache, "has_amx", lambda: False)


def test_layers_of_16_bits_beside_packed_ones_are_tiles_too(file, tmp_path, monkeypatch):
    """All but the embedding, which is looked up; read again from the disk they are the published
    values.
    """
    without_amx(monkeypatch)
    monkeypatch.setattr(tile_cache, "MIN_OUTPUTS", 16)
    path = tmp_path / "gpt_oss"
    path.mkdir()
    tiny_gpt_oss.write_hf(path)
    rows, report = load_model(path, tiles=False)
    load_model(path)
    monkeypatch.setattr(tile_cache, "tiled", None)
    tiles, report_of_tiles = load_model(path)
    assert report == report_of_tiles and report.dtype == torch.bfloat16
    layers = [f"model.layers.{n}.self_attn.{part}_proj" for n in range(3) for part in "qkvo"]
    for name in ("lm_head", *layers):
        plain, weight = (model.get_submodule(name).weight for model in (rows, tiles))
        assert isinstance(weight.format, TileFormat) and weight.format.name == "bfloat16", name
        assert torch.equal(weight.dequantize(), plain.float()), name
    assert isinstance(tiles.model.embed_tokens.weight, torch.Tensor)


def test_a_model_all_in_16_bits_stays_mapped(file, tmp_path, monkeypatch):
    without_amx(monkeypatch)
    path = tmp_path / "plain"
    path.mkdir()
    config = {k: v for k, v in tiny_gpt_oss.CONFIG.items() if k != "quantization_config"}
    tiny_gpt_oss.write_hf(path, tiny_gpt_oss.hf_plain_tensors(), config)
    model, _ = load_model(path)
    assert all(isinstance(p, torch.Tensor) for p in model.parameters())
    assert isinstance(model.lm_head.weight, torch.Tensor) and not made(tmp_path)


def test_with_amx_layers_of_16_bits_stay_as_they_are(file, tmp_path, monkeypatch):
    monkeypatch.setattr(tile_cache, "has_amx", lambda: True)
    path = tmp_path / "gpt_oss"
    path.mkdir()
    tiny_gpt_oss.write_hf(path)
    model, _ = load_model(path)
    assert isinstance(model.lm_head.weight, torch.Tensor)
    assert isinstance(model.model.layers[0].mlp.experts.down_proj.format, TileFormat)
