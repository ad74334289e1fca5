"""Reasoning on a full terminal: dimmed while it comes, one line when it has ended."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from bobot.cli.live_lines import LiveLines
from bobot.cli.markdown_stream import MarkdownStream
from bobot.cli.sanitize import sanitize
from bobot.cli.thinking import NUM_LINES, Thinking


def screen_after(output: str) -> list[str]:
    """What stands on a terminal that understands the few sequences in use."""
    lines, row = [""], 0
    for part in re.split(r"(\x1b\[[?\d;]*[A-Za-z]|\n|\r)", output):
        if part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part.endswith("A") and part.startswith("\x1b"):
            row -= int(part[2:-1])
        elif part == "\x1b[J":
            lines[row:] = [""]
        elif not part.startswith("\x1b") and part != "\r":
            lines[row] += part
    return lines


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=20, height=10)


def test_reasoning_is_replaced_by_one_line_that_counts_it(console: Console) -> None:
    lines = LiveLines(console)
    thinking, stream = Thinking(lines), MarkdownStream(lines)
    for word in ("first ", "second ", "third\n") * 20:
        thinking._drawn_at = 0.0
        thinking.push(word, 1)
        shown = [line for line in screen_after(console.file.getvalue()) if line]  # type: ignore[attr-defined]
        assert len(shown) <= NUM_LINES and all(len(line) < 20 for line in shown), shown
    thinking.finish()
    stream.push("Four.")
    stream.finish()
    shown = screen_after(console.file.getvalue())  # type: ignore[attr-defined]
    assert shown == ["Thought for 60 tokens; /reasoning shows it.", "", "Four.", ""]


def test_no_character_of_the_reasoning_commands_the_terminal(console: Console) -> None:
    thinking = Thinking(LiveLines(console))
    thinking.push("a\x1b[2Jb\u202ec\u2066d\x07", 1)
    assert screen_after(console.file.getvalue())[0] == "a[2Jbcd"  # type: ignore[attr-defined]


def test_letters_that_run_from_right_to_left_stay() -> None:
    assert sanitize("\u05d0\u200f \u202e\u0627\u202c x") == "\u05d0\u200f \u0627 x"
