"""SentencePiece BPE models: the protobuf file, and its segmentation on the `tokenizers` library.

Only what open language models use: BPE with the identity normaliser. The rules follow
google/sentencepiece src/bpe_model.cc, src/normalizer.cc and src/sentencepiece_processor.cc (field
numbers: src/sentencepiece_model.proto). Not reproduced: pieces of type UNUSED, which
sentencepiece merges and splits again, take no part here; two pieces of equal score merge in the
order of their ids.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken, Tokenizer, models

from bobot.errors import TokenizerError
from bobot.text.byte_bpe import splits_in_order
from bobot.text.vocabulary import MAX_VOCAB_SIZE, Vocabulary

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
SPACE = "\u2581"
_UNKNOWN_SURFACE = " \u2047 "
_BPE = 2
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


class Piece(NamedTuple):
    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class SentencePieceModel:
    pieces: list[Piece]
    add_dummy_prefix: bool
    unknown_surface: str
    bos_id: int
    eos_id: int


def read_sentencepiece(path: Path, data: bytes) -> Vocabulary:
    """The vocabulary of a `tokenizer.model`; TokenizerError when damaged or another model type."""
    try:
        model = _parse_model(path, data)
    except (ValueError, TypeError, struct.error) as error:
        raise TokenizerError(
            "{file}: damaged SentencePiece model: {problem}",
            hint="Download the file again.",
            file=path,
            problem=error,
        ) from error
    return piece_vocabulary(path, model)


def piece_vocabulary(file: object, model: SentencePieceModel) -> Vocabulary:
    """The vocabulary over `model`, whether it came from a protobuf or from a GGUF."""
    pieces = model.pieces
    if not 0 < len(pieces) <= MAX_VOCAB_SIZE:
        raise TokenizerError("{file}: has {found} pieces", file=file, found=len(pieces))
    unknown = next((i for i, piece in enumerate(pieces) if piece.kind == UNKNOWN), None)
    specials = {piece.text: i for i, piece in enumerate(pieces) if piece.kind == CONTROL}
    surfaces = [_surface(file, piece, model.unknown_surface) for piece in pieces]
    kept = {i for i, piece in enumerate(pieces) if piece.kind in (BYTE, UNKNOWN)}
    bpe = _library_tokenizer(file, pieces, unknown)
    prefix = SPACE if model.add_dummy_prefix else ""

    def encode_plain(text: str, opens_prompt: bool) -> list[int]:
        if not text:
            return []
        return bpe.encode(prefix + text.replace(" ", SPACE), add_special_tokens=False).ids

    return Vocabulary(
        kind=_chat_kind(file, specials, len(pieces)),
        pieces=surfaces,
        special_tokens=specials,
        encode_plain=encode_plain,
        bos_id=model.bos_id if 0 <= model.bos_id < len(pieces) else None,
        eos_id=model.eos_id if 0 <= model.eos_id < len(pieces) else None,
        adds_bos="[BOS]" not in specials,  # Grok-1's own generation adds none (runners.py 513)
        strips_leading_space=model.add_dummy_prefix,
        kept_space_ids=frozenset(kept),
        replaces_each_byte=True,
        library=bpe,
    )


def _chat_kind(file: object, specials: dict[str, int], num_pieces: int) -> str:
    """Which publisher's chat format goes with this vocabulary, as far as the file itself tells."""
    if "[INST]" in specials:
        return "mistral_v3"
    if num_pieces != 32000:
        return ""
    return "mistral_v1" if str(file).endswith(".v1") else "llama2"


def _surface(file: object, piece: Piece, unknown_surface: str) -> bytes:
    """What decode writes for a piece; the space in front of a whole text is not its concern."""
    if piece.kind == CONTROL:
        return b""
    if piece.kind == UNKNOWN:
        return unknown_surface.encode()
    if piece.kind == BYTE:
        digits = piece.text.removeprefix("<0x").removesuffix(">")
        if (
            len(piece.text) != 6
            or len(digits) != 2
            or not all(c in "0123456789ABCDEF" for c in digits)
        ):
            raise TokenizerError(
                "{file}: byte piece {piece!r}; allowed: <0x00> to <0xFF>",
                file=file,
                piece=piece.text,
            )
        return bytes.fromhex(digits)
    return piece.text.replace(SPACE, " ").encode()


