"""Drills: several small exercises in one conversation. Sums of single digits above all.

A table of a few hundred sums is learned only by meeting each of them often. Same seed, same rows.
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def rows(seed: int, count: int) -> Iterator[dict[str, Any]]:
    """`count` conversations, the languages in turn."""
    rng = random.Random(f"drill {seed}")
    speaker = _wider_rows().wider_speaker(rng)
    kinds = (speaker.translation, speaker.echo, speaker.capital, speaker.own_name)
    for index in range(count):
        language = ("en", "id")[index % 2]
        turns = []
        if rng.random() < 0.7:
            for _ in range(rng.randint(2, 6)):
                turns.append(small_sum(rng, language))
        else:
            kind = rng.choice(kinds)
            for _ in range(rng.randint(1, 3)):
                turns += kind(language)
        messages = []
        for asked, said in turns:
            messages.append({"role": "user", "content": speaker.typed(asked, language)})
            messages.append({"role": "assistant", "content": said})
        yield {"lang": language, "messages": messages}


def small_sum(rng: random.Random, language: str) -> tuple[str, str]:
    a, b = rng.randint(0, 9), rng.randint(0, 9)
    sign = "+"
    if a >= b and rng.random() < 0.4:
        sign = "-"
    word, is_word, asks = {
        "en": (
            {"+": "plus", "-": "minus"}[sign],
            "is",
            ("What is {x}?", "{x}", "what's {x}", "how much is {x}", "{x}=", "calculate {x}"),
        ),
        "id": (
            {"+": "tambah", "-": "kurang"}[sign],
            "adalah",
            ("Berapa {x}?", "{x} berapa?", "{x}", "hitung {x}", "berapa hasil {x}", "{x}="),
        ),
    }[language]
    exercise = f"{a}{rng.choice((f' {sign} ', sign, f' {word} '))}{b}"
    result = a + b if sign == "+" else a - b
    return rng.choice(asks).format(x=exercise), f"{a} {word} {b} {is_word} {result}."


def _wider_rows() -> Any:
    path = Path(__file__).resolve().parent.parent / "wider" / "rows.py"
    spec = importlib.util.spec_from_file_location("wider_rows", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
