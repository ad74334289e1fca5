"""Tokenizer files small enough to be made inside a test, in every format bobot reads."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path

from bobot.text.byte_bpe import PRINTABLE

SPACE = "\u2581"
WORDS = ["he", "ll", "hell", "hello", "wo", "rld", "world", "an", "ang", "ma", "kan", "st"]
LETTERS = "abcdefghijklmnopqrstuvwxyz,.!\u4f60"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6


def pieces() -> list[tuple[str, float, int]]:
    """SentencePiece pieces: controls, a user-defined one, 256 bytes, scored words, letters."""
    found = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    found += [("[TAG]", 0.0, USER_DEFINED)]
    found += [(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)]
    words = [*WORDS, *(SPACE + word for word in WORDS), SPACE * 2, SPACE * 4]
    found += [(word, -float(rank), NORMAL) for rank, word in enumerate(words, start=1)]
    return found + [(letter, -1000.0, NORMAL) for letter in (SPACE, *LETTERS)]


def _varint(number: int) -> bytes:
    data = b""
    while number > 0x7F:
        data += bytes([number & 0x7F | 0x80])
        number >>= 7
    return data + bytes([number])


def field(number: int, value: int | bytes | float) -> bytes:
    """One protobuf field: a varint, bytes, or a 32-bit float."""
    if isinstance(value, float):
        return _varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def sentencepiece_file(path: Path) -> Path:
    data = b""
    for text, score, kind in pieces():
        data += field(1, field(1, text.encode()) + field(2, score) + field(3, kind))
    trainer = field(3, 2) + field(35, 1) + field(40, 0) + field(41, 1) + field(42, 2)
    normalizer = field(1, b"identity") + field(3, 1) + field(4, 0) + field(5, 1)
    path.write_bytes(data + field(2, trainer) + field(3, normalizer))
    return path


def ranks() -> list[bytes]:
    """Byte-level tokens by rank: the 256 bytes, then growing words."""
    words = ["th", "he", "in", " t", " th", " the", "ing", "er", "  ", "an", " an", "123", "12"]
    words += ["\u4f60".encode()[:2], "\u4f60".encode(), "ab", "abab", "ba", "bab", "\n\n"]
    return [bytes([byte]) for byte in range(256)] + [
        word if isinstance(word, bytes) else word.encode() for word in words
    ]


def tiktoken_file(path: Path) -> Path:
    lines = (base64.b64encode(token) + b" %d" % rank for rank, token in enumerate(ranks()))
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def tekken_file(path: Path) -> Path:
    vocab = [
        {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
        for rank, token in enumerate(ranks())
    ]
    config = {
        "pattern": r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        "default_vocab_size": len(vocab) + 20,
        "default_num_special_tokens": 20,
    }
    path.write_text(json.dumps({"config": config, "vocab": vocab}))
    return path


def _added(token_id: int, content: str, special: bool = True) -> dict[str, object]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": content, "special": special, **flags}


def byte_level_json() -> dict:
    """A byte-level tokenizer.json whose specials are also entries of its vocabulary."""
    vocab = {character: byte for byte, character in enumerate(PRINTABLE)}
    merges = [("t", "h"), ("th", "e"), ("\u0120", "the"), ("i", "n"), ("in", "g"), ("<", "|")]
    for left, right in merges:
        vocab[left + right] = len(vocab)
    specials = ["<|begin|>", "<|end|>", "<|end|><|end|>"]
    added = [_added(len(vocab) + place, name) for place, name in enumerate(specials)]
    vocab |= {token["content"]: token["id"] for token in added}
    added.append(_added(len(vocab), "<think>", special=False))
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": byte_level | {"use_regex": True},
        "post_processor": None,
        "decoder": byte_level | {"use_regex": True},
        "model": {"type": "BPE", "vocab": vocab, "merges": [" ".join(pair) for pair in merges]},
    }


def metaspace_json(scheme: str) -> dict:
    """A SentencePiece-style tokenizer.json; scheme is "always", "first" or "never", or "legacy" for
    the older way to write it, with a normaliser.
    """
    entries = [text for text, _, kind in pieces() if kind != USER_DEFINED]
    vocab = {text: token_id for token_id, text in enumerate(entries)}
    merges = [
        [word[:cut], word[cut:]]
        for word in [*WORDS, *(SPACE + word for word in WORDS), SPACE * 2]
        for cut in range(1, len(word))
        if word[:cut] in vocab and word[cut:] in vocab
    ]
    space = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": False}
    model = {"type": "BPE", "vocab": vocab, "merges": merges, "unk_token": "<unk>"}
    legacy = {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": SPACE},
                {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
            ],
        },
        "pre_tokenizer": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
    }
    document = {
        "version": "1.0",
        "added_tokens": [_added(vocab[name], name) for name in ("<unk>", "<s>", "</s>")],
        "normalizer": None,
        "pre_tokenizer": space,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, space]},
        "model": model | {"byte_fallback": True, "fuse_unk": True},
    }
    return document | legacy if scheme == "legacy" else document


def gguf_string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def gguf_value(value: object) -> bytes:
    """Type number and bytes of one metadata value; a list takes the type of its first item."""
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<Ii", 5, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + gguf_string(value)
    items = [gguf_value(item) for item in value]
    return (
        struct.pack("<I", 9)
        + items[0][:4]
        + struct.pack("<Q", len(items))
        + b"".join(i[4:] for i in items)
    )


def gguf_bytes(metadata: dict[str, object], *, version: int = 3, num_tensors: int = 0) -> bytes:
    pairs = b"".join(gguf_string(key) + gguf_value(value) for key, value in metadata.items())
    return b"GGUF" + struct.pack("<IQQ", version, num_tensors, len(metadata)) + pairs


def gguf_pieces_metadata() -> dict[str, object]:
    texts, scores, kinds = (list(column) for column in zip(*pieces(), strict=True))
    return {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": "{{ bos_token }}{{ messages[0].content }}",
    }


def gguf_merges_metadata() -> dict[str, object]:
    document = byte_level_json()
    kinds = {
        token["content"]: CONTROL if token["special"] else USER_DEFINED
        for token in document["added_tokens"]
    }
    tokens = [*document["model"]["vocab"], "<think>"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [kinds.get(token, NORMAL) for token in tokens],
        "tokenizer.ggml.merges": document["model"]["merges"],
        "tokenizer.ggml.eos_token_id": tokens.index("<|end|>"),
    }
