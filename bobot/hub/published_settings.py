"""The settings of models that bobot has a short name for, so that questions about them can be
answered before anything is downloaded.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class PublishedSettings:
    """What a repository's config.json says, of published_settings.toml."""

    dialect: str
    config: Mapping[str, Any]
    download_bytes: int | None
    """Where the files hold more than the model needs."""


def published_settings(repository: str) -> PublishedSettings | None:
    """The settings of that repository; None where they are not packed."""
    text = Path(__file__).with_name("published_settings.toml").read_text(encoding="utf-8")
    known: dict[str, PublishedSettings] = {}
    for entry in tomllib.loads(text)["models"]:
        size = entry.get("download_gigabytes")
        inherited = known[entry["like"]].config if "like" in entry else {}
        settings = PublishedSettings(
            dialect=entry.get("dialect", "hf"),
            config={**inherited, **entry["config"]},
            download_bytes=None if size is None else round(size * 1e9),
        )
        known |= dict.fromkeys(entry["repositories"], settings)
    return known.get(repository)
