"""Markdown on a terminal while it is still being written.

Finished blocks are printed for good; only the last, unfinished block is drawn again on the lines it
occupies (see live_lines.py). Nothing that has scrolled away is touched: of a block taller than the
window the upper lines are printed for good as well. Limit: text that changes the look of lines
already printed (a table row that widens a column of a very long table) changes only what follows.
"""

from __future__ import annotations

import re
import time

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import Heading, Markdown
from rich.text import Text

from bobot.cli.live_lines import REDRAW_S, LiveLines
from bobot.cli.sanitize import sanitize

_FENCE = re.compile(r"\s*(`{3,}|~{3,})(.*)")


def split_blocks(text: str) -> tuple[list[str], str]:
    """(blocks that no further text can change, the rest).

    A block ends with a blank line followed by a line that starts in the first column, or with a
    code fence that closes there.

    >>> split_blocks("One.\\n\\nTwo")
    (['One.\\n\\n'], 'Two')
    """
    blocks, start, position, fence = [], 0, 0, ""
    is_after_blank = False
    while (end := text.find("\n", position)) >= 0:
        line = text[position:end]
        match = _FENCE.fullmatch(line)
        if fence:
            if match and match[1].startswith(fence) and not match[2].strip():
                fence = ""
                if not line[0].isspace():
                    blocks.append(text[start : end + 1])
                    start = end + 1
        else:
            is_new_block = is_after_blank and line.strip() and not line[0].isspace()
            if position > start and (is_new_block or (match and not line[0].isspace())):
                blocks.append(text[start:position])
                start = position
            fence = match[1] if match else ""
        is_after_blank = not line.strip()
        position = end + 1
    rest = text[position:]
    if not fence and is_after_blank and rest and not rest[0].isspace() and position > start:
        blocks.append(text[start:position])
        start = position
    return [block for block in blocks if block.strip()], text[start:]


class _PlainHeading(Heading):
    """A heading in bold at the left margin, not in a box."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.text.justify = "left"
        self.text.stylize("bold underline" if self.tag == "h1" else "bold")
        yield self.text


class _Markdown(Markdown):
    elements = Markdown.elements | {"heading_open": _PlainHeading}


def render(console: Console, text: str) -> list[str]:
    """`text` as terminal lines with their colours, without blank lines around them."""
    # Link targets are written out: a model could hide any address behind a friendly text.
    document = _Markdown(text, code_theme="ansi_dark", hyperlinks=False)
    with console.capture() as capture:
        console.print(document)
    lines = [line.rstrip(" ") for line in capture.get().split("\n")]
    while lines and not Text.from_ansi(lines[-1]).plain.strip():
        lines.pop()
    while lines and not Text.from_ansi(lines[0]).plain.strip():
        lines.pop(0)
    return lines


class MarkdownStream:
    """One answer on its way to the terminal: push(text) as it comes, finish() at the end, or before
    others draw on the same lines.
    """

    def __init__(self, lines: LiveLines) -> None:
        self.lines = lines
        self.console = lines.console
        self.tail = ""
        self.num_printed = 0
        """Lines of the unfinished block that are printed for good."""
        self.drawn_at = 0.0
        self.has_block = False

    def push(self, text: str) -> None:
        self.tail += sanitize(text)
        if self.tail.strip() and time.monotonic() - self.drawn_at >= REDRAW_S:
            self._draw(is_last=False)

    def finish(self) -> None:
        self._draw(is_last=True)

    def _draw(self, is_last: bool) -> None:
        blocks, self.tail = split_blocks(self.tail)
        if is_last and self.tail.strip():
            blocks.append(self.tail)
            self.tail = ""
        final: list[str] = []
        for block in blocks:
            final += self._separated(render(self.console, block))
            self.num_printed = 0
            self.has_block = True
        tail = self._separated(render(self.console, self.tail)) if self.tail.strip() else []
        too_many = len(tail) - max(1, self.console.height - 3)
        if too_many > 0:
            final += tail[:too_many]
            self.num_printed += too_many
            tail = tail[too_many:]
        self.lines.replace(final, tail)
        self.drawn_at = time.monotonic()

    def _separated(self, lines: list[str]) -> list[str]:
        """A block's lines that are not printed yet, after the blank line that parts it from the
        last one.
        """
        lines = ["", *lines] if self.has_block else lines
        return lines[self.num_printed :]
