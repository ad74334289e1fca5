"""Each tokenizer format on a file made here, against a second way to get the same ids."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import sentencepiece
import tiny_tokenizers as tiny
import tokenizers

from bobot.errors import NotFoundError, TokenizerError
from bobot.text import Tokenizer, load_tokenizer

SAMPLES = [
    "",
    " ",
    "hello world",
    "  hello   world ",
    "the thing in theory, 12345 abababa",
    "<s> [TAG] </s> <|end|> <0x41> <unk>",
    "baris satu\n\nbaris dua\ttab\r\n",
    "\u4f60\u597d, \u4f60 \U0001f642\U0001f9d1\u200d\U0001f52c e\u0301 \u2581x",
    "\x00\x7f\u00ad\ufeff",
]


def random_samples(count: int = 200) -> list[str]:
    rng = random.Random(11)
    alphabet = [
        "he",
        "ll",
        "o",
        " ",
        "  ",
        "world",
        "[TAG]",
        "</s>",
        "\u4f60",
        "\n",
        "a",
        "b",
        "12",
        "\U0001f642",
    ]
    return ["".join(rng.choices(alphabet, k=rng.randint(1, 24))) for _ in range(count)]


def write_json(folder: Path, document: dict, config: dict | None = None) -> Path:
    (folder / "tokenizer.json").write_text(json.dumps(document))
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


MAKERS: dict[str, Callable[[Path], Path]] = {
    "sentencepiece": lambda folder: tiny.sentencepiece_file(folder / "tokenizer.model"),
    "tiktoken": lambda folder: tiny.tiktoken_file(folder / "tokenizer.model"),
    "tekken": lambda folder: tiny.tekken_file(folder / "tekken.json"),
    "byte-level json": lambda folder: write_json(folder, tiny.byte_level_json()),
    "pieces json": lambda folder: write_json(folder, tiny.metaspace_json("legacy")),
    "gguf pieces": lambda folder: write_gguf(folder, tiny.gguf_pieces_metadata()),
    "gguf merges": lambda folder: write_gguf(folder, tiny.gguf_merges_metadata()),
}


def write_gguf(folder: Path, metadata: dict[str, object]) -> Path:
    path = folder / "model.gguf"
    path.write_bytes(tiny.gguf_bytes(metadata))
    return path


@pytest.fixture(params=MAKERS, ids=str)
def any_tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> Tokenizer:
    return load_tokenizer(MAKERS[request.param](tmp_path))


def test_decoding_what_was_encoded_gives_the_text_back(any_tokenizer: Tokenizer) -> None:
    for text in SAMPLES + random_samples():
        if "\u2581" in text:  # SentencePiece's own sign for a space
            continue
        ids = any_tokenizer.encode(text)
        assert any_tokenizer.decode(ids) == text
        assert any_tokenizer.decode_bytes(ids) == text.encode()


def test_text_never_becomes_a_special_token(any_tokenizer: Tokenizer) -> None:
    specials = set(any_tokenizer.special_tokens.values())
    assert specials
    for name in any_tokenizer.special_tokens:
        found = specials & set(any_tokenizer.encode(f"a{name}b {name}{name}"))
        assert not found, (name, found)


def test_allowed_special_tokens_become_their_ids(any_tokenizer: Tokenizer) -> None:
    name, token_id = list(any_tokenizer.special_tokens.items())[1]
    ids = any_tokenizer.encode(f"{name}hello{name}", allow_special=True)
    assert ids == [token_id, *any_tokenizer.encode("hello"), token_id]


def test_an_id_beyond_the_vocabulary_decodes_to_the_replacement_character(
    any_tokenizer: Tokenizer,
) -> None:
    assert any_tokenizer.decode([any_tokenizer.vocab_size, -1]) == "\ufffd\ufffd"


def test_half_a_surrogate_pair_is_refused(any_tokenizer: Tokenizer) -> None:
    with pytest.raises(TokenizerError, match="not valid Unicode"):
        any_tokenizer.encode("a\ud800")


def test_sentencepiece_model_equals_the_sentencepiece_library(tmp_path: Path) -> None:
    path = tiny.sentencepiece_file(tmp_path / "tokenizer.model")
    reference = sentencepiece.SentencePieceProcessor(model_file=str(path))
    tokenizer = load_tokenizer(path)
    for text in SAMPLES + random_samples():
        assert tokenizer.encode(text) == reference.encode(text), text
    rng = random.Random(7)
    for _ in range(300):
        ids = [rng.randrange(tokenizer.vocab_size) for _ in range(rng.randint(1, 8))]
        assert tokenizer.decode(ids) == reference.decode(ids), ids
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.adds_bos) == (1, {2}, True)


def test_gguf_pieces_equal_the_sentencepiece_file(tmp_path: Path) -> None:
    from_file = load_tokenizer(tiny.sentencepiece_file(tmp_path / "tokenizer.model"))
    embedded = load_tokenizer(write_gguf(tmp_path, tiny.gguf_pieces_metadata()))
    for text in SAMPLES + random_samples():
        assert embedded.encode(text) == from_file.encode(text), text
    assert embedded.render([{"role": "user", "content": "halo"}]) == "<s>halo"


def ranked_merges(part: bytes, ranks: dict[bytes, int]) -> list[int]:
    """tiktoken's rule: merge the adjacent pair whose union has the lowest rank, leftmost first."""
    if part in ranks:
        return [ranks[part]]
    tokens = [part[i : i + 1] for i in range(len(part))]
    while True:
        unions = [(ranks.get(a + b), i) for i, (a, b) in enumerate(pairwise(tokens))]
        found = min(((rank, i) for rank, i in unions if rank is not None), default=None)
        if found is None:
            return [ranks[token] for token in tokens]
        place = found[1]
        tokens[place : place + 2] = [tokens[place] + tokens[place + 1]]