def _library_tokenizer(file: object, pieces: list[Piece], unknown: int | None) -> Tokenizer:
    """BPE that merges the adjacent pair whose union has the highest score, leftmost first.

    Control and unused pieces are left out, so that no text can become one.
    """
    normal: dict[str, int] = {}
    others: dict[str, int] = {}
    for token_id, piece in enumerate(pieces):
        if piece.kind == NORMAL:
            normal.setdefault(piece.text, token_id)
        elif piece.kind in (UNKNOWN, BYTE, USER_DEFINED):
            others.setdefault(piece.text, token_id)
    by_score = sorted(normal, key=lambda text: (-pieces[normal[text]].score, normal[text]))
    has_bytes = sum(piece.kind == BYTE for piece in pieces) == 256
    if unknown is None and not has_bytes:
        raise TokenizerError("{file}: has neither an unknown piece nor 256 byte pieces", file=file)
    bpe = Tokenizer(
        models.BPE(
            normal | others,
            splits_in_order(by_score, normal),
            unk_token=pieces[unknown].text if unknown is not None else None,
            fuse_unk=True,
            byte_fallback=has_bytes,
        )
    )
    user_defined = [piece.text for piece in pieces if piece.kind == USER_DEFINED]
    bpe.add_tokens([AddedToken(text, normalized=False, special=False) for text in user_defined])
    return bpe


def _parse_model(path: Path, data: bytes) -> SentencePieceModel:
    """Field numbers: ModelProto 1 pieces, 2 trainer_spec, 3 normalizer_spec."""
    pieces: list[Piece] = []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    for number, value in _fields(data):
        if number == 1:
            pieces.append(_parse_piece(value))
        elif number == 2:
            trainer.update(_fields(value))
        elif number == 3:
            normalizer.update(_fields(value))
    _check_supported(path, trainer, normalizer)
    return SentencePieceModel(
        pieces=pieces,
        add_dummy_prefix=bool(normalizer.get(3, 1)),
        unknown_surface=str(trainer.get(44, _UNKNOWN_SURFACE.encode()), "utf-8"),
        bos_id=_signed(trainer.get(41, 1)),
        eos_id=_signed(trainer.get(42, 2)),
    )


def _check_supported(path: Path, trainer: dict, normalizer: dict) -> None:
    if (found := trainer.get(3, 1)) != _BPE:
        raise TokenizerError(
            "{file}: SentencePiece model type {found}; bobot reads type 2 (BPE)",
            file=path,
            found=found,
        )
    if normalizer.get(2):
        raise TokenizerError(
            "{file}: normaliser {found!r}; bobot knows identity",
            file=path,
            found=bytes(normalizer.get(1, b"")).decode("utf-8", "replace"),
        )
    if normalizer.get(4, 1) or not normalizer.get(5, 1) or trainer.get(24, 0):
        raise TokenizerError(
            "{file}: asks for other white space rules; bobot knows remove_extra_whitespaces=false,"
            " escape_whitespaces=true, treat_whitespace_as_suffix=false",
            file=path,
        )


def _parse_piece(message: bytes) -> Piece:
    text, score, kind = b"", 0.0, NORMAL
    for number, value in _fields(message):
        if number == 1:
            text = value
        elif number == 2:
            (score,) = struct.unpack("<f", value)
        elif number == 3:
            kind = value
    if not text or kind not in range(NORMAL, BYTE + 1):
        raise ValueError(f"a piece of type {kind} with {len(text)} bytes of text")
    return Piece(str(text, "utf-8"), score, kind)


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field: an int for varints, else bytes. Raises ValueError."""
    if not isinstance(message, bytes):
        raise ValueError("a number stands where a message must")
    position, end = 0, len(message)
    while position < end:
        tag, position = _varint(message, position)
        wire = tag & 7
        if wire == _VARINT:
            value, position = _varint(message, position)
            yield tag >> 3, value
            continue
        if wire == _LENGTH:
            size, position = _varint(message, position)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire}")
        if position + size > end:
            raise ValueError(f"a field of {size} bytes where {end - position} are left")
        yield tag >> 3, message[position : position + size]
        position += size


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise ValueError("the file ends inside a number")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number of more than 10 bytes")


def _signed(value: Any) -> int:
    """A protobuf int32: negative numbers are stored as 64-bit two's complement."""
    number = int(value)
    return number - (1 << 64) if number >= 1 << 63 else number
