"""Fixtures shared by all tests: where reference data lies, and small models with random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """The models of the tests are too small to share between threads."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the publishers' reference outputs; it is not part of the project."""
    if not (SHARED / "parity").is_dir():
        pytest.skip("no folder ../shared with the reference outputs beside this checkout")
    return SHARED
