"""Streamed markdown: whatever the pieces, the screen ends the same, and nothing scrolled is
touched.
"""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from bobot.cli import markdown_stream
from bobot.cli.live_lines import LiveLines
from bobot.cli.markdown_stream import MarkdownStream, render, split_blocks
from bobot.cli.sanitize import sanitize

TEXT = """# Title

Some *text* with `code` and
a second line.
```python
def f(x):

    return x
```
1. one

2. two
   more

   - deep

| a | b |
|---|---|
| 1 | 2 |

Last words"""

BLOCKS = [
    "# Title\n\n",
    "Some *text* with `code` and\na second line.\n",
    "```python\ndef f(x):\n\n    return x\n```\n",
    "1. one\n\n",
    "2. two\n   more\n\n   - deep\n\n",
    "| a | b |\n|---|---|\n| 1 | 2 |\n\n",
]


class Window(io.StringIO):
    """A terminal of `height` lines as far as the stream uses one."""

    def __init__(self, height: int) -> None:
        super().__init__()
        self.lines = [""]
        self.row = 0
        self.height = height
        self.highest = 0

    def write(self, text: str) -> int:
        for part in re.split(r"(\x1b\[\?2026[hl]|\x1b\[\d*[AJ]|\r|\n)", text):
            if part.endswith("A") and part.startswith("\x1b"):
                self.row -= int(part[2:-1])
                reach = len(self.lines) - self.row
                assert reach <= self.height, f"moved {reach} lines up in a window of {self.height}"
            elif part == "\x1b[J":
                self.lines[self.row :] = [""]
            elif part == "\n":
                self.row += 1
                if self.row == len(self.lines):
                    self.lines.append("")
            elif part != "\r" and not part.startswith("\x1b[?"):
                self.lines[self.row] += part
        return len(text)


def shown(text: str, step: int, height: int = 24, width: int = 40) -> list[str]:
    window = Window(height)
    console = Console(file=window, width=width, height=height, no_color=True, force_terminal=True)
    stream = MarkdownStream(LiveLines(console))
    for start in range(0, len(text), step):
        stream.push(text[start : start + step])
    stream.finish()
    return [re.sub(r"\x1b\[[\d;]*m", "", line).rstrip() for line in window.lines]


@pytest.fixture(autouse=True)
def draw_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(markdown_stream, "REDRAW_S", -1.0)


def test_blocks_end_where_no_further_text_can_change_them() -> None:
    assert split_blocks(TEXT) == (BLOCKS, "Last words")
    assert split_blocks("a\n\n") == ([], "a\n\n"), "an indented line could follow"
    assert split_blocks("```\na\n\nb") == ([], "```\na\n\nb"), "the fence is open"
    assert split_blocks("````\n```\n````\nx") == (["````\n```\n````\n"], "x")


@pytest.mark.parametrize("height", [6, 24])
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_screen_ends_the_same_for_any_pieces(step: int, height: int) -> None:
    lines = shown(TEXT, step, height)
    assert lines == shown(TEXT, len(TEXT), 200)
    assert "Title" in lines
    assert "     return x" in lines


def test_block_taller_than_the_window_scrolls_once_and_whole() -> None:
    code = "```\n" + "".join(f"line {i}\n" for i in range(60)) + "```\n"
    lines = [line.strip() for line in shown(code, 5, height=8) if line.strip()]
    assert lines == [f"line {i}" for i in range(60)]


def test_links_show_where_they_lead() -> None:
    assert "bank (http://evil.example)" in shown("[bank](http://evil.example)", 3)


def test_answer_can_not_command_the_terminal() -> None:
    hostile = "a\x1b]0;title\x07b\x1b[2Jc\x9b31md\re\x00"
    assert sanitize(hostile) == "a]0;titleb[2Jc31mde"
    assert sanitize("tab\tand\nnewline é 你") == "tab\tand\nnewline é 你"
    assert "\x07" not in "".join(shown(hostile, 2))


def test_rendering_fits_a_narrow_window() -> None:
    console = Console(file=io.StringIO(), width=20, no_color=True)
    for line in render(console, TEXT):
        assert len(line) <= 20, line
