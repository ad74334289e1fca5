"""Small whole files of each form, for the tests that damage them."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch

from bobot.checkpoints import write_gguf, write_safetensors


@pytest.fixture
def good_files(tmp_path: Path) -> dict[str, bytes]:
    """File name -> bytes; params.json for the .pth lies in tmp_path."""
    tensors = {"w": torch.arange(64.0).view(2, 32), "v": torch.ones(3, dtype=torch.bfloat16)}
    folder = tmp_path / "good"
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", tensors)
    write_gguf(folder / "model.gguf", {"general.architecture": "llama"}, tensors, {"w": "Q8_0"})
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    (folder / "consolidated.00.pth").write_bytes(buffer.getvalue())
    (tmp_path / "params.json").write_text("{}")
    return {path.name: path.read_bytes() for path in folder.iterdir()}
