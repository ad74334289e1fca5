"""Byte-level BPE on the `tokenizers` library: a split regex, then merges inside each part.

Serves the formats whose tokens are byte strings: tiktoken files, tekken and the GPT-2 style GGUF.
The library spells bytes as printable characters (GPT-2's table, encoder.py of openai/gpt-2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from bobot.errors import TokenizerError

# Split patterns as their publishers wrote them; (?i:...) and \p{...} mean the same to Oniguruma.
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_OTHERS = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
O200K_PATTERN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]*[{_LOWER}]+{_CONTRACTION}"
    rf"|[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]+[{_LOWER}]*{_CONTRACTION}|\p{{N}}{{1,3}}" + _OTHERS
)
TEKKEN_PATTERN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]*[{_LOWER}]+"
    rf"|[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]+[{_LOWER}]*|\p{{N}}" + _OTHERS
)
KIMI_PATTERN = (
    r"[\p{Han}]+"
    rf"|[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}&&[^\p{{Han}}]]*[{_LOWER}&&[^\p{{Han}}]]+{_CONTRACTION}"
    rf"|[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}&&[^\p{{Han}}]]+[{_LOWER}&&[^\p{{Han}}]]*{_CONTRACTION}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _printable_bytes() -> str:
    """The character that stands for each byte: itself where printable, else one from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return "".join(chr(byte if byte in printable else next(spare)) for byte in range(256))


PRINTABLE = _printable_bytes()
_TO_PRINTABLE = {byte: ord(character) for byte, character in enumerate(PRINTABLE)}
_TO_BYTE = {ord(character): byte for byte, character in enumerate(PRINTABLE)}


def to_printable(piece: bytes) -> str:
    return piece.decode("latin-1").translate(_TO_PRINTABLE)


def from_printable(text: str) -> bytes:
    """Inverse of to_printable; text outside the table (an added token) stands for itself."""
    try:
        return text.translate(_TO_BYTE).encode("latin-1")
    except UnicodeEncodeError:
        return text.encode()


def splits_in_order(spellings: Iterable[str], vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """All ways to make each spelling, in order, out of two members of `vocabulary`.

    A file that gives ranks (or scores) merges the adjacent pair whose union ranks first, whatever
    the pair. Listing every pair in the order of the unions gives a merge list that does the same:
    pairs that BPE would never meet cost memory only.
    """
    return [
        (head, tail)
        for spelling in spellings
        for cut in range(1, len(spelling))
        if (tail := spelling[cut:]) in vocabulary and (head := spelling[:cut]) in vocabulary
    ]


def byte_bpe(
    vocabulary: dict[str, int],
    merges: list[tuple[str, str]],
    pattern: str,
    *,
    whole_parts_first: bool,
    file: object,
) -> Tokenizer:
    """A library tokenizer over printable spellings.

    whole_parts_first: a part of the split that is a token becomes that token before any merge is
    tried (tiktoken's rule; `ignore_merges` to the library).
    """
    missing = [byte for byte in range(256) if PRINTABLE[byte] not in vocabulary]
    if missing:
        raise TokenizerError(
            "{file}: lacks {count} of the 256 single bytes, the first is 0x{byte:02x}",
            hint="The file is damaged or not a byte-level vocabulary.",
            file=file,
            count=len(missing),
            byte=missing[0],
        )
    bpe = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=whole_parts_first))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return bpe


def plain_encoder(bpe: Tokenizer) -> Callable[[str, bool], list[int]]:
    """`Vocabulary.encode_plain` where the start of a prompt is like any other place."""

    def encode_plain(text: str, opens_prompt: bool) -> list[int]:
        return bpe.encode(text, add_special_tokens=False).ids

    return encode_plain
