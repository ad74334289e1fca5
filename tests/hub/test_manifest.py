"""What a model is, read from headers: the published forms, and damaged files."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from pathlib import Path

import pytest

from bobot.errors import CheckpointError
from bobot.hub.digest import model_digest
from bobot.hub.manifest import describe, safetensors_header
from bobot.hub.parameters import pickled_tensor
from bobot.text.gguf_metadata import read_header


def write_safetensors(path: Path, header: object, data: bytes = b"") -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An HF folder of 3 * 4 + 2 parameters with a licence in its README."""
    config = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 64}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "README.md").write_text("---\nlanguage: id\nlicense: apache-2.0\n---\n# Card\n")
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{{ x }}"}')
    (tmp_path / "tokenizer.json").write_text("{}")
    entries = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "BF16", "shape": [3, 4], "data_offsets": [0, 24]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [24, 32]},
    }
    write_safetensors(tmp_path / "model.safetensors", entries, bytes(32))
    return tmp_path


def test_hf_folder_is_described_from_its_headers(folder: Path) -> None:
    manifest = describe("tiny", folder, read_header)
    assert (manifest.format, manifest.architecture) == ("hf", "LlamaForCausalLM")
    assert (manifest.num_parameters, manifest.dtype, manifest.context) == (14, "bfloat16", 64)
    assert (manifest.licence, manifest.tokenizer) == ("apache-2.0", "tokenizer.json")
    assert manifest.has_chat_template
    assert manifest.size_bytes == (folder / "model.safetensors").stat().st_size


def test_published_model_is_the_same_in_two_forms(shared: Path) -> None:
    folder = shared / "weights" / "stories260K"
    hf = describe("a", folder, read_header)
    gguf = describe("a", folder / "stories260K-f32.gguf", read_header)
    assert hf.num_parameters == gguf.num_parameters == 260_032
    assert (hf.context, hf.dtype) == (gguf.context, gguf.dtype) == (512, "float32")
    assert not hf.has_chat_template


@pytest.mark.parametrize(
    ("form", "expected"),
    [("llama3/meta_mp2", "meta"), ("mistral_v3/native", "mistral"), ("llama2/hf", "hf")],
)
def test_form_is_told_from_the_files(shared: Path, form: str, expected: str) -> None:
    manifest = describe("x", shared / "parity" / form, read_header)
    assert manifest.format == expected
    assert manifest.size_bytes > 0


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 8,
        b"\xff" * 16,
        struct.pack("<Q", 1 << 60) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 4) + b"{{{{",
        struct.pack("<Q", 9) + b'{"a": 12}',
        struct.pack("<Q", 37) + b'{"a": {"dtype": "F32", "shape": "x"}}',
        struct.pack("<Q", 37) + b'{"a": {"dtype": "F32", "shape":[-1]}}',
        struct.pack("<Q", 200_000) + b"[" * 200_000,
    ],
)
def test_damaged_header_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        safetensors_header(file)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b"[" * 100_000])
def test_damaged_config_is_one_clear_error(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        describe("x", folder, read_header)


@pytest.mark.parametrize(
    ("forms", "num_parameters"),
    [
        ({"gptoss/hf": "mxfp4", "gptoss/hf_bf16": "bfloat16", "gptoss/original": "mxfp4"}, 609_584),
        (
            {
                "kimi_k2/hf_bf16": "bfloat16",
                "kimi_k2/hf_fp8": "float8_e4m3",
                "kimi_k2/hf_int4": "int4",
            },
            716_764,
        ),
        ({"mixtral/hf": "bfloat16", "mixtral/native": "bfloat16"}, 308_032),
    ],
)
def test_every_form_of_a_model_has_the_same_number_of_parameters(
    shared: Path, forms: dict[str, str], num_parameters: int
) -> None:
    for form, dtype in forms.items():
        manifest = describe(form, shared / "parity" / form, read_header)
        assert (manifest.num_parameters, manifest.dtype) == (num_parameters, dtype), form


def test_first_layout_of_gpt_oss_is_described_from_its_own_settings(shared: Path) -> None:
    manifest = describe("x", shared / "parity/gptoss/original", read_header)
    assert (manifest.format, manifest.architecture, manifest.context) == ("openai", "gpt-oss", 8192)


@pytest.mark.parametrize("case", ["q8_12layers", "bf16_2layers", "f32_2layers_jaxpickle"])
def test_parameters_of_pickled_tensors_are_counted_without_opening_them(
    shared: Path, case: str
) -> None:
    folder = shared / "parity/grok1" / case
    index = json.loads((folder / "tensor_index.json").read_text())
    expected = sum(math.prod(entry.get("weight_shape") or entry["shape"]) for entry in index)
    manifest = describe(case, folder, read_header)
    assert (manifest.format, manifest.architecture) == ("xai", "grok-1")
    assert manifest.num_parameters == expected


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80\x04", b"\x80\x04K\x01K\x02\x85.", b"cos\nsystem\n(S'x'\ntR.", b"\xff" * 99],
)
def test_pickle_without_an_array_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "tensor00000_000"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="tensor00000_000: no array"):
        pickled_tensor(file)


def test_digest_is_that_of_the_checksum_list(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    sums = [f"{hashlib.sha256((folder / n).read_bytes()).hexdigest()}  {n}\n" for n in names]
    expected = hashlib.sha256("".join(sums).encode()).hexdigest()
    assert model_digest(folder, [folder]) == expected
    (folder / "README.md").write_text("other words")
    assert model_digest(folder, [folder]) == expected, "a model card is no part of the model"
    (folder / "config.json").write_text("{}")
    assert model_digest(folder, [folder]) != expected
    monkeypatch.setattr("bobot.hub.digest.MAX_READ_BYTES", 10)
    assert model_digest(folder, [folder]) is None
