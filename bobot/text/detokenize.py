"""Text of a stream of ids, as soon as it is certain: never half a character."""

from __future__ import annotations

import codecs
from collections.abc import Iterator

from bobot.text.tokenizer import Tokenizer, replace_each_byte


class Detokenizer:
    """The pieces that push and finish return add up to tokenizer.decode(all ids).

    opens_text=False: the ids go on with a text that stands before them, so that the first space
    of a SentencePiece vocabulary is kept.
    """

    def __init__(self, tokenizer: Tokenizer, *, opens_text: bool = True) -> None:
        self._ids: list[int] = []
        self._each_byte = tokenizer.vocabulary.replaces_each_byte
        self._pieces = tokenizer.decode_pieces(self._arriving(), opens_text=opens_text)
        errors = "surrogateescape" if self._each_byte else "replace"
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors)

    def _arriving(self) -> Iterator[int]:
        while True:
            yield self._ids.pop()

    def push(self, token_id: int) -> str:
        """The text that is complete with this id; empty while a character is still open."""
        self._ids.append(token_id)
        return self._clean(self._decoder.decode(next(self._pieces)))

    def finish(self) -> str:
        """What is left: U+FFFD for a character that never became complete."""
        return self._clean(self._decoder.decode(b"", final=True))

    def _clean(self, text: str) -> str:
        return replace_each_byte(text) if self._each_byte else text
