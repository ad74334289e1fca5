"""One tiny model for all tests of the engine."""

from __future__ import annotations

import pytest
from tiny_engine import tiny_llama

from bobot.models.llama import Llama


@pytest.fixture(scope="session")
def model() -> Llama:
    return tiny_llama()
