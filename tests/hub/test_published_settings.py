"""Every short name can be asked about offline."""

from __future__ import annotations

from bobot.hub.names import aliases
from bobot.hub.published_settings import published_settings


def test_every_short_name_has_its_settings() -> None:
    missing = [name for name, repository in aliases().items() if not published_settings(repository)]
    assert not missing, f"no entry in published_settings.toml for {missing}"


def test_an_unknown_repository_has_none() -> None:
    assert published_settings("nobody/nothing") is None
