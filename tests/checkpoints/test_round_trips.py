"""What we write others read, and what others write we read: safetensors, torch files, GGUF."""

from __future__ import annotations

import resource
from collections import OrderedDict
from pathlib import Path

import gguf
import pytest
import safetensors.torch
import torch
from torch import Tensor

from bobot.checkpoints import open_checkpoint, write_gguf, write_safetensors
from bobot.checkpoints.safetensors import DTYPES
from bobot.errors import CheckpointError, StorageError


def one_of_each_dtype() -> dict[str, Tensor]:
    generator = torch.manual_seed(0)
    tensors = {"scalar": torch.tensor(3.5), "empty": torch.empty(0, 4)}
    for name, dtype in DTYPES.items():
        raw = torch.randint(0, 2, (6 * dtype.itemsize,), dtype=torch.uint8, generator=generator)
        tensors[name] = raw.view(dtype).view(2, 3)
    return tensors


def assert_same(found: Tensor, expected: Tensor, name: str) -> None:
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape), name
    same = torch.equal(
        found.contiguous().view(-1).view(torch.uint8),
        expected.contiguous().view(-1).view(torch.uint8),
    )
    assert same, f"{name}: {found} is not {expected}"


def test_the_safetensors_library_reads_what_we_write(tmp_path: Path):
    tensors = one_of_each_dtype()
    write_safetensors(tmp_path / "a.safetensors", tensors, {"format": "pt"})
    with safetensors.safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert set(file.keys()) == set(tensors)
        for name, tensor in tensors.items():
            assert_same(file.get_tensor(name), tensor, name)


def test_we_read_what_we_and_the_safetensors_library_write(tmp_path: Path):
    tensors = one_of_each_dtype()
    write_safetensors(tmp_path / "ours.safetensors", tensors)
    safetensors.torch.save_file(tensors, tmp_path / "theirs.safetensors")
    for file_name in ("ours.safetensors", "theirs.safetensors"):
        with open_checkpoint(tmp_path / file_name) as checkpoint:
            assert checkpoint.tensors.keys() == tensors.keys()
            for name, tensor in tensors.items():
                assert_same(checkpoint.read(name, tensor.shape), tensor, name)


def test_a_tensor_is_mapped_and_a_write_to_it_leaves_the_file_alone(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"w": torch.arange(1024.0)})
    before = path.read_bytes()
    with open_checkpoint(path) as checkpoint:
        first, second = (checkpoint.read("w", (1024,)) for _ in range(2))
    assert first.data_ptr() == second.data_ptr(), "two reads made two copies"
    assert first.untyped_storage().nbytes() == 4096, "a tensor owns its own bytes only"
    first.zero_()
    assert path.read_bytes() == before


def test_a_tensor_that_starts_at_an_odd_byte_is_copied_right(tmp_path: Path):
    tensors = {"a": torch.tensor([7], dtype=torch.uint8), "b": torch.tensor([1.5, 2.5])}
    header = (
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
        b'"b":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}}'
    )
    data = len(header).to_bytes(8, "little") + header + b"\7" + tensors["b"].numpy().tobytes()
    (tmp_path / "odd.safetensors").write_bytes(data)
    with open_checkpoint(tmp_path / "odd.safetensors") as checkpoint:
        for name, tensor in tensors.items():
            assert_same(checkpoint.read(name, tensor.shape), tensor, name)


@pytest.mark.parametrize("write", [write_safetensors, lambda p, t: write_gguf(p, {}, t)])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(write, tmp_path: Path):
    """A limit on file size fails a write in the same place as a full disk does."""
    path = tmp_path / "model"
    path.write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(StorageError, match="can't be written"):
            write(path, {"w": torch.zeros(1 << 20)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
    assert path.read_text() == "old"


def test_ctrl_c_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_safetensors(tmp_path / "model.safetensors", {"w": torch.zeros(4)})
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_a_storage_error(tmp_path: Path):
    with pytest.raises(StorageError, match="No such file"):
        write_safetensors(tmp_path / "no" / "model.safetensors", {"w": torch.zeros(4)})


def meta_folder(folder: Path, *shards: object) -> Path:
    (folder / "params.json").write_text('{"dim": 4}')
    for rank, shard in enumerate(shards):
        torch.save(shard, folder / f"consolidated.{rank:02d}.pth")
    return folder


def test_we_read_every_tensor_that_torch_saves(tmp_path: Path):
    base = torch.arange(24.0).view(4, 6)
    tensors = {
        "plain": base.clone(),
        "transposed": base.t(),
        "part of a storage": base[1:3, 2:5],
        "parameter": torch.nn.Parameter(torch.ones(3)),
        "scalar": torch.tensor(2.0),
        "empty": torch.empty(0, 5),
        "float8": torch.ones(4).to(torch.float8_e4m3fn),
        "half": torch.ones(5, dtype=torch.float16),
        "bfloat16": torch.ones(5, dtype=torch.bfloat16),
        "integers": torch.arange(5),
    }
    meta_folder(tmp_path, tensors)
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.config == {"dim": 4}
        for name, tensor in tensors.items():
            assert_same(checkpoint.read(name, tensor.shape), tensor.detach(), name)


def test_we_read_the_state_dict_of_a_module(tmp_path: Path):
    """state_dict() is an OrderedDict with an attribute, and protocol 4 spells names differently."""
    state = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4)).state_dict()
    assert isinstance(state, OrderedDict)
    for protocol in (2, 4):
        (tmp_path / "params.json").write_text("{}")
        torch.save(state, tmp_path / "consolidated.00.pth", pickle_protocol=protocol)
        with open_checkpoint(tmp_path) as checkpoint:
            assert checkpoint.tensors.keys() == state.keys()
            for name, tensor in state.items():
                assert_same(checkpoint.read(name, tensor.shape), tensor, name)


