"""Conversations in English and Indonesian that a very small assistant should know how to hold.

What is said stands in the TOML files beside this one: `identity` and `smalltalk` (intents), `facts`
(questions and answers), `words` (tables for exercises). This file draws, fills in, joins turns and
makes the user's side look typed: lower case, missing marks, a slip of the finger. Same seed, same
rows.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Turn = tuple[str, str]
"""What the user says and what the assistant answers."""


def rows(seed: int, count: int) -> Iterator[dict[str, Any]]:
    """`count` conversations, the languages in turn."""
    speaker = Speaker(random.Random(f"chat {seed}"))
    for index in range(count):
        language = ("en", "id")[index % 2]
        yield {"lang": language, "messages": speaker.conversation(language)}


class Speaker:
    """Draws conversations from the tables."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        folder = Path(__file__).parent
        tables = {path.stem: tomllib.loads(path.read_text()) for path in folder.glob("*.toml")}
        self.words = tables["words"]
        self.facts = tables["facts"]
        self.intents = tables["identity"]["intent"] + tables["smalltalk"]["intent"]
        self.weights = [intent["weight"] for intent in self.intents]
        self.kinds: list[tuple[float, Callable[[str], list[Turn]]]] = [
            (0.50, self.intent),
            (0.17, self.fact),
            (0.09, self.capital),
            (0.09, self.sum),
            (0.07, self.translation),
            (0.02, self.opposite),
            (0.04, self.unknown),
            (0.02, self.own_name),
        ]

    def conversation(self, language: str) -> list[dict[str, str]]:
        rng = self.rng
        messages = []
        if rng.random() < 0.12:
            systems = self.words[f"systems_{language}"]
            messages.append({"role": "system", "content": rng.choice(systems)})
        exchanges = rng.choices((1, 2, 3), (0.62, 0.26, 0.12))[0]
        for _ in range(exchanges):
            for asked, said in self.exchange(language):
                messages.append({"role": "user", "content": self.typed(asked, language)})
                messages.append({"role": "assistant", "content": said})
        return messages

    def exchange(self, language: str) -> list[Turn]:
        weights = [weight for weight, _ in self.kinds]
        _, kind = self.rng.choices(self.kinds, weights)[0]
        return kind(language)

    def intent(self, language: str) -> list[Turn]:
        intent = self.rng.choices(self.intents, self.weights)[0][language]
        return [(self.rng.choice(intent["ask"]), self.rng.choice(intent["say"]))]

    def fact(self, language: str) -> list[Turn]:
        asks, said = self.rng.choice(self.facts[language])
        return [(self.rng.choice(asks.split("|")), said)]

    def capital(self, language: str) -> list[Turn]:
        english, indonesian, city, kota = self.rng.choice(self.words["countries"])
        if language == "en":
            ask = self.rng.choice(
                (
                    "What is the capital of {c}?",
                    "capital of {c}",
                    "What's the capital city of {c}?",
                    "Which city is the capital of {c}?",
                    "Do you know the capital of {c}?",
                    "tell me the capital of {c}",
                    "{c} capital?",
                )
            )
            return [(ask.format(c=english), f"The capital of {english} is {city}.")]
        ask = self.rng.choice(
            (
                "Apa ibu kota {c}?",
                "ibu kota {c}",
                "Ibukota {c} apa?",
                "Apa nama ibu kota {c}?",
                "Sebutkan ibu kota {c}.",
                "ibu kota negara {c} apa",
                "kamu tahu ibu kota {c}?",
            )
        )
        return [(ask.format(c=indonesian), f"Ibu kota {indonesian} adalah {kota}.")]

    def sum(self, language: str) -> list[Turn]:
        a, b = self.rng.randint(0, 10), self.rng.randint(0, 10)
        kind = self.rng.choices("+-*", (0.6, 0.25, 0.15))[0]
        if kind == "-":
            a, b = max(a, b), min(a, b)
        result = {"+": a + b, "-": a - b, "*": a * b}[kind]
        words = {
            "en": {"+": "plus", "-": "minus", "*": "times"},
            "id": {"+": "tambah", "-": "kurang", "*": "kali"},
        }[language]
        operator = self.rng.choice((kind, f" {kind} ", f" {kind} ", f" {words[kind]} "))
        exercise = f"{a}{operator}{b}"
        asks = {
            "en": ("What is {x}?", "{x}", "{x} = ?", "how much is {x}", "calculate {x}", "{x}="),
            "id": (
                "Berapa {x}?",
                "{x}",
                "{x} = ?",
                "{x} berapa?",
                "hitung {x}",
                "Berapa hasil {x}?",
            ),
        }[language]
        is_word = {"en": "is", "id": "adalah"}[language]
        said = f"{a} {words[kind]} {b} {is_word} {result}."
        return [(self.rng.choice(asks).format(x=exercise), said)]

    def translation(self, language: str) -> list[Turn]:
        english, indonesian = self.rng.choice(self.words["translations"])
        to_indonesian = self.rng.random() < 0.5
        word, result = (english, indonesian) if to_indonesian else (indonesian, english)
        if language == "en":
            target = "Indonesian" if to_indonesian else "English"
            asks = (
                'Translate "{w}" to {t}.',
                "What is {w} in {t}?",
                'How do you say "{w}" in {t}?',
                "{w} in {t}",
                "translate to {t}: {w}",
            )
            said = f'"{word.capitalize()}" in {target} is "{result}".'
        else:
            target = "Indonesia" if to_indonesian else "Inggris"
            asks = (
                'Terjemahkan "{w}" ke bahasa {t}.',
                "Apa bahasa {t} dari {w}?",
                "bahasa {t}nya {w} apa?",
                "Apa {w} dalam bahasa {t}?",
                "terjemahkan ke bahasa {t}: {w}",
            )
            said = f'"{word.capitalize()}" dalam bahasa {target} adalah "{result}".'
        return [(self.rng.choice(asks).format(w=word, t=target), said)]

    def opposite(self, language: str) -> list[Turn]:
        word, other = self.rng.choice(self.words[f"opposites_{language}"])
        if language == "en":
            asks = ("What is the opposite of {w}?", "opposite of {w}", 'The opposite of "{w}"?')
            return [
                (self.rng.choice(asks).format(w=word), f'The opposite of "{word}" is "{other}".')
            ]
        asks = ("Apa lawan kata {w}?", "lawan kata {w}", "Lawan kata dari {w} apa?", "antonim {w}")
        return [(self.rng.choice(asks).format(w=word), f'Lawan kata "{word}" adalah "{other}".')]

    def unknown(self, language: str) -> list[Turn]:
        words, rng = self.words, self.rng
        town, other_town = rng.sample(words["towns"], 2)
        asked = rng.choice(words[f"unknown_{language}"]).format(
            name=rng.choice(words["names"]),
            surname=rng.choice(words["surnames"]),
            year=rng.randint(1200, 2030),
            number=rng.randint(12, 99),
            town=town,
            town2=other_town,
            thing=rng.choice(words[f"things_{language}"]),
            sport=rng.choice(words[f"sports_{language}"]),
        )
        return [(asked, rng.choice(words[f"dont_know_{language}"]))]

    def own_name(self, language: str) -> list[Turn]:
        name = self.rng.choice(self.words["names"])
        if language == "en":
            asks = ("My name is {n}.", "I am {n}", "I'm {n}.", "call me {n}", "Hi, my name is {n}")
            said = f"Nice to meet you, {name}! How can I help you?"
            again = (
                ("What is my name?", "Do you remember my name?", "what's my name"),
                "Your name is {n}.",
            )
        else:
            asks = (
                "Nama saya {n}.",
                "Namaku {n}",
                "Aku {n}.",
                "panggil aku {n}",
                "Halo, nama saya {n}",
            )
            said = f"Senang bertemu dengan Anda, {name}! Ada yang bisa saya bantu?"
            again = ("Siapa nama saya?", "Kamu ingat namaku?", "namaku siapa?"), "Nama Anda {n}."
        turns = [(self.rng.choice(asks).format(n=name), said)]
        if self.rng.random() < 0.6:
            turns.append((self.rng.choice(again[0]), again[1].format(n=name)))
        return turns

    def typed(self, text: str, language: str) -> str:
        """The text as someone in a hurry may type it."""
        rng = self.rng
        if rng.random() < 0.06:
            opener = {
                "en": ("hey, ", "bobot, ", "please, ", "so, "),
                "id": ("eh, ", "bobot, ", "tolong, ", "nah, "),
            }
            text = rng.choice(opener[language]) + text
        if rng.random() < 0.40:
            text = text.lower()
        if rng.random() < 0.40:
            text = text.rstrip("?.!")
        elif rng.random() < 0.06:
            text = text.rstrip("?.!") + rng.choice(("??", "!!", " ?", "..."))
        if rng.random() < 0.04:
            text += {
                "en": rng.choice((" please", " bobot")),
                "id": rng.choice((" dong", " ya", " sih")),
            }[language]
        if len(text) > 8 and rng.random() < 0.08:
            at = rng.randrange(1, len(text) - 1)
            slips = (
                text[:at] + text[at + 1 :],
                text[:at] + text[at] + text[at:],
                text[: at - 1] + text[at] + text[at - 1] + text[at + 1 :],
            )
            text = rng.choice(slips)
        return text
