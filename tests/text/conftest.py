"""Published tokenizers are large: each is loaded once for all tests."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from published_tokenizers import FILES, unpacked

from bobot.text import Tokenizer, load_tokenizer


@pytest.fixture(scope="session")
def published(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tokenizer]:
    """Gives the tokenizer of one name in FILES."""

    @cache
    def load(name: str) -> Tokenizer:
        file = shared / "parity/tokenizers" / FILES[name]
        return load_tokenizer(unpacked(file, tmp_path_factory.mktemp(name)))

    return load
