"""Hugging Face `tokenizer.json`, read by the `tokenizers` library that defines it.

Only BPE, byte-level or in SentencePiece style: all that open chat models publish. Special tokens
are taken out before the library sees the file, so that no text can become one; `Tokenizer` finds
them itself where they are allowed. The flags lstrip, rstrip and single_word of special tokens do
not act.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from bobot.errors import TokenizerError
from bobot.text.byte_bpe import from_printable
from bobot.text.sentencepiece_model import SPACE
from bobot.text.vocabulary import Vocabulary, pieces_by_id


def read_tokenizer_json(path: Path, document: Any) -> Vocabulary:
    """The vocabulary of a parsed tokenizer.json; TokenizerError when damaged or another kind."""
    try:
        return _read(path, document)
    except (AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
        raise TokenizerError(
            "{file}: not a tokenizer.json as bobot knows it: {problem}",
            hint="Download the file again.",
            file=path,
            problem=repr(error)[:200],
        ) from error


def _read(path: Path, document: Any) -> Vocabulary:
    model = document["model"]
    if model.get("type", "BPE") != "BPE":
        raise TokenizerError(
            "{file}: model type {found!r}; bobot reads BPE", file=path, found=model.get("type")
        )
    added = document.get("added_tokens") or []
    specials = {token["content"]: int(token["id"]) for token in added if token["special"]}
    is_byte_level = _is_byte_level(path, document)
    entries = {
        token_id: from_printable(text) if is_byte_level else _surface(text)
        for text, token_id in model["vocab"].items()
    }
    entries |= {token["id"]: token["content"].encode() for token in added}
    if not is_byte_level:
        entries |= dict.fromkeys(specials.values(), b"")
    byte_ids = {i for text, i in model["vocab"].items() if _is_byte_piece(text)}
    library, encode_plain = _encoder(path, document, specials)
    return Vocabulary(
        kind="",
        pieces=pieces_by_id(entries, path),
        special_tokens=specials,
        encode_plain=encode_plain,
        library=library,
        strips_leading_space=not is_byte_level and _strips_leading_space(document),
        kept_space_ids=frozenset(byte_ids),
        replaces_each_byte=not is_byte_level,
        adds_bos=any(
            "SpecialToken" in step["single"][0]
            for step in _steps(document.get("post_processor"), "processors")
            if step["type"] == "TemplateProcessing"
        ),
    )


def _is_byte_level(path: Path, document: dict) -> bool:
    """Which of the two known decoders the file names."""
    kinds = {step["type"] for step in _steps(document.get("decoder"), "decoders")}
    if kinds == {"ByteLevel"}:
        return True
    if kinds and kinds <= {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}:
        return False
    raise TokenizerError(
        "{file}: decoder {found}; bobot knows ByteLevel, Metaspace and SentencePiece's",
        file=path,
        found=sorted(kinds),
    )


def _steps(component: dict | None, key: str) -> Iterator[dict]:
    """A component, or the components of a Sequence."""
    if component is not None:
        yield from component[key] if component["type"] == "Sequence" else [component]


def _strips_leading_space(document: dict) -> bool:
    return any(
        step["type"] == "Strip" or step.get("prepend_scheme", "never") != "never"
        for step in _steps(document["decoder"], "decoders")
    )


def _is_byte_piece(text: str) -> bool:
    return len(text) == 6 and text.startswith("<0x") and text.endswith(">")


def _surface(text: str) -> bytes:
    return bytes.fromhex(text[3:5]) if _is_byte_piece(text) else text.replace(SPACE, " ").encode()


def _encoder(
    path: Path, document: dict, specials: dict
) -> tuple[Tokenizer, Callable[[str, bool], list[int]]]:
    """The library's tokenizer, and encode_plain. Where the file puts a space before the first word
    of a prompt only, a text that does not open the prompt needs a second one that puts none.
    """
    opening = _library_tokenizer(path, document, specials)
    inner = opening
    splitters = list(_steps(document.get("pre_tokenizer"), "pretokenizers"))
    first_only = [step for step in splitters if step.get("prepend_scheme") == "first"]
    if first_only:
        for step in first_only:
            step["prepend_scheme"] = "never"
        inner = _library_tokenizer(path, document, specials)

    def encode_plain(text: str, opens_prompt: bool) -> list[int]:
        return (opening if opens_prompt else inner).encode(text, add_special_tokens=False).ids

    return opening, encode_plain


def _library_tokenizer(path: Path, document: dict, specials: dict) -> Tokenizer:
    """The library's tokenizer without special tokens, truncation, padding and post-processing."""
    model = document["model"]
    unreachable = specials.keys() - {model.get("unk_token")}
    added = [token for token in document.get("added_tokens") or [] if not token["special"]]
    vocab = {text: i for text, i in model["vocab"].items() if text not in unreachable}
    vocab |= {token["content"]: token["id"] for token in added}  # else the library renumbers them
    reduced = document | {
        "model": model | {"type": "BPE", "vocab": vocab},
        "added_tokens": added,
        "truncation": None,
        "padding": None,
        "post_processor": None,
    }
    try:
        return Tokenizer.from_str(json.dumps(reduced))
    except Exception as error:  # the library raises nothing finer
        raise TokenizerError(
            "{file}: the tokenizers library refuses it: {problem}",
            file=path,
            problem=str(error)[:200],
        ) from error
