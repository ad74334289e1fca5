"""Strings to ids and back: tokenizers of every published format, chat templates, streaming text.

    tokenizer = load_tokenizer("folder-or-file")
    ids = tokenizer.encode_chat([{"role": "user", "content": "halo"}])
    detokenizer = Detokenizer(tokenizer)

What comes back as reasoning, text and tool calls: answer_parser.py. No torch. The names load with
their first use, so that importing this package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bobot.text.detokenize import Detokenizer as Detokenizer
    from bobot.text.loading import load_tokenizer as load_tokenizer
    from bobot.text.loading import with_template as with_template
    from bobot.text.tokenizer import Tokenizer as Tokenizer

_HOMES = {
    "Detokenizer": "detokenize",
    "Tokenizer": "tokenizer",
    "load_tokenizer": "loading",
    "with_template": "loading",
}

__all__ = ["Detokenizer", "Tokenizer", "load_tokenizer", "with_template"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
