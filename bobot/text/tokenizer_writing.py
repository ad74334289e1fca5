"""A tokenizer written into another file than it came from: GGUF metadata, or tokenizer.json.

Both are made of what the reader handed to the `tokenizers` library: spellings, merges in their
order, the split. SentencePiece's scores are gone by then; a piece's score becomes the place of the
first merge that makes it, which segments alike.
"""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Regex, pre_tokenizers

from bobot.errors import TokenizerError
from bobot.text.gguf_tokenizer import PRE_TOKENIZERS
from bobot.text.sentencepiece_model import (
    BYTE,
    CONTROL,
    NORMAL,
    SPACE,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
)
from bobot.text.tokenizer import Tokenizer

# Every pair of known split patterns cuts this differently.
_SAMPLE = (
    "don't DON'T I'LL camelCase Hello WORLDs 1234567 12 3,4 a\n\n\n b \t\r\n  x/y//\n !!/\n "
    "\u6f22\u5b57kanji\u65e5\u672c abc\u4e2d\u6587DEF e\u0301a\u0300 $%^&* foo_bar   end  "
)


def gguf_metadata(tokenizer: Tokenizer | None, vocab_size: int) -> dict[str, object]:
    """The keys tokenizer.* of a GGUF whose model has `vocab_size` rows; those behind the
    tokenizer's last become unused tokens, for llama.cpp counts tokens, not rows.

    Raises TokenizerError for a split pattern that llama.cpp has no name for.
    """
    if tokenizer is None:
        return {"tokenizer.ggml.model": "no_vocab"}
    document = _document(tokenizer)
    is_byte_level = _is_byte_level(document)
    tokens = [f"[PAD{token_id}]" for token_id in range(vocab_size)]
    kinds = [UNUSED] * vocab_size
    unknown = document["model"].get("unk_token")
    for text, token_id in document["model"]["vocab"].items():
        is_byte = not is_byte_level and len(text) == 6 and text.startswith("<0x")
        tokens[token_id] = text
        kinds[token_id] = UNKNOWN if text == unknown else BYTE if is_byte else NORMAL
    for added in document["added_tokens"]:
        tokens[added["id"]], kinds[added["id"]] = added["content"], USER_DEFINED
    for name, token_id in tokenizer.special_tokens.items():
        if name != unknown:
            tokens[token_id], kinds[token_id] = name, CONTROL
    merges = [_pair(merge) for merge in document["model"]["merges"]]
    metadata: dict[str, object] = {"tokenizer.ggml.model": "gpt2" if is_byte_level else "llama"}
    if is_byte_level:
        metadata["tokenizer.ggml.pre"] = _pre_tokenizer_name(tokenizer)
    else:
        metadata["tokenizer.ggml.pre"] = "default"
        metadata["tokenizer.ggml.scores"] = _scores(tokens, kinds, merges)
        metadata["tokenizer.ggml.add_space_prefix"] = tokenizer.vocabulary.strips_leading_space
    metadata["tokenizer.ggml.tokens"] = tokens
    metadata["tokenizer.ggml.token_type"] = kinds
    if is_byte_level:
        metadata["tokenizer.ggml.merges"] = [f"{left} {right}" for left, right in merges]
    return metadata | _ends(tokenizer)


def tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """The same as tokenizer.json, for the `tokenizers` library and transformers."""
    document = _document(tokenizer)
    vocabulary = tokenizer.vocabulary
    specials = sorted(tokenizer.special_tokens.items(), key=lambda item: item[1])
    vocab = document["model"]["vocab"] | tokenizer.special_tokens
    document["model"]["vocab"] = dict(sorted(vocab.items(), key=lambda item: item[1]))
    document["added_tokens"] += [_special(name, token_id) for name, token_id in specials]
    document["added_tokens"].sort(key=lambda added: added["id"])
    if _is_byte_level(document):
        decoder = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
        document["decoder"] = decoder | {"use_regex": False}
    elif document["normalizer"] is None:
        document |= _sentencepiece_steps(has_prefix=vocabulary.strips_leading_space)
    names = {token_id: name for name, token_id in specials}
    if vocabulary.adds_bos and tokenizer.bos_id in names:
        document["post_processor"] = _bos_in_front(names[tokenizer.bos_id], tokenizer.bos_id)
    return document


def is_exact_as_json(tokenizer: Tokenizer) -> bool:
    """False for a SentencePiece model with pieces of its user's (Grok's digits and line breaks):
    the library cuts them out first and puts a prefix before every part that is left.
    """
    document = _document(tokenizer)
    return _is_byte_level(document) or not document["added_tokens"]


