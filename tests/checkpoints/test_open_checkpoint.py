"""Which form is chosen: content decides, Hugging Face's files come first."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bobot.checkpoints import open_checkpoint, write_gguf, write_safetensors
from bobot.errors import CheckpointError, NotFoundError


def value_of(path: Path) -> tuple[str, float]:
    with open_checkpoint(path) as checkpoint:
        return checkpoint.dialect, checkpoint.read("w", (1,)).item()


def hf_files(folder: Path, value: float = 1.0) -> None:
    (folder / "config.json").write_text('{"model_type": "llama"}')
    write_safetensors(folder / "model.safetensors", {"w": torch.tensor([value])})


def meta_files(folder: Path, value: float = 2.0) -> None:
    (folder / "params.json").write_text("{}")
    torch.save({"w": torch.tensor([value])}, folder / "consolidated.00.pth")


def mistral_files(folder: Path, value: float = 3.0) -> None:
    (folder / "params.json").write_text("{}")
    write_safetensors(folder / "consolidated.safetensors", {"w": torch.tensor([value])})


@pytest.mark.parametrize(
    ("writers", "expected"),
    [
        ([hf_files], ("hf", 1.0)),
        ([meta_files], ("meta", 2.0)),
        ([mistral_files], ("mistral", 3.0)),
        ([meta_files, hf_files], ("hf", 1.0)),
        ([mistral_files, hf_files], ("hf", 1.0)),
    ],
)
def test_hugging_face_files_come_before_the_publishers_own(writers, expected, tmp_path: Path):
    for write in writers:
        write(tmp_path)
    assert value_of(tmp_path) == expected


def test_llama_repository_with_a_folder_original_is_hugging_face(tmp_path: Path):
    hf_files(tmp_path)
    (tmp_path / "original").mkdir()
    meta_files(tmp_path / "original")
    assert value_of(tmp_path) == ("hf", 1.0)
    assert value_of(tmp_path / "original") == ("meta", 2.0)


def test_the_name_of_a_gguf_file_does_not_matter(tmp_path: Path):
    write_gguf(tmp_path / "sha256-0123", {"a": 1}, {"w": torch.tensor([4.0])})
    assert value_of(tmp_path / "sha256-0123") == ("gguf", 4.0)


def test_files_may_be_links_into_a_cache(tmp_path: Path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    hf_files(blobs)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(f"../blobs/{path.name}")
    assert value_of(snapshot) == ("hf", 1.0)


def test_generation_config_is_read_when_it_is_there(tmp_path: Path):
    hf_files(tmp_path)
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.generation_config == {}
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')
    with open_checkpoint(tmp_path / "model.safetensors") as checkpoint:
        assert checkpoint.generation_config == {"eos_token_id": [1, 2]}
        assert checkpoint.config == {"model_type": "llama"}


def test_shards_without_their_index_are_refused_with_the_next_step(tmp_path: Path):
    write_safetensors(tmp_path / "model-00001-of-00002.safetensors", {"w": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"model-00001.*model.safetensors.index.json"):
        open_checkpoint(tmp_path)


def test_a_single_pth_file_points_to_its_folder(tmp_path: Path):
    meta_files(tmp_path)
    with pytest.raises(CheckpointError, match="Give the folder"):
        open_checkpoint(tmp_path / "consolidated.00.pth")


def test_nothing_at_the_path_is_not_found(tmp_path: Path):
    with pytest.raises(NotFoundError, match="does not exist"):
        open_checkpoint(tmp_path / "absent")
