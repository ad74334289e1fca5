"""Personas: a system prompt with a name, in each language of the interface. Shipped ones are data
in personas/.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bobot.errors import ConfigError, NotFoundError

DEFAULT = "plain"
FOLDER = Path(__file__).with_name("personas")
MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Persona:
    name: str
    about: dict[str, str]
    """Language -> one line that describes it."""
    system: dict[str, str]
    """Language -> system prompt; empty: no system message at all."""

    def prompt(self, language: str) -> str:
        return _in_language(self.system, language)

    def description(self, language: str) -> str:
        return _in_language(self.about, language)


def _in_language(texts: dict[str, str], language: str) -> str:
    return texts.get(language) or texts.get("en") or next(iter(texts.values()), "")


def shipped() -> list[str]:
    """The names of the shipped personas, the default first."""
    names = (path.stem for path in FOLDER.glob("*.toml"))
    return sorted(names, key=lambda name: (name != DEFAULT, name))


def load(name: str) -> Persona:
    """The shipped persona `name`, or that in a file: TOML like the shipped ones, else the whole
    text of the file is its system prompt. Raises NotFoundError or ConfigError.
    """
    if name in shipped():
        return _parse(name, (FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    path = Path(name).expanduser()
    if not path.is_file():
        raise NotFoundError(
            "no persona {name!r}; there are {known}.",
            hint="A persona can also be a text file: give its path.",
            name=name,
            known=", ".join(shipped()),
        )
    text = _read(path)
    if path.suffix == ".toml":
        return _parse(str(path), text)
    return Persona(str(path), {"en": path.name}, {"en": text.strip()})


def _read(path: Path) -> str:
    if path.stat().st_size > MAX_BYTES:
        raise ConfigError(
            "{file} has {size} bytes; a persona has at most {limit}.",
            file=path,
            size=path.stat().st_size,
            limit=MAX_BYTES,
        )
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            "{file} is not UTF-8 text at byte {offset}.", file=path, offset=error.start
        ) from error
    except OSError as error:
        raise ConfigError(
            "{file}: can't read: {reason}.", file=path, reason=error.strerror
        ) from error


def _parse(name: str, text: str) -> Persona:
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError("{file} is not valid TOML: {reason}.", file=name, reason=error) from error
    return Persona(name, _texts(name, values, "about"), _texts(name, values, "system"))


def _texts(name: str, values: dict[str, Any], key: str) -> dict[str, str]:
    texts = values.get(key, {})
    texts = {"en": texts} if isinstance(texts, str) else texts
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise ConfigError(
            "{file}: {key} must be a text, or a table with a text for each language.",
            file=name,
            key=key,
        )
    return {language: text.strip() for language, text in texts.items()}