def test_tiktoken_file_merges_by_rank(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny.tiktoken_file(tmp_path / "tokenizer.model"))
    ranks = {token: rank for rank, token in enumerate(tiny.ranks())}
    rng = random.Random(3)
    for _ in range(500):  # letters only, so that the whole text is one part of the split
        text = "".join(rng.choices("abthein\u4f60", k=rng.randint(1, 20)))
        assert tokenizer.encode(text) == ranked_merges(text.encode(), ranks), text
    num_ranks = len(ranks)
    assert tokenizer.bos_id == num_ranks and tokenizer.special_tokens["<|eot_id|>"] == num_ranks + 9
    assert tokenizer.eos_ids == {num_ranks + 1, num_ranks + 8, num_ranks + 9}


@pytest.mark.parametrize("scheme", ["bytes", "always", "first", "never", "legacy"])
def test_tokenizer_json_equals_the_library_on_text_with_special_tokens(
    scheme: str, tmp_path: Path
) -> None:
    document = tiny.byte_level_json() if scheme == "bytes" else tiny.metaspace_json(scheme)
    folder = write_json(tmp_path, document)
    reference = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer = load_tokenizer(folder)
    names = list(tokenizer.special_tokens)
    rng = random.Random(5)
    for _ in range(200):
        text = "".join(
            rng.choices([*names, "hello", " ", "the", "<think>", "x"], k=rng.randint(1, 8))
        )
        expected = reference.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(text, allow_special=True) == expected, text


def test_named_tokens_and_stop_tokens_come_from_the_files_beside(tmp_path: Path) -> None:
    document = tiny.byte_level_json()
    config = {"bos_token": {"content": "<|begin|>"}, "eos_token": "<|end|>", "add_bos_token": True}
    folder = write_json(tmp_path, document, config)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9]}))
    (folder / "chat_template.jinja").write_text(
        "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"
    )
    tokenizer = load_tokenizer(folder)
    begin, end = (tokenizer.special_tokens[name] for name in ("<|begin|>", "<|end|>"))
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.adds_bos) == (begin, {7, 9, end}, True)
    assert tokenizer.render([{"role": "user", "content": "halo"}]) == "<|begin|>halo<|end|>"


def test_a_post_processor_that_puts_bos_first_is_noticed(tmp_path: Path) -> None:
    document = tiny.byte_level_json()
    assert not load_tokenizer(write_json(tmp_path, document, {"bos_token": "<|begin|>"})).adds_bos
    bos_first = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|begin|>"}}]}
    document["post_processor"] = {"type": "Sequence", "processors": [bos_first]}
    assert load_tokenizer(write_json(tmp_path, document)).adds_bos


def test_a_weight_file_finds_the_tokenizer_beside_it(tmp_path: Path) -> None:
    write_json(tmp_path, tiny.byte_level_json())
    assert load_tokenizer(tmp_path / "model.safetensors").encode("the") == load_tokenizer(
        tmp_path
    ).encode("the")


def test_a_folder_without_tokenizer_is_not_found(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.model", tmp_path / "model.safetensors"):
        with pytest.raises(NotFoundError):
            load_tokenizer(path)


def test_importing_the_package_loads_no_library() -> None:
    heavy = {"tokenizers", "jinja2", "torch", "numpy"}
    code = f"import sys, bobot.text; print(sorted({heavy} & set(sys.modules)))"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == "[]"
