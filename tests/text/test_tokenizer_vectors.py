"""Published tokenizers against the ids and bytes that their own code gives (../shared/parity)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from published_tokenizers import FILES, unpacked

from bobot.text import Tokenizer, load_tokenizer

STOPS = {
    "llama2": {2},
    "llama3": {128001, 128008, 128009},
    "mistral_v1": {2},
    "mistral_v3": {2},
    "mistral_tekken": {2},
}


@pytest.mark.parametrize("name", FILES)
def test_published_tokenizer_gives_its_publishers_ids(
    name: str, shared: Path, published: Callable[[str], Tokenizer]
) -> None:
    tokenizer = published(name)
    vectors = json.loads((shared / f"parity/tokenizers/{name}.vectors.json").read_text())
    assert tokenizer.vocab_size == vectors["n_vocab"]
    assert tokenizer.eos_ids >= STOPS.get(name, set())
    for case in vectors["encode"]:
        assert tokenizer.encode(case["text"]) == case["ids"], case["text"]
        if expected := case.get("ids_with_special"):
            assert tokenizer.encode(case["text"], allow_special=True) == expected, case["text"]
    for case in vectors["decode"]:
        assert tokenizer.decode(case["ids"]) == case["text_replace"], case["ids"]
        assert tokenizer.decode_bytes(case["ids"]).hex() == case["bytes_hex"], case["ids"]


@pytest.mark.parametrize("name", ["llama-spm", "llama-bpe"])
def test_vocabulary_gguf_gives_llama_cpps_ids(name: str, shared: Path, tmp_path: Path) -> None:
    folder = shared / "parity/tokenizers/gguf_vocab"
    base = f"ggml-vocab-{name}.gguf"
    [file] = [path for path in folder.glob(base + "*") if path.suffix in (".gguf", ".gz")]
    tokenizer = load_tokenizer(unpacked(file, tmp_path))
    texts = (folder / f"{base}.inp").read_text().split("\n__ggml_vocab_test__\n")
    lines = (folder / f"{base}.out").read_text().split("\n")
    for text, line in zip(texts, lines, strict=True):
        assert tokenizer.encode(text) == [int(token_id) for token_id in line.split()], text


@pytest.mark.parametrize("name", ["llama3", "mixtral", "grok1", "gptoss", "kimi_k2"])
def test_embedded_tokenizer_gives_the_ids_of_its_source(name: str, shared: Path) -> None:
    folder = shared / "parity/gguf" / name
    cases = json.loads((folder / "texts.json").read_text())
    assert cases
    tokenizers = [load_tokenizer(path) for path in (*sorted(folder.glob("*.gguf")), folder / "hf")]
    allow_special = name not in ("mixtral", "grok1")  # the reference there is sentencepiece
    for tokenizer in tokenizers:
        for case in cases:
            ids = tokenizer.encode(case["text"], allow_special)
            assert ids == case["ids"], case["text"]
        assert tokenizer.eos_ids >= tokenizers[0].eos_ids


@pytest.fixture(params=["", "tokenizer.json", "tokenizer.model", "stories260K-f32.gguf"])
def stories(request: pytest.FixtureRequest, shared: Path) -> Tokenizer:
    return load_tokenizer(shared / "weights/stories260K" / request.param)


def test_each_file_of_a_real_model_holds_the_same_tokenizer(
    stories: Tokenizer, shared: Path
) -> None:
    folder = shared / "weights/stories260K"
    for case in json.loads((folder / "expected.json").read_text()):
        assert [stories.bos_id, *stories.encode(case["prompt"])] == case["prompt_ids"]
        assert stories.decode(case["prompt_ids"] + case["greedy_ids"]) == case["text"]
    reference = load_tokenizer(folder / "tokenizer.model")
    vectors = json.loads((shared / "parity/tokenizers/llama2.vectors.json").read_text())
    for case in vectors["encode"]:
        assert stories.encode(case["text"]) == reference.encode(case["text"]), case["text"]
    assert (stories.bos_id, stories.eos_ids, stories.adds_bos) == (1, {2}, True)
