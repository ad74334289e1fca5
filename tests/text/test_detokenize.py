"""Streaming text: pieces add up to decode, and no piece holds half a character."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import tiny_tokenizers as tiny

from bobot.text import Detokenizer, Tokenizer, load_tokenizer


@pytest.fixture(params=["sentencepiece", "tiktoken"])
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> Tokenizer:
    make = tiny.sentencepiece_file if request.param == "sentencepiece" else tiny.tiktoken_file
    return load_tokenizer(make(tmp_path / "tokenizer.model"))


def test_pieces_add_up_to_decode_for_any_ids(tokenizer: Tokenizer) -> None:
    rng = random.Random(2)
    for _ in range(500):
        ids = [rng.randrange(tokenizer.vocab_size) for _ in range(rng.randint(0, 12))]
        detokenizer = Detokenizer(tokenizer)
        pieces = [detokenizer.push(token_id) for token_id in ids]
        assert "".join([*pieces, detokenizer.finish()]) == tokenizer.decode(ids), ids


def test_no_piece_holds_half_a_character(tokenizer: Tokenizer) -> None:
    text = "caf\u00e9 \u4f60\u597d \U0001f642\U0001f9d1\u200d\U0001f52c"
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.push(token_id) for token_id in tokenizer.encode(text)]
    assert "".join(pieces) == text and detokenizer.finish() == ""
    assert "\ufffd" not in "".join(pieces) and "" in pieces


def test_a_character_that_never_ends_becomes_the_replacement_character(
    tokenizer: Tokenizer,
) -> None:
    detokenizer = Detokenizer(tokenizer)
    ids = tokenizer.encode("a\U0001f642")[:-1]
    text = "".join(map(detokenizer.push, ids))
    assert text == "a" and set(detokenizer.finish()) == {"\ufffd"}


def test_text_that_goes_on_keeps_its_first_space(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny.sentencepiece_file(tmp_path / "tokenizer.model"))
    [token_id] = tokenizer.encode("hello")
    assert Detokenizer(tokenizer).push(token_id) == "hello"
    assert Detokenizer(tokenizer, opens_text=False).push(token_id) == " hello"
