"""The conversations of ../chat in many more wordings, with more exercises in copying and counting.

A small model that knows an answer still misses the question when it is put in other words; this
source teaches the words. Same seed, same rows.
"""

from __future__ import annotations

import importlib.util
import random
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def _chat_rows() -> Any:
    spec = importlib.util.spec_from_file_location("chat_rows", HERE.parent / "chat" / "rows.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(seed: int, count: int) -> Iterator[dict[str, Any]]:
    """`count` conversations, the languages in turn."""
    speaker = wider_speaker(random.Random(f"wider {seed}"))
    for index in range(count):
        language = ("en", "id")[index % 2]
        yield {"lang": language, "messages": speaker.conversation(language)}


def wider_speaker(rng: random.Random) -> Any:
    """A speaker of ../chat whose exchanges are drawn from the tables of this folder too."""
    chat = _chat_rows()
    asks = tomllib.loads((HERE / "asks.toml").read_text(encoding="utf-8"))

    class WiderSpeaker(chat.Speaker):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__(rng)
            self.kinds = [
                (0.22, self.intent),
                (0.20, self.reworded),
                (0.12, self.fact),
                (0.10, self.capital),
                (0.13, self.sum),
                (0.09, self.translation),
                (0.02, self.opposite),
                (0.02, self.unknown),
                (0.05, self.off_topic),
                (0.02, self.own_name),
                (0.03, self.echo),
            ]

        def exchange(self, language: str) -> list[tuple[str, str]]:
            turns = super().exchange(language)
            asked, said = turns[0]
            if asked.endswith("?") and rng.random() < 0.25:
                frame = rng.choice(asks[f"frames_{language}"])
                turns[0] = frame.format(q=asked[0].lower() + asked[1:-1]), said
            return turns

        def sum(self, language: str) -> list[tuple[str, str]]:
            [(asked, said)] = super().sum(language)
            return [(asked.replace("*", rng.choice("*x")), said)]

        def reworded(self, language: str) -> list[tuple[str, str]]:
            known, others = rng.choice(asks[f"more_{language}"])
            for intent in self.intents:
                if any(known.lower() == ask.lower() for ask in intent[language]["ask"]):
                    return [(rng.choice(others.split("|")), rng.choice(intent[language]["say"]))]
            raise KeyError(known)

        def off_topic(self, language: str) -> list[tuple[str, str]]:
            asked = rng.choice(asks[f"about_{language}"])
            subject = rng.choice(asks[f"subjects_{language}"])
            return [(asked.format(s=subject), rng.choice(self.words[f"dont_know_{language}"]))]

        def echo(self, language: str) -> list[tuple[str, str]]:
            column = ("en", "id").index(language)
            count = rng.randint(1, 3)
            words = [
                rng.choice(self.words["translations"])[column].rstrip("?") for _ in range(count)
            ]
            phrase = " ".join(words)
            asked = rng.choice(asks[f"echo_{language}"]).format(w=phrase)
            return [(asked, f"{phrase[0].upper()}{phrase[1:]}.")]

    return WiderSpeaker()
