"""bobot: download, run, chat with, serve, modify, audit and release open-weight language models.

    import bobot
    model = bobot.load()  # the embedded model; a folder, a file or a name works too
    print(model.chat([{"role": "user", "content": "halo"}], max_tokens=64))

Importing this package is cheap: torch is imported when a model is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bobot.chat.local import load as load
    from bobot.text import load_tokenizer as load_tokenizer

__version__ = "0.1.0"
__all__ = ["__version__", "load", "load_tokenizer"]


def __getattr__(name: str) -> object:
    if name == "load":
        from bobot.chat.local import load

        return load
    if name == "load_tokenizer":
        from bobot.text import load_tokenizer

        return load_tokenizer
    raise AttributeError(f"module 'bobot' has no attribute {name!r}")