@pytest.mark.parametrize("axis", [0, 1])
def test_shards_are_joined_along_the_axis_that_adds_up(axis: int, tmp_path: Path):
    whole = torch.arange(96.0).view(8, 12)
    norm = torch.ones(12)
    parts = [part.clone() for part in whole.chunk(4, dim=axis)]
    meta_folder(tmp_path, *({"w": part, "norm": norm} for part in parts))
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.num_shards == 4
        assert checkpoint.tensors["w"].num_bytes == 96 * 4
        assert torch.equal(checkpoint.read("w", (8, 12)), whole)
        assert torch.equal(checkpoint.read("norm", (12,)), norm)


def test_copies_that_differ_between_shards_are_refused(tmp_path: Path):
    meta_folder(tmp_path, {"norm": torch.ones(4)}, {"norm": torch.zeros(4)})
    with open_checkpoint(tmp_path) as checkpoint, pytest.raises(CheckpointError, match="differ"):
        checkpoint.read("norm", (4,))


def test_a_missing_last_shard_is_named_by_its_shapes(tmp_path: Path):
    meta_folder(tmp_path, *({"w": torch.ones(2, 4)} for _ in range(3)))
    words = r"3 x \[2, 4\].*\[8, 4\].*missing"
    with open_checkpoint(tmp_path) as checkpoint, pytest.raises(CheckpointError, match=words):
        checkpoint.read("w", (8, 4))


def test_an_unknown_name_is_refused(tmp_path: Path):
    meta_folder(tmp_path, {"w": torch.ones(2)})
    with open_checkpoint(tmp_path) as checkpoint, pytest.raises(CheckpointError, match="tensor v"):
        checkpoint.read("v", (2,))


METADATA = {
    "general.architecture": "llama",
    "general.quantized": True,
    "llama.block_count": 2,
    "large": 1 << 40,
    "negative": -1,
    "llama.rope.freq_base": 10000.0,
    "tokenizer.ggml.tokens": ["a", "halo \u2581dunia"],
    "tokenizer.ggml.scores": [0.5, -1.0],
    "tokenizer.ggml.token_type": [1, 3],
    "flags": [True, False],
    "none": [],
}


def gguf_tensors() -> tuple[dict[str, Tensor], dict[str, str]]:
    generator = torch.manual_seed(3)
    tensors = {
        "f32": torch.randn(3, 5, generator=generator),
        "f16": torch.randn(7, generator=generator).half(),
        "bf16": torch.randn(2, 3, 4, generator=generator).bfloat16(),
        "q8": torch.randn(4, 64, generator=generator),
    }
    return tensors, {"q8": "Q8_0"}


def test_the_gguf_package_reads_what_we_write(tmp_path: Path):
    tensors, types = gguf_tensors()
    write_gguf(tmp_path / "m.gguf", METADATA, tensors, types)
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    for key, value in METADATA.items():
        assert reader.fields[key].contents() == value, key
    assert [tensor.name for tensor in reader.tensors] == list(tensors)
    for tensor in reader.tensors:
        expected = tensors[tensor.name]
        assert tuple(reversed(tensor.shape.tolist())) == tuple(expected.shape)
        values = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy())
        if tensor.name == "q8":
            error = (values - expected).abs().max()
            assert error < 0.02, f"Q8_0 differs by {error}"
        else:
            assert torch.equal(values.view(expected.shape), expected.float()), tensor.name


def test_we_read_what_we_write_as_gguf(tmp_path: Path):
    tensors, types = gguf_tensors()
    write_gguf(tmp_path / "m.gguf", METADATA, tensors, types)
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.config == METADATA
        assert {name: info.dtype for name, info in checkpoint.tensors.items()} == {
            "f32": "float32",
            "f16": "float16",
            "bf16": "bfloat16",
            "q8": "Q8_0",
        }
        for name in ("f32", "f16", "bf16"):
            assert_same(checkpoint.read(name, tensors[name].shape), tensors[name], name)
        assert (checkpoint.read("q8", (4, 64)) - tensors["q8"]).abs().max() < 0.02


def test_we_read_what_the_gguf_package_writes(tmp_path: Path):
    values = torch.randn(4, 256, generator=torch.manual_seed(4))
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_custom_alignment(64)
    writer.add_tensor("dense", values.numpy())
    packed = gguf.quants.quantize(values.numpy(), gguf.GGMLQuantizationType.Q5_1)
    writer.add_tensor("packed", packed, raw_dtype=gguf.GGMLQuantizationType.Q5_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open_checkpoint(tmp_path / "m.gguf") as checkpoint:
        assert_same(checkpoint.read("dense", (4, 256)), values, "dense")
        expected = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q5_1)
        assert torch.equal(checkpoint.read("packed", (4, 256)), torch.from_numpy(expected))


def test_a_set_of_gguf_files_is_one_checkpoint(tmp_path: Path):
    for number in range(2):
        metadata = {"split.no": number, "split.count": 2, "split.tensors.count": 2}
        if number == 0:
            metadata["general.architecture"] = "llama"
        tensors = {f"w{number}": torch.full((4,), float(number))}
        write_gguf(tmp_path / f"m-{number + 1:05d}-of-00002.gguf", metadata, tensors)
    for path in (tmp_path, tmp_path / "m-00002-of-00002.gguf"):
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.config["general.architecture"] == "llama"
            assert [checkpoint.read(f"w{i}", (4,))[0].item() for i in range(2)] == [0, 1]
    write_gguf(tmp_path / "m-00002-of-00002.gguf", {"split.no": 0, "split.count": 2}, {})
    with pytest.raises(CheckpointError, match="number 0 of 2"):
        open_checkpoint(tmp_path)
