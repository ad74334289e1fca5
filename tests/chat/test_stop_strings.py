"""Stop strings end the text exactly there, however the text is cut into pieces."""

from __future__ import annotations

import random

import pytest

from bobot.chat.stop_strings import StopStrings
from bobot.errors import RequestError


def cut(text: str, strings: list[str]) -> str:
    """The definition, letter by letter: what precedes the stop string that is complete first."""
    for end in range(len(text) + 1):
        if complete := [s for s in strings if text[:end].endswith(s)]:
            return text[: end - max(map(len, complete))]
    return text


def test_any_cutting_into_pieces_gives_the_same_text() -> None:
    rng = random.Random(0)
    for _ in range(2000):
        text = "".join(rng.choices("abc", k=rng.randrange(12)))
        strings = [
            "".join(rng.choices("abc", k=rng.randrange(1, 4))) for _ in range(rng.randrange(3))
        ]
        stop = StopStrings(strings)
        shown = ""
        at = 0
        while at < len(text) and not stop.is_hit:
            size = rng.randrange(1, 4)
            shown += stop.push(text[at : at + size])
            assert cut(text, strings).startswith(shown), (text, strings, shown)
            at += size
        shown += stop.finish()
        assert shown == cut(text, strings), (text, strings)


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(RequestError, match="empty"):
        StopStrings(["a", ""])
