"""Applications around scripted models, closed after the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scripted import Talk, talk_to


@pytest.fixture
def talk(tmp_path: Path) -> Iterator[Callable[..., Talk]]:
    """talk(model, ..., is_lenient=True) -> a client; see talk_to."""
    made: list[Talk] = []

    def make(*models, **options) -> Talk:
        folder = tmp_path / str(len(made))
        made.append(talk_to(folder, *models, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()
