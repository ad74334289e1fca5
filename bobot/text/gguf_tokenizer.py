"""The tokenizer that a GGUF file embeds in its metadata, keys tokenizer.*.

Two models: "llama" (SentencePiece pieces with scores) and "gpt2" (byte-level merges; `pre` names
the split pattern). Names and rules: ggml-org/llama.cpp src/llama-vocab.cpp.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from bobot.errors import NotFoundError, TokenizerError
from bobot.text.byte_bpe import (
    GPT2_PATTERN,
    KIMI_PATTERN,
    LLAMA3_PATTERN,
    O200K_PATTERN,
    QWEN2_PATTERN,
    TEKKEN_PATTERN,
    byte_bpe,
    from_printable,
    plain_encoder,
)
from bobot.text.sentencepiece_model import (
    CONTROL,
    NORMAL,
    USER_DEFINED,
    Piece,
    SentencePieceModel,
    piece_vocabulary,
)
from bobot.text.vocabulary import MAX_VOCAB_SIZE, Vocabulary

# tokenizer.ggml.pre -> (split pattern, whether a part that is a token is taken whole)
PRE_TOKENIZERS = {
    "default": (GPT2_PATTERN, False),
    "gpt-2": (GPT2_PATTERN, False),
    "llama-bpe": (LLAMA3_PATTERN, True),
    "llama3": (LLAMA3_PATTERN, True),
    "llama-v3": (LLAMA3_PATTERN, True),
    "gpt-4o": (O200K_PATTERN, False),
    "qwen2": (QWEN2_PATTERN, False),
    "tekken": (TEKKEN_PATTERN, True),
    "kimi-k2": (KIMI_PATTERN, False),
}
_BOS_BY_DEFAULT = ("llama-bpe", "llama3", "llama-v3", "tekken")


def read_gguf_tokenizer(path: Path, metadata: dict[str, Any]) -> Vocabulary:
    """The vocabulary in GGUF metadata (see gguf_metadata.read_header)."""
    model = metadata.get("tokenizer.ggml.model")
    if model in (None, "no_vocab"):
        raise NotFoundError("{file}: the GGUF embeds no tokenizer", file=path)
    readers = {"llama": _read_pieces, "gpt2": _read_merges}
    if model not in readers:
        raise TokenizerError(
            "{file}: tokenizer.ggml.model is {found!r}; bobot knows llama, gpt2",
            file=path,
            found=model,
        )
    vocabulary = readers[model](path, metadata)
    size = len(vocabulary.pieces)
    stops = {
        _token_id(path, metadata, f"tokenizer.ggml.{key}_token_id", size) for key in ("eot", "eom")
    }
    adds_bos = metadata.get("tokenizer.ggml.add_bos_token", vocabulary.adds_bos)
    template = metadata.get("tokenizer.chat_template")
    return replace(
        vocabulary,
        bos_id=_token_id(path, metadata, "tokenizer.ggml.bos_token_id", size),
        eos_id=_token_id(path, metadata, "tokenizer.ggml.eos_token_id", size),
        stop_ids=frozenset(stops - {None}),
        adds_bos=bool(adds_bos),
        chat_template=template if isinstance(template, str) else None,
    )


def _token_id(path: Path, metadata: dict[str, Any], key: str, size: int) -> int | None:
    found = metadata.get(key)
    if found is not None and not (type(found) is int and 0 <= found < size):
        raise TokenizerError(
            "{file}: {key} is {found!r}; allowed: 0 to {most}",
            file=path,
            key=key,
            found=found,
            most=size - 1,
        )
    return found


def _array(path: Path, metadata: dict[str, Any], key: str, kind: type, size: int | None) -> list:
    """The array at `key`, all of `kind`, of `size` values unless that is None."""
    values = metadata.get(f"tokenizer.ggml.{key}")
    if not isinstance(values, list) or not all(type(value) is kind for value in values):
        raise TokenizerError(
            "{file}: tokenizer.ggml.{key} is missing or damaged", file=path, key=key
        )
    if (size is not None and len(values) != size) or len(values) > MAX_VOCAB_SIZE:
        raise TokenizerError(
            "{file}: tokenizer.ggml.{key} has {found} values for {size} tokens",
            file=path,
            key=key,
            found=len(values),
            size=size,
        )
    return values


def _read_pieces(path: Path, metadata: dict[str, Any]) -> Vocabulary:
    tokens = _array(path, metadata, "tokens", str, None)
    scores = _array(path, metadata, "scores", float, len(tokens))
    kinds = _array(path, metadata, "token_type", int, len(tokens))
    model = SentencePieceModel(
        pieces=[Piece(*fields) for fields in zip(tokens, scores, kinds, strict=True)],
        add_dummy_prefix=bool(metadata.get("tokenizer.ggml.add_space_prefix", True)),
        unknown_surface=" \u2047 ",
        bos_id=-1,
        eos_id=-1,
    )
    return piece_vocabulary(path, model)


def _read_merges(path: Path, metadata: dict[str, Any]) -> Vocabulary:
    tokens = _array(path, metadata, "tokens", str, None)
    kinds = _array(path, metadata, "token_type", int, len(tokens))
    merges = [merge.partition(" ") for merge in _array(path, metadata, "merges", str, None)]
    pre = metadata.get("tokenizer.ggml.pre", "default")
    if pre not in PRE_TOKENIZERS:
        raise TokenizerError(
            "{file}: tokenizer.ggml.pre is {found!r}; bobot knows {allowed}",
            file=path,
            found=pre,
            allowed=", ".join(sorted(PRE_TOKENIZERS)),
        )
    pattern, whole_parts_first = PRE_TOKENIZERS[pre]
    typed = list(zip(tokens, kinds, strict=True))
    normal: dict[str, int] = {}
    for token_id, (token, kind) in enumerate(typed):
        if kind in (NORMAL, USER_DEFINED):
            normal.setdefault(token, token_id)
    for left, _, right in merges:
        if not (left in normal and right in normal and left + right in normal):
            raise TokenizerError(
                "{file}: merge {merge!r} uses a token that is missing",
                file=path,
                merge=f"{left} {right}",
            )
    bpe = byte_bpe(
        normal,
        [(left, right) for left, _, right in merges],
        pattern,
        whole_parts_first=whole_parts_first,
        file=path,
    )
    added = [token for token, kind in typed if kind == USER_DEFINED]
    bpe.add_tokens([AddedToken(token, normalized=False, special=False) for token in added])
    return Vocabulary(
        kind="",
        pieces=[
            from_printable(token) if kind == NORMAL else token.encode() for token, kind in typed
        ],
        special_tokens={token: i for i, (token, kind) in enumerate(typed) if kind == CONTROL},
        encode_plain=plain_encoder(bpe),
        adds_bos=pre in _BOS_BY_DEFAULT,
        library=bpe,
    )
