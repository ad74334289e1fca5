"""The account of bytes: from headers, from settings alone, and against what publishers state."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bobot.hub.names import aliases
from bobot.hub.published_settings import published_settings
from bobot.weights.forms import Form, Role, other_forms, packed_sample, parts_of
from bobot.weights.load import load_model
from bobot.weights.subject import Subject, subject_of, subject_of_packed

FILES = [
    "gguf/gptoss/model-bf16.gguf",
    "gguf/grok1/model-bf16.gguf",
    "gguf/kimi_k2/model-bf16.gguf",
    "gguf/llama3/model-f16.gguf",
    "gguf/llama3_quantised/model-Q4_K_M.gguf",
    "gguf/llama3_quantised/model-Q8_0.gguf",
    "gguf/mixtral/model-bf16.gguf",
    "gptoss/hf",
    "gptoss/hf_bf16",
    "gptoss/original",
    "grok1/bf16_2layers",
    "grok1/bf16_2layers/hf_hpcai",
    "grok1/bf16_2layers/hf_jaxnames",
    "grok1/f32_2layers_jaxpickle",
    "grok1/q8_12layers",
    "kimi_k2/hf_bf16",
    "kimi_k2/hf_fp8",
    "kimi_k2/hf_int4",
    "llama2/hf",
    "llama2/meta",
    "llama2/meta_mp2",
    "llama3/hf",
    "mistral/native",
    "mixtral/hf",
    "mixtral/native",
]
PUBLISHED = {
    "llama2:70b": (68_976_648_192, 137.95),
    "llama3:8b": (8_030_261_248, 16.06),
    "llama3.1:405b": (405_853_388_800, 811.71),
    "mistral:7b": (7_248_023_552, 14.50),
    "mixtral:8x7b": (46_702_792_704, 93.41),
    "grok-1": (315_684_820_992, 318.24),
    "gpt-oss:20b": (20_914_757_184, 13.76),
    "gpt-oss:120b": (116_829_156_672, 65.25),
    "kimi-k2": (1_026_408_232_448, 1029.2),
    "kimi-k2-thinking": (1_026_408_232_448, 594.2),
    "deepseek-v3": (671_026_419_200, 673.15),
}
"""Parameters and 10^9 bytes that the publishers state (DeepSeek's without its layer 61)."""


def of_alias(name: str) -> Subject:
    settings = published_settings(aliases()[name])
    assert settings is not None
    return subject_of_packed(settings)


@pytest.mark.parametrize("name", FILES)
def test_bytes_counted_from_headers_are_those_that_a_load_takes(shared: Path, name: str) -> None:
    path = shared / "parity" / name
    subject = subject_of(path)
    _, report = load_model(path)
    counted = subject.published.num_bytes
    assert counted == report.num_bytes, f"{name}: counted {counted}, loaded {report.num_bytes}"
    assert subject.published.dtype == report.dtype
    assert sum(part.numel for part in parts_of(subject.model)) == report.num_parameters


@pytest.mark.parametrize(
    "name", ["gptoss/hf", "gptoss/original", "kimi_k2/hf_fp8", "kimi_k2/hf_int4", "llama3/hf",
             "mistral/native", "mixtral/native", "grok1/q8_12layers"],
)  # fmt: skip
def test_settings_alone_give_the_same_bytes(shared: Path, tmp_path: Path, name: str) -> None:
    folder = shared / "parity" / name
    for file in (*folder.glob("config.json"), *folder.glob("params.json")):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    alone, whole = subject_of(tmp_path), subject_of(folder)
    assert (alone.origin, whole.origin) == ("settings", "files")
    assert alone.published.num_bytes == whole.published.num_bytes
    assert alone.published.dtype == whole.published.dtype


def test_llama_2_of_meta_has_its_vocabulary_without_tensors(shared: Path, tmp_path: Path) -> None:
    raw = (shared / "parity/llama2/meta/params.json").read_bytes()
    (tmp_path / "params.json").write_bytes(raw)
    assert subject_of(tmp_path).config.vocab_size == 32000


def test_the_settings_file_itself_can_be_named(shared: Path, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_bytes((shared / "parity/llama3/hf/config.json").read_bytes())
    assert subject_of(file).origin == "settings"


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_are_reached(name: str) -> None:
    subject = of_alias(name)
    parameters, gigabytes = PUBLISHED[name]
    assert sum(part.numel for part in parts_of(subject.model)) == parameters
    found = subject.published.num_bytes / 1e9
    # Kimi's and DeepSeek's kv_b_proj is unpacked at load.
    assert found == pytest.approx(gigabytes, rel=2e-3), f"{name}: {found:.2f} GB"


@pytest.mark.parametrize("name", aliases())
def test_every_short_name_can_be_counted(name: str) -> None:
    subject = of_alias(name)
    assert subject.published.num_bytes > 1e9
    assert subject.download_bytes >= subject.published.num_bytes


def test_q4_k_m_is_as_large_as_the_files_of_llama_cpp() -> None:
    """4.92 and 28.45 GB are the sizes of the GGUF files on the Hub; they hold vocabularies too."""
    for name, gigabytes in (("llama3.1:8b", 4.92), ("mixtral:8x7b", 28.45)):
        forms = forms_by_name(of_alias(name))
        assert forms["Q4_K_M"].num_bytes / 1e9 == pytest.approx(gigabytes, rel=3e-3)


def test_bits_count_scales_and_what_stays_wide() -> None:
    forms = forms_by_name(of_alias("llama3.1:8b"))
    bits = {name: round(form.bits_per_weight, 2) for name, form in forms.items()}
    assert bits == {
        "bfloat16": 16.0, "int8": 9.48, "Q8_0": 8.5, "int4": 6.01, "mxfp4": 5.79, "Q4_K_M": 4.89,
    }  # fmt: skip
    assert forms["int4"].plain_roles == [Role.HEAD, Role.EMBEDDING, Role.SMALL]
    assert forms["bfloat16"].plain_roles == []


def test_roles_of_a_mixture_of_experts() -> None:
    parts = {part.name: part.role for part in parts_of(of_alias("kimi-k2").model)}
    assert parts["model.embed_tokens.weight"] is Role.EMBEDDING
    assert parts["lm_head.weight"] is Role.HEAD
    layer = "model.layers.1."
    assert parts[layer + "mlp.gate.weight"] is Role.ROUTER
    assert parts[layer + "mlp.experts.gate_proj"] is Role.EXPERTS
    assert parts[layer + "mlp.shared_experts.gate_proj.weight"] is Role.MATRIX
    assert parts[layer + "input_layernorm.weight"] is Role.SMALL


def test_a_tied_embedding_is_the_output() -> None:
    roles = [part.role for part in parts_of(of_alias("llama3.2:1b").model)]
    assert Role.EMBEDDING not in roles
    assert roles.count(Role.HEAD) == 1


def test_columns_that_fill_no_block_stay_unpacked() -> None:
    assert packed_sample("Q4_K", 8, 2880) is None
    sample = packed_sample("Q5_0", 8, 2880)
    assert sample is not None
    assert sample.nbytes == 8 * 2880 // 32 * 22
    assert sample.device == torch.device("meta")


def forms_by_name(subject: Subject) -> dict[str, Form]:
    return {form.name: form for form in other_forms(subject.model, subject.family)}
