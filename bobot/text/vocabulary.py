"""What the ids of one tokenizer file stand for, and how its ordinary text becomes ids.

Every reader of a tokenizer format (tokenizer_json, sentencepiece_model, tiktoken_files,
gguf_tokenizer) ends in one `Vocabulary`; `Tokenizer` needs nothing else from them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tokenizers import Tokenizer as LibraryTokenizer

from bobot.errors import TokenizerError

MAX_VOCAB_SIZE = 1 << 22
REPLACEMENT = "\ufffd".encode()


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    kind: str  # which built-in chat format fits ("llama2", "mistral_v3", ...); "" when none does
    pieces: list[bytes]  # what each id adds to the text; b"" for ids that add nothing
    special_tokens: dict[str, int]  # never produced by encode_plain
    # ids of text without special tokens; the flag says that the text opens the whole prompt
    encode_plain: Callable[[str, bool], list[int]]
    bos_id: int | None = None
    eos_id: int | None = None
    stop_ids: frozenset[int] = field(default_factory=frozenset)  # further ends of an answer
    adds_bos: bool = False  # whether a plain prompt starts with bos_id
    chat_template: str | None = None
    # SentencePiece puts a space before a text, which decode takes away again, but only where it was
    # written as the space of a piece: not a space byte, not the sign of an unknown character.
    strips_leading_space: bool = False
    kept_space_ids: frozenset[int] = field(default_factory=frozenset)
    # SentencePiece writes one U+FFFD per invalid byte, others one per maximal invalid run.
    replaces_each_byte: bool = False
    # what encode_plain runs on: the merges, for whoever writes them into another file
    library: LibraryTokenizer | None = None


def pieces_by_id(entries: dict[int, bytes], file: object) -> list[bytes]:
    """`entries` as a list with b"" at the ids that are missing."""
    highest = max(entries, default=-1)
    if highest < 0 or min(entries) < 0 or highest >= MAX_VOCAB_SIZE:
        raise TokenizerError(
            "{file}: its highest token id is {found}; allowed: 0 to {most}",
            file=file,
            found=highest,
            most=MAX_VOCAB_SIZE - 1,
        )
    return [entries.get(token_id, b"") for token_id in range(highest + 1)]
