"""The interface's language: English in the source, Indonesian in `locale/id.toml`, keyed by the
English text.

Not for what a model says, and not for logs.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

LANGUAGES = ("en", "id")


class Catalogue:
    """Translates literals into one language; English is the literal itself."""

    def __init__(self, language: str = "en") -> None:
        self.language = language

    def __call__(self, template: str, /, **values: object) -> str:
        text = self.translate(template)
        return text.format(**values) if values else text

    def translate(self, template: str) -> str:
        return (
            template if self.language == "en" else _entries(self.language).get(template, template)
        )


@cache
def _entries(language: str) -> dict[str, str]:
    text = files("bobot").joinpath("locale", f"{language}.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)["messages"]


def language_of(environment: Mapping[str, str]) -> str:
    """ "id" if the first of LC_ALL, LC_MESSAGES, LANG that is set is Indonesian, else "en"."""
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if value := environment.get(name):
            return "id" if value.split("_")[0].split(".")[0].lower() in ("id", "ind") else "en"
    return "en"


tr = Catalogue()
"""The catalogue of the running program; `cli.main` sets `tr.language` once, at the border."""
