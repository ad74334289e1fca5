"""Vocabularies given as ranked byte strings: tiktoken's text format and Mistral's tekken.json.

A tiktoken file has one token per line, base64 and rank. It names neither the split pattern nor the
special tokens: these follow from the publisher (Llama 3, OpenAI's o200k_harmony, Kimi).
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from bobot.errors import TokenizerError
from bobot.text.byte_bpe import (
    KIMI_PATTERN,
    LLAMA3_PATTERN,
    O200K_PATTERN,
    byte_bpe,
    plain_encoder,
    splits_in_order,
    to_printable,
)
from bobot.text.vocabulary import MAX_VOCAB_SIZE, Vocabulary

# meta-llama/llama-models models/llama3/tokenizer.py: 256 specials after the ranks.
_LLAMA3_SPECIALS = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|step_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    "<|image|>",
    *(f"<|reserved_special_token_{number}|>" for number in range(2, 246)),
]
# openai/gpt-oss gpt_oss/tokenizer.py: specials of o200k_harmony, the rest is reserved.
_HARMONY_SPECIALS = {
    199998: "<|startoftext|>",
    199999: "<|endoftext|>",
    200002: "<|return|>",
    200003: "<|constrain|>",
    200005: "<|channel|>",
    200006: "<|start|>",
    200007: "<|end|>",
    200008: "<|message|>",
    200012: "<|call|>",
}
_O200K_RANKS, _HARMONY_SIZE = 199998, 201088
_KIMI_NUM_SPECIALS = 256
# mistral-common tokens/tokenizers/tekken.py: specials of files that do not list them.
_TEKKEN_SPECIALS = [
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
    *("[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]"),
    *("[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
    "[TOOL_CONTENT]",
]


def read_tiktoken(path: Path, data: bytes, config: dict[str, Any]) -> Vocabulary:
    """The vocabulary of a tiktoken file with the specials that its publisher adds.

    `config` is the tokenizer_config.json beside it: Kimi's names its specials there. Without names,
    a .tiktoken file must be o200k_base, any other is read as Llama 3's tokenizer.model.
    """
    ranks = _parse_tiktoken(path, data)
    if "added_tokens_decoder" in config:
        return _kimi(path, ranks, config)
    if len(ranks) == _O200K_RANKS:
        names = {i: f"<|reserved_{i}|>" for i in range(_O200K_RANKS, _HARMONY_SIZE)}
        specials = {name: i for i, name in (names | _HARMONY_SPECIALS).items()}
        specials["<|endofprompt|>"] = 200018  # from o200k_base; shares its id with a reserved name
        return _ranked(path, ranks, O200K_PATTERN, specials, specials["<|startoftext|>"])
    if path.suffix == ".tiktoken":
        raise TokenizerError(
            "{file}: has {found} ranks; bobot knows o200k_base with {known}",
            file=path,
            found=len(ranks),
            known=_O200K_RANKS,
        )
    specials = {name: len(ranks) + i for i, name in enumerate(_LLAMA3_SPECIALS)}
    return _ranked(path, ranks, LLAMA3_PATTERN, specials, len(ranks), kind="llama3")


def _kimi(path: Path, ranks: list[bytes], config: dict[str, Any]) -> Vocabulary:
    """moonshotai/Kimi-K2 tokenization_kimi.py: 256 specials after the ranks, some of them named."""
    try:
        names = {
            int(key): token["content"] for key, token in config["added_tokens_decoder"].items()
        }
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise TokenizerError(
            "{file}: added_tokens_decoder in tokenizer_config.json is damaged", file=path
        ) from error
    reserved = range(len(ranks), len(ranks) + _KIMI_NUM_SPECIALS)
    specials = {str(names.get(i, f"<|reserved_token_{i}|>")): i for i in reserved}
    return _ranked(path, ranks, KIMI_PATTERN, specials, None)


def _parse_tiktoken(path: Path, data: bytes) -> list[bytes]:
    """The tokens of the file in the order of their ranks, which must be 0, 1, 2, ..."""
    ranks: dict[int, bytes] = {}
    for number, line in enumerate(data.splitlines(), start=1):
        token, _, rank = line.partition(b" ")
        try:
            ranks[int(rank)] = binascii.a2b_base64(token, strict_mode=True)
        except ValueError as error:
            if not line:
                continue
            raise TokenizerError(
                "{file}: line {number} is not a base64 token and its rank: {line!r}",
                hint="The file is damaged or not a tiktoken vocabulary.",
                file=path,
                number=number,
                line=line[:40].decode("ascii", "replace"),
            ) from error
    if not ranks or max(ranks) != len(ranks) - 1 or min(ranks) != 0:
        raise TokenizerError(
            "{file}: holds {count} ranks but not all of 0 to {last}",
            hint="The file is damaged: download it again.",
            file=path,
            count=len(ranks),
            last=len(ranks) - 1,
        )
    return [ranks[rank] for rank in range(len(ranks))]


def _ranked(
    path: Path,
    ranks: list[bytes],
    pattern: str,
    specials: dict[str, int],
    bos_id: int | None,
    kind: str = "",
) -> Vocabulary:
    """Vocabulary whose token i is ranks[i], with `specials` behind them, spelled out by decode."""
    pieces = ranks + [b""] * (max(specials.values()) + 1 - len(ranks))
    for name, token_id in specials.items():
        pieces[token_id] = name.encode()
    bpe = _library_tokenizer(path, ranks, 0, pattern)
    return Vocabulary(
        kind=kind,
        adds_bos=kind == "llama3",
        pieces=pieces,
        special_tokens=specials,
        encode_plain=plain_encoder(bpe),
        library=bpe,
        bos_id=bos_id,
    )


def _library_tokenizer(path: Path, ranks: list[bytes], first_id: int, pattern: str) -> Tokenizer:
    spellings = [to_printable(token) for token in ranks]
    vocabulary = {spelling: first_id + rank for rank, spelling in enumerate(spellings)}
    if len(vocabulary) != len(spellings):
        raise TokenizerError("{file}: the same token has two ranks", file=path)
    merges = splits_in_order(spellings, vocabulary)
    return byte_bpe(vocabulary, merges, pattern, whole_parts_first=True, file=path)


def read_tekken(path: Path, document: Any) -> Vocabulary:
    """The vocabulary of a tekken.json: specials first, then ranks up to default_vocab_size.

    decode gives nothing for a special token, as mistral-common's does.
    """
    try:
        config, entries = document["config"], document["vocab"]
        pattern, size = config["pattern"], int(config["default_vocab_size"])
        num_special = int(config["default_num_special_tokens"])
        if not 3 <= num_special < size <= min(MAX_VOCAB_SIZE, num_special + len(entries)):
            raise ValueError("impossible sizes")
        ranks = [
            binascii.a2b_base64(token) for token in _tekken_tokens(entries, size - num_special)
        ]
        names = [str(entry["token_str"]) for entry in document.get("special_tokens") or ()]
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise TokenizerError(
            "{file}: not a tekken vocabulary: {problem}", file=path, problem=str(error) or "damaged"
        ) from error
    names = (names or _TEKKEN_SPECIALS)[:num_special]
    names += [f"<SPECIAL_{i}>" for i in range(len(names), num_special)]
    specials = {name: i for i, name in enumerate(names)}
    bpe = _library_tokenizer(path, ranks, num_special, pattern)
    return Vocabulary(
        kind="mistral_tekken",
        pieces=[b""] * num_special + ranks,
        special_tokens=specials,
        encode_plain=plain_encoder(bpe),
        library=bpe,
        bos_id=specials.get("<s>"),
        eos_id=specials.get("</s>"),
        adds_bos=True,
    )


def _tekken_tokens(entries: list[dict[str, Any]], count: int) -> Iterator[str]:
    for rank, entry in enumerate(entries[:count]):
        if entry["rank"] != rank:
            raise ValueError(f"rank {entry['rank']} stands at place {rank}")
        yield entry["token_bytes"]
