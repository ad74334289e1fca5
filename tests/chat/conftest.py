"""A tiny Llama with a token for each byte, loaded with the limits that a test wants."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from service_models import byte_llama

import bobot
from bobot.chat.local import LocalModel
from bobot.engine import EngineConfig


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_llama(tmp_path_factory.mktemp("bytes"))


@pytest.fixture
def load(folder: Path) -> Callable[..., LocalModel]:
    def loaded(**changes: Any) -> LocalModel:
        settings: dict[str, Any] = {"max_num_seqs": 4, "num_blocks": 256} | changes
        return bobot.load(folder, engine_config=EngineConfig(**settings))

    return loaded
