"""`Tokenizer`: strings to ids and back, conversations to prompts, alike for every file format."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, Protocol

from bobot.errors import TemplateError, TokenizerError
from bobot.text.lookalikes import Guard
from bobot.text.vocabulary import REPLACEMENT, Vocabulary

Message = Mapping[str, Any]


class ChatFormat(Protocol):
    """A chat template or a publisher's built-in format."""

    source: str  # the Jinja text, or the name of a built-in format
    published: str | None  # the Jinja text beside the model, whether or not it is used
    takes_argument_text: bool  # whether it writes a tool call's arguments given as JSON text

    def takes(self, variable: str) -> bool: ...  # whether this variable makes a difference

    def render(self, messages: list, tools: list | None, **variables: Any) -> str: ...


class Tokenizer:
    """Made by bobot.text.load_tokenizer.

    vocab_size is the highest id + 1; the model's own may be larger (padding). `adds_bos`: a plain
    prompt starts with bos_id (encode never adds it). `eos_ids` are the stop tokens known to the
    tokenizer side. `chat_template` is the Jinja source or the name of a built-in format, None if
    there is neither; `published_template` the Jinja source also where a built-in format is used.
    """

    def __init__(self, vocabulary: Vocabulary, chat: ChatFormat | None) -> None:
        self.vocabulary = vocabulary
        self.vocab_size = len(vocabulary.pieces)
        self.bos_id = vocabulary.bos_id
        self.adds_bos = vocabulary.adds_bos
        self.eos_ids = vocabulary.stop_ids
        self.special_tokens = vocabulary.special_tokens
        self.chat_template = chat.source if chat else None
        self.published_template = chat.published if chat else None
        self._chat = chat

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """Ids of `text`, no BOS. Special tokens written in it count only with allow_special."""
        if not allow_special:
            return self._encode_plain(text, opens_prompt=True)
        return self._encode_parts(text, lambda part: part)

    def decode(self, ids: Iterable[int], errors: str = "replace") -> str:
        """The text of `ids`; `errors` as in bytes.decode for bytes that are not UTF-8."""
        data = self.decode_bytes(ids)
        if errors == "replace" and self.vocabulary.replaces_each_byte:
            return replace_each_byte(data.decode("utf-8", "surrogateescape"))
        return data.decode("utf-8", errors)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of `ids`; an id beyond the vocabulary gives U+FFFD."""
        return b"".join(self.decode_pieces(ids))

    def decode_pieces(self, ids: Iterable[int], *, opens_text: bool = True) -> Iterator[bytes]:
        """The bytes that each id adds, one item per id; lazy, so that ids may still be coming.

        opens_text: nothing was decoded before, so that SentencePiece's first space is dropped.
        """
        pieces, kept = self.vocabulary.pieces, self.vocabulary.kept_space_ids
        strips = opens_text and self.vocabulary.strips_leading_space
        for token_id in ids:
            piece = pieces[token_id] if 0 <= token_id < len(pieces) else REPLACEMENT
            if strips and piece:
                strips = False
                if piece.startswith(b" ") and token_id not in kept:
                    piece = piece[1:]
            yield piece

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping] | None = None,
        add_generation_prompt: bool = True,
        *,
        now: Callable[[], datetime] = datetime.now,
        **kwargs: object,
    ) -> str:
        """The exact prompt of the published template. `kwargs` are further template variables.

        Raises TemplateError when the template refuses the conversation.
        """
        if self._chat is None:
            raise TokenizerError(
                "This model has no chat template: it was made to continue text, not to chat.",
                hint="Give it a plain prompt with `bobot run`.",
            )
        if not messages:
            raise TemplateError("The conversation is empty; a chat needs at least one message.")
        return self._chat.render(
            list(messages),
            list(tools) if tools else None,
            add_generation_prompt=add_generation_prompt,
            now=now,
            **kwargs,
        )

    def takes(self, variable: str) -> bool:
        """Whether the chat format knows this template variable, such as reasoning_effort."""
        return self._chat is not None and self._chat.takes(variable)

    @property
    def takes_argument_text(self) -> bool:
        """Whether the arguments of a tool call may stand in a message as the model's own JSON
        text; else the chat template wants them as an object."""
        return self._chat is not None and self._chat.takes_argument_text

    def encode_chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping] | None = None,
        add_generation_prompt: bool = True,
        *,
        continues_last: bool = False,
        **kwargs: Any,
    ) -> list[int]:
        """Ids of the rendered prompt: the template's own special tokens become ids, text inside
        `messages` and `tools` that looks like one stays text (see lookalikes.Guard).

        continues_last: the prompt ends with the content of the last message, for the model to go
        on; TemplateError where the template does not show that content.
        """
        try:
            guard = Guard(self.special_tokens, (messages, tools))
            shown = guard.protect(messages), guard.protect(tools)
        except RecursionError as error:
            raise TemplateError("The conversation or its tools are nested too deeply.") from error
        text = self.render(*shown, add_generation_prompt and not continues_last, **kwargs)
        if continues_last:
            text = _up_to_content(text, shown[0][-1])
        return self._encode_parts(text, guard.restore)

    def _encode_parts(self, text: str, restore: Callable[[str], str]) -> list[int]:
        """Ids of `text` with its special tokens; what lies between goes through `restore`."""
        ids: list[int] = []
        for number, part in enumerate(self._special_pattern.split(text)):
            if number % 2:
                ids.append(self.special_tokens[part])
            elif part:
                ids += self._encode_plain(restore(part), opens_prompt=not ids)
        return ids

    @cached_property
    def _special_pattern(self) -> re.Pattern[str]:
        """Matches a special token, the longest at each place; one of a single character never."""
        names = sorted(
            (name for name in self.special_tokens if len(name) > 1), key=len, reverse=True
        )
        return re.compile("(" + "|".join(map(re.escape, names)) + ")" if names else r"((?!))")

    def _encode_plain(self, text: str, *, opens_prompt: bool) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise TokenizerError(
                "The text is not valid Unicode: character {position} is half of a surrogate pair.",
                hint="Read the input as UTF-8.",
                position=error.start,
            ) from error
        return self.vocabulary.encode_plain(text, opens_prompt)


def _up_to_content(text: str, message: Message) -> str:
    """The rendered conversation up to the end of this message's content, which it shows last;
    templates cut white space off around it."""
    content = message.get("content")
    content = content if isinstance(content, str) else ""
    body = content.strip()
    place = text.rfind(body)
    if not body or place < 0:
        raise TemplateError("The last message has no text in the prompt that could be continued.")
    return text[: place + len(body)] + content[len(content.rstrip()) :]


def replace_each_byte(text: str) -> str:
    """U+FFFD for each byte that "surrogateescape" could not decode."""
    return re.sub("[\udc80-\udcff]", "\ufffd", text)
