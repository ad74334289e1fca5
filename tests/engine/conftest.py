"""One tiny model for all tests of the engine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tiny_engine import tiny_llama

from bobot.models.llama import Llama


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small only wait for each other on two threads, very long on a busy machine."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="session")
def model() -> Llama:
    return tiny_llama()
