"""A tokenizer written into another file gives the same ids: GGUF metadata and tokenizer.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pytest
import tiny_tokenizers as tiny
from published_tokenizers import FILES
from tokenizers import Regex, pre_tokenizers
from tokenizers import Tokenizer as LibraryTokenizer

from bobot.errors import TokenizerError
from bobot.text import Tokenizer, load_tokenizer
from bobot.text.gguf_tokenizer import PRE_TOKENIZERS, read_gguf_tokenizer
from bobot.text.tokenizer_writing import (
    _cuts,
    gguf_metadata,
    is_exact_as_json,
    tokenizer_config,
    tokenizer_json,
)

QUICK = ["llama2", "mistral_v3", "kimi_k2_standin"]
TEXT = "hello world, angka 123  dua spasi\n\n\u4f60 don't [TAG] kan"


def reread(tokenizer: Tokenizer, path: Path) -> Tokenizer:
    """The tokenizer of a GGUF that holds its metadata and nothing else."""
    path.write_bytes(tiny.gguf_bytes(gguf_metadata(tokenizer, tokenizer.vocab_size)))
    return load_tokenizer(path)


@pytest.mark.parametrize("name", QUICK)
def test_published_vectors_hold_after_writing(
    name: str, shared: Path, tmp_path: Path, published: Callable[[str], Tokenizer]
) -> None:
    assert name in FILES
    tokenizer = published(name)
    vectors = json.loads((shared / f"parity/tokenizers/{name}.vectors.json").read_text())
    embedded = reread(tokenizer, tmp_path / "t.gguf")
    library = LibraryTokenizer.from_str(json.dumps(tokenizer_json(tokenizer)))
    for case in vectors["encode"]:
        text = case["text"]
        assert embedded.encode(text) == case["ids"], f"GGUF: {text!r}"
        if not any(special in text for special in tokenizer.special_tokens):
            found = library.encode(text, add_special_tokens=False).ids
            assert found == case["ids"], f"tokenizer.json: {text!r}"
    for case in vectors["decode"]:
        assert embedded.decode_bytes(case["ids"]) == tokenizer.decode_bytes(case["ids"])
    same = ("bos_id", "eos_ids", "adds_bos")
    assert [getattr(embedded, key) for key in same] == [getattr(tokenizer, key) for key in same]


def test_every_file_format_survives_both_ways(tmp_path: Path) -> None:
    made = [tiny.sentencepiece_file(tmp_path / "tokenizer.model"), tmp_path / "merges.gguf"]
    made[-1].write_bytes(tiny.gguf_bytes(tiny.gguf_merges_metadata()))
    for file in made:
        tokenizer = load_tokenizer(file)
        folder = tmp_path / f"{file.name}.hf"
        folder.mkdir()
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(tokenizer)))
        (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config(tokenizer)))
        embedded = reread(tokenizer, tmp_path / f"{file.name}.gguf")
        # The library can't say SentencePiece's user-defined pieces: see is_exact_as_json.
        written = [load_tokenizer(folder)] if is_exact_as_json(tokenizer) else []
        assert bool(written) == (file.suffix == ".gguf")
        for again in (*written, embedded):
            assert again.encode(TEXT) == tokenizer.encode(TEXT), file.name
            assert again.decode(again.encode(TEXT)) == tokenizer.decode(tokenizer.encode(TEXT))
            assert again.eos_ids == tokenizer.eos_ids, file.name


def test_rows_behind_the_last_token_become_unused_tokens(tmp_path: Path) -> None:
    path = tmp_path / "merges.gguf"
    path.write_bytes(tiny.gguf_bytes(tiny.gguf_merges_metadata()))
    tokenizer = load_tokenizer(path)
    size = tokenizer.vocab_size
    metadata = gguf_metadata(tokenizer, size + 3)
    assert metadata["tokenizer.ggml.tokens"][-3:] == [f"[PAD{size + i}]" for i in range(3)]
    assert metadata["tokenizer.ggml.token_type"][-3:] == [5, 5, 5]


def test_the_sample_tells_every_known_split_from_every_other() -> None:
    patterns = {pattern for pattern, _ in PRE_TOKENIZERS.values()}
    cuts = [_cuts(pre_tokenizers.Split(Regex(pattern), "isolated")) for pattern in patterns]
    assert all(a != b for a, b in combinations(cuts, 2))


def test_a_split_that_gguf_can_not_name_is_refused(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny.tekken_file(tmp_path / "tekken.json"))
    with pytest.raises(TokenizerError, match="no name"):
        gguf_metadata(tokenizer, tokenizer.vocab_size)


def test_a_model_without_a_tokenizer_says_so_in_its_gguf() -> None:
    metadata = gguf_metadata(None, 100)
    assert metadata == {"tokenizer.ggml.model": "no_vocab"}
    with pytest.raises(Exception, match="embeds no tokenizer"):
        read_gguf_tokenizer(Path("m.gguf"), metadata)