def tokenizer_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """tokenizer_config.json beside it: named tokens and the chat template."""
    names = {token_id: name for name, token_id in tokenizer.special_tokens.items()}
    found: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "add_bos_token": tokenizer.adds_bos,
    }
    eos = tokenizer.vocabulary.eos_id
    if eos is None:
        eos = min(tokenizer.eos_ids, default=None)
    for key, token_id in (("bos_token", tokenizer.bos_id), ("eos_token", eos)):
        if token_id in names:
            found[key] = names[token_id]
    if (template := jinja_template(tokenizer)) is not None:
        found["chat_template"] = template
    return found


def jinja_template(tokenizer: Tokenizer) -> str | None:
    """The published template; None where there is none."""
    return tokenizer.published_template


def _document(tokenizer: Tokenizer) -> dict[str, Any]:
    assert tokenizer.vocabulary.library is not None
    return json.loads(tokenizer.vocabulary.library.to_str())


def _is_byte_level(document: dict[str, Any]) -> bool:
    first: dict[str, Any] = document["pre_tokenizer"] or {"type": ""}
    steps: list[dict[str, Any]] = first.get("pretokenizers", [first])
    return any(step["type"] == "ByteLevel" for step in steps)


def _pair(merge: str | list[str]) -> tuple[str, str]:
    left, _, right = merge.partition(" ") if isinstance(merge, str) else (merge[0], "", merge[1])
    return left, right


def _scores(tokens: list[str], kinds: list[int], merges: list[tuple[str, str]]) -> list[float]:
    """Of a piece that merges make, minus the number of the first; of a single one, below all."""
    ranks: dict[str, int] = {}
    for left, right in merges:
        ranks.setdefault(left + right, len(ranks))
    lowest = len(ranks)
    return [
        -float(ranks.get(token, lowest)) if kind == NORMAL else 0.0
        for token, kind in zip(tokens, kinds, strict=True)
    ]


def _pre_tokenizer_name(tokenizer: Tokenizer) -> str:
    """llama.cpp's name for the split: the one of a known pattern that cuts a sample alike."""
    library = tokenizer.vocabulary.library
    assert library is not None and library.pre_tokenizer is not None
    found = _cuts(library.pre_tokenizer)
    for name, (pattern, _) in PRE_TOKENIZERS.items():
        split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
        # llama.cpp's "default" splits otherwise than GPT-2.
        if name != "default" and _cuts(split) == found:
            return name
    raise TokenizerError(
        "The tokenizer splits text in a way that GGUF has no name for; bobot knows {allowed}.",
        hint="Export to hf, or without tokenizer files in the folder.",
        allowed=", ".join(sorted(PRE_TOKENIZERS)),
    )


def _cuts(step: pre_tokenizers.PreTokenizer) -> list[tuple[int, int]]:
    return [place for _, place in step.pre_tokenize_str(_SAMPLE)]


def _ends(tokenizer: Tokenizer) -> dict[str, object]:
    """Beginning, ends and template. GGUF has room for three ends: eos, eot, eom."""
    vocabulary = tokenizer.vocabulary
    names = {token_id: name for name, token_id in tokenizer.special_tokens.items()}
    found: dict[str, object] = {"tokenizer.ggml.add_bos_token": tokenizer.adds_bos}
    if tokenizer.bos_id is not None:
        found["tokenizer.ggml.bos_token_id"] = tokenizer.bos_id
    ends = sorted(tokenizer.eos_ids)
    if ends:
        eos = vocabulary.eos_id if vocabulary.eos_id in ends else ends[0]
        others = [end for end in ends if end != eos]
        others.sort(key=lambda end: "eom" in names.get(end, ""))
        keys = ("tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")
        found |= {"tokenizer.ggml.eos_token_id": eos, **dict(zip(keys, others, strict=False))}
    if (template := jinja_template(tokenizer)) is not None:
        found["tokenizer.chat_template"] = template
    return found


def _special(name: str, token_id: int) -> dict[str, object]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": name, **flags, "special": True}


def _sentencepiece_steps(*, has_prefix: bool) -> dict[str, object]:
    """What the SentencePiece library does around its merges, in this library's words."""
    normalizers: list[dict] = [
        {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
    ]
    decoders: list[dict] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if has_prefix:
        normalizers.insert(0, {"type": "Prepend", "prepend": SPACE})
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "decoder": {"type": "Sequence", "decoders": decoders},
    }


def _bos_in_front(name: str, token_id: int | None) -> dict[str, Any]:
    bos = {"SpecialToken": {"id": name, "type_id": 0}}
    first, second = ({"Sequence": {"id": which, "type_id": 0}} for which in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [bos, first],
        "pair": [bos, first, bos, second],
        "special_tokens": {name: {"id": name, "ids": [token_id], "tokens": [name]}},
    }
