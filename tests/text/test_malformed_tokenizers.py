"""Damaged and hostile tokenizer files raise our errors, fast."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_tokenizers as tiny

from bobot.errors import BobotError, CheckpointError, NotFoundError, TokenizerError
from bobot.text import load_tokenizer
from bobot.text.loading import MAX_FILE_BYTES

GOOD_MODEL = (tiny.field(3, 2), tiny.field(4, 0))  # BPE, remove_extra_whitespaces off


def sentencepiece(*pieces: bytes, trainer: bytes = b"", normalizer: bytes = b"") -> bytes:
    data = b"".join(tiny.field(1, piece) for piece in pieces)
    bpe, spaces = GOOD_MODEL
    return data + tiny.field(2, bpe + trainer) + tiny.field(3, spaces + normalizer)


def changed(change: Callable[[dict], object]) -> bytes:
    document = tiny.byte_level_json()
    change(document)
    return json.dumps(document).encode()


def tekken(**config: object) -> bytes:
    base = {"pattern": ".", "default_vocab_size": 2, "default_num_special_tokens": 1}
    return json.dumps({"config": base | config, "vocab": []}).encode()


def gguf(base: dict[str, object], **changes: object) -> bytes:
    return tiny.gguf_bytes(base | {f"tokenizer.ggml.{key}": v for key, v in changes.items()})


A = tiny.field(1, b"a")
UNK = tiny.field(1, b"<unk>") + tiny.field(3, 2)
MALFORMED = {
    "empty.model": b"",
    "a varint without end.model": b"\x0a" + b"\xff" * 40,
    "a field of 2**60 bytes.model": b"\x0a" + b"\x80" * 8 + b"\x10" + b"abc",
    "a piece without text.model": sentencepiece(tiny.field(2, 1.0)),
    "a piece that is a number.model": tiny.field(1, A) + tiny.field(1, 7),
    "a text that is a number.model": sentencepiece(tiny.field(1, 7)),
    "a piece that is not UTF-8.model": sentencepiece(UNK, tiny.field(1, b"\xff")),
    "a piece of type 9.model": sentencepiece(UNK, A + tiny.field(3, 9)),
    "a byte piece without digits.model": sentencepiece(
        UNK, tiny.field(1, b"<0xZZ>") + tiny.field(3, 6)
    ),
    "neither bytes nor unknown.model": sentencepiece(A),
    "no pieces.model": b"\x0a\x00",
    "unigram.model": tiny.field(1, UNK) + tiny.field(2, tiny.field(3, 1)),
    "a group.model": tiny.field(1, UNK) + b"\x0b",
    "normaliser.model": sentencepiece(UNK, normalizer=tiny.field(2, b"charsmap")),
    "white space rules.model": tiny.field(1, UNK) + tiny.field(2, GOOD_MODEL[0]),
    "bad base64.model": b"IQ== 0\n!!!! 1\n",
    "a rank that is a word.model": b"IQ== zero\n",
    "a rank of 2**60.model": b"IQ== 0\nIg== 1152921504606846976\n",
    "a rank of 5000 digits.model": b"IQ== " + b"9" * 5000,
    "no ranks.model": b"\n\n",
    "single bytes missing.model": b"IQ== 0\nIg== 1\n",
    "binary.model": bytes(range(128, 256)),
    "unknown.tiktoken": b"IQ== 0\n",
    "text.json": b"this is not JSON",
    "nested.json": b"[" * 100_000,
    "list.json": b"[]",
    "number.json": b"7",
    "without model.json": b"{}",
    "null.json": b"null",
    "not UTF-8.json": b'{"\xff": 1}',
    "model null.json": changed(lambda d: d.update(model=None)),
    "unigram.json": changed(lambda d: d["model"].update(type="Unigram")),
    "vocab list.json": changed(lambda d: d["model"].update(vocab=[1])),
    "id of 2**60.json": changed(lambda d: d["model"]["vocab"].update(x=1 << 60)),
    "negative id.json": changed(lambda d: d["model"]["vocab"].update(x=-1)),
    "id text.json": changed(lambda d: d["model"]["vocab"].update(x="7")),
    "special id of 2**70.json": changed(lambda d: d["added_tokens"][0].update(id=1 << 70)),
    "added without content.json": changed(lambda d: d["added_tokens"][0].pop("content")),
    "merges of nothing.json": changed(lambda d: d["model"].update(merges=["\u00e4 \u20ac"])),
    "decoder.json": changed(lambda d: d.update(decoder={"type": "WordPiece"})),
    "no decoder.json": changed(lambda d: d.update(decoder=None)),
    "split regex.json": changed(
        lambda d: d.update(pre_tokenizer={"type": "Split", "pattern": {"Regex": "("}})
    ),
    "tekken without vocab.json": b'{"config": {}}',
    "tekken too small.json": tekken(),
    "tekken size.json": tekken(default_vocab_size=1 << 60),
    "tekken config list.json": b'{"config": [], "vocab": []}',
    "tekken vocab number.json": b'{"config": {"pattern": ".", "default_vocab_size": 9,'
    b' "default_num_special_tokens": 5}, "vocab": 3}',
    "other model.gguf": gguf(tiny.gguf_pieces_metadata(), model="bert"),
    "scores missing.gguf": gguf(tiny.gguf_pieces_metadata(), scores=[1.0]),
    "scores text.gguf": gguf(tiny.gguf_pieces_metadata(), scores=["a"]),
    "tokens number.gguf": gguf(tiny.gguf_pieces_metadata(), tokens=3),
    "eos beyond.gguf": gguf(tiny.gguf_pieces_metadata(), eos_token_id=1 << 30),
    "bos text.gguf": gguf(tiny.gguf_pieces_metadata(), bos_token_id="one"),
    "pre.gguf": gguf(tiny.gguf_merges_metadata(), pre="other"),
    "merge of nothing.gguf": gguf(tiny.gguf_merges_metadata(), merges=["zzz zzz"]),
    "merge without space.gguf": gguf(tiny.gguf_merges_metadata(), merges=["th"]),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_damaged_tokenizer_file_is_refused_at_once(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(MALFORMED[name])
    start = time.process_time()
    with pytest.raises(TokenizerError) as caught:
        load_tokenizer(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < len(str(path)) + 400
    assert time.process_time() - start < 2


def test_a_gguf_without_tokenizer_is_not_found(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(tiny.gguf_bytes({"general.architecture": "llama"}))
    with pytest.raises(NotFoundError):
        load_tokenizer(path)
    path.write_bytes(b"GGUF")
    with pytest.raises(CheckpointError):
        load_tokenizer(path)


def test_a_file_larger_than_any_tokenizer_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with open(path, "wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(TokenizerError, match="bytes"):
        load_tokenizer(path)


@pytest.mark.parametrize(
    "config",
    [
        {"bos_token": 7, "eos_token": ["x"], "chat_template": 3},
        {"bos_token": {}, "chat_template": [1, {"name": []}, {}]},
        {"bos_token": "absent", "eos_token": "absent", "add_bos_token": "yes"},
    ],
)
def test_a_config_beside_with_wrong_types_is_ignored_where_it_says_nothing(
    config: dict, tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(tiny.byte_level_json()))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.bos_id is None and tokenizer.chat_template is None and not tokenizer.adds_bos


@pytest.mark.parametrize("text", ["[]", "{", "\x00"])
def test_a_config_beside_that_is_no_json_object_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(tiny.byte_level_json()))
    (tmp_path / "tokenizer_config.json").write_text(text)
    with pytest.raises(TokenizerError, match="tokenizer_config"):
        load_tokenizer(tmp_path)


def test_kimis_special_tokens_must_be_readable(tmp_path: Path) -> None:
    path = tiny.tiktoken_file(tmp_path / "tiktoken.model")
    for damage in ([], {"x": {}}, {"300": []}, 7):
        config = json.dumps({"added_tokens_decoder": damage})
        (tmp_path / "tokenizer_config.json").write_text(config)
        if damage:
            with pytest.raises(TokenizerError):
                load_tokenizer(path)


@pytest.mark.parametrize("kind", ["sentencepiece", "tiktoken"])
def test_truncated_and_damaged_files_raise_our_errors_only(kind: str, tmp_path: Path) -> None:
    make = tiny.sentencepiece_file if kind == "sentencepiece" else tiny.tiktoken_file
    path = make(tmp_path / "tokenizer.model")
    data = path.read_bytes()
    rng = random.Random(9)
    for trial in range(150):
        damaged = bytearray(data[: rng.randrange(len(data))] if trial % 2 else data)
        for _ in range(trial % 3):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            load_tokenizer(path).encode("hello world")
        except BobotError:
            continue
