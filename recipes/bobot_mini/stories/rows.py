"""Short tales in English and Indonesian: half plain text, half the answer to "tell me a story".

Sentences come from tales.toml; this file only draws and fills them in, the same for one seed.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PERSONS = {"anak laki-laki", "anak perempuan", "boy", "girl"}
PRONOUNS = {
    True: {"he": "he", "him": "him", "his": "his", "He": "He", "His": "His"},
    False: {"he": "she", "him": "her", "his": "her", "He": "She", "His": "Her"},
}


def rows(seed: int, count: int) -> Iterator[dict[str, Any]]:
    """`count` rows, the languages in turn."""
    tales = tomllib.loads((Path(__file__).parent / "tales.toml").read_text(encoding="utf-8"))
    rng = random.Random(f"stories {seed}")
    for index in range(count):
        language = ("en", "id")[index % 2]
        values = cast(tales, language, rng)
        story = tell(tales, language, values, rng)
        if rng.random() < 0.5:
            yield {"lang": language, "text": story}
            continue
        named = rng.random() < 0.6
        asks = tales["ask"][f"ask_about_{language}" if named else language]
        request = rng.choice(asks).format(**values)
        yield {
            "lang": language,
            "messages": [
                {"role": "user", "content": request},
                {"role": "assistant", "content": story},
            ],
        }


def cast(tales: dict[str, Any], language: str, rng: random.Random) -> dict[str, str]:
    """Everything a sentence may mention, fixed for one story."""
    words = tales["words"][language]
    kind, other = rng.sample(words["kinds"], 2)
    is_male = kind in ("boy", "anak laki-laki") or (
        kind not in ("girl", "anak perempuan") and rng.random() < 0.5
    )
    friend_is_male = other in ("boy", "anak laki-laki") or (
        other not in ("girl", "anak perempuan") and rng.random() < 0.5
    )
    who = rng.choice(words["names_he" if is_male else "names_she"])
    friends = [name for name in words["names_he" if friend_is_male else "names_she"] if name != who]
    thing = rng.choice(words["things"])
    return {
        "who": who,
        "kind": kind,
        "friend": rng.choice(friends),
        "fkind": other,
        "place": rng.choice(words["places"]),
        "thing": thing,
        "Thing": thing.capitalize(),
        "food": rng.choice(words["foods"]),
        "day": rng.choice(words["days"]),
        "adj": rng.choice(tales["adjectives"][language]),
        "him2": PRONOUNS[friend_is_male]["him"],
        **PRONOUNS[is_male],
    }


def tell(tales: dict[str, Any], language: str, values: dict[str, str], rng: random.Random) -> str:
    plot = rng.choice(tales["plot"])
    chosen = [rng.choice(tales["opening"][language])]
    chosen += [rng.choice(step) for step in plot[language]["steps"]]
    story = " ".join(sentence.format(**values) for sentence in chosen)
    for person in PERSONS:
        story = story.replace(f"seekor {person}", f"seorang {person}")
    for vowel in "aeiou":
        story = story.replace(f" a {vowel}", f" an {vowel}").replace(f"A {vowel}", f"An {vowel}")
    return story[0].upper() + story[1:]
