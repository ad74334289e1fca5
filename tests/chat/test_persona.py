"""Personas: the shipped ones speak both languages, a file becomes one."""

from __future__ import annotations

from pathlib import Path

import pytest

from bobot.chat import persona
from bobot.errors import ConfigError, NotFoundError
from bobot.messages import LANGUAGES


def test_plain_is_the_default_and_rebel_can_be_chosen() -> None:
    assert persona.shipped()[:2] == ["plain", "rebel"]


@pytest.mark.parametrize("name", persona.shipped())
def test_shipped_persona_is_described_in_every_language(name: str) -> None:
    shipped = persona.load(name)
    for language in LANGUAGES:
        assert shipped.about[language]
        assert language in shipped.system
    assert bool(shipped.prompt("en")) == bool(shipped.prompt("id")) == (name != "plain")


def test_text_file_is_a_system_prompt_and_toml_may_hold_languages(tmp_path: Path) -> None:
    text = tmp_path / "pirate.txt"
    text.write_text("You are a pirate.\n")
    assert persona.load(str(text)).prompt("id") == "You are a pirate."
    toml = tmp_path / "bajak.toml"
    toml.write_text('about = "a pirate"\n[system]\nen = "Arr."\nid = "Yo."\n')
    assert persona.load(str(toml)).prompt("id") == "Yo."
    assert persona.load(str(toml)).description("id") == "a pirate"


def test_wrong_persona_names_the_ones_there_are(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="plain, rebel"):
        persona.load("nobody")
    broken = tmp_path / "broken.toml"
    for content, part in ((b"[", "TOML"), (b"system = 1", "must be a text"), (b"\xff", "byte 0")):
        broken.write_bytes(content)
        with pytest.raises(ConfigError, match=part):
            persona.load(str(broken))
