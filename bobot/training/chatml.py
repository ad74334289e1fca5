"""The conversation format of models trained here (ChatML), and which of its tokens are learned.

`TEMPLATE` is what the exported file carries; `encode_conversation` writes the same text token by
token, which `tests/training` checks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tokenizers import Tokenizer

IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
END_OF_TEXT = "<|endoftext|>"
SPECIAL_TOKENS = (END_OF_TEXT, IM_START, IM_END)

TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{{ message['content'] | trim }}{{ '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def encode_conversation(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]]
) -> tuple[list[int], list[bool]]:
    """Token ids, and for each whether the assistant says it: its words and its <|im_end|>."""
    start = tokenizer.token_to_id(IM_START)
    end = tokenizer.token_to_id(IM_END)
    newline = plain_ids(tokenizer, "\n")
    ids: list[int] = []
    said: list[bool] = []
    for message in messages:
        head = [start, *plain_ids(tokenizer, message["role"] + "\n")]
        content = [*plain_ids(tokenizer, message["content"].strip()), end]
        ids += head + content + newline
        by_assistant = message["role"] == "assistant"
        said += [False] * len(head) + [by_assistant] * len(content) + [False] * len(newline)
    return ids, said


def encode_text(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[bool]]:
    """A plain document and its <|endoftext|>; all of it is to be learned."""
    ids = [*plain_ids(tokenizer, text), tokenizer.token_to_id(END_OF_TEXT)]
    return ids, [True] * len(ids)


def plain_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of ordinary text; special tokens spelled in it stay text."""
    if "<|" in text:
        text = text.replace("<|", "< |")
    return tokenizer.encode(text, add_special_tokens=False).ids
