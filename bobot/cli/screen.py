"""What the chat needs of a terminal, and its plain form: for pipes, files and dumb terminals.

Answers go to stdout; the prompt, notices and errors go to stderr. No colour, no cursor movement.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Protocol

from bobot.cli.sanitize import sanitize
from bobot.errors import UsageError
from bobot.messages import tr
from bobot.text.parts import PartDelta

PROMPT = ">>> "
CONTINUATION = "... "
QUOTES = '"""'


class Screen(Protocol):
    """Where a chat reads lines and shows answers."""

    is_interactive: bool
    """Whether a person sits there: greeted, asked, not left at the first mistake."""

    def read(self, status: str) -> str:
        """The next entry; raises EOFError at the end, KeyboardInterrupt when Ctrl-C found nothing
        to clear.
        """
        ...

    def answer(self, deltas: Iterator[PartDelta]) -> None:
        """Shows an answer, reasoning and text, as it comes."""
        ...

    def say(self, text: str) -> None: ...

    def complain(self, text: str) -> None: ...


def is_open(entry: str) -> bool:
    """Whether `entry` began with three quotes that are not closed yet."""
    text = entry.strip()
    return text.startswith(QUOTES) and (len(text) < 6 or not text.endswith(QUOTES))


def unquote(entry: str) -> str:
    """`entry` without the three quotes around it."""
    match = re.fullmatch(r'\s*"""\n?(.*?)\n?"""\s*', entry, re.DOTALL)
    return match[1] if match else entry


def thought_line(num_tokens: int) -> str:
    """What stands in place of the reasoning when it has ended; hosts do not count it."""
    if num_tokens == 0:
        return tr("It thought first; /reasoning shows it.")
    return tr("Thought for {count} tokens; /reasoning shows it.", count=num_tokens)


class PlainScreen:
    """Lines in, text out. In a pipe each line is one entry; three quotes hold several lines
    together.
    """

    def __init__(self) -> None:
        self.is_interactive = sys.stdin is not None and sys.stdin.isatty()
        self.num_bytes = 0

    def read(self, status: str) -> str:
        entry = self._line(PROMPT)
        while is_open(entry):
            try:
                entry += "\n" + self._line(CONTINUATION)
            except EOFError:
                entry += f"\n{QUOTES}"
        return unquote(entry)

    def _line(self, prompt: str) -> str:
        if self.is_interactive:
            print(prompt, end="", file=sys.stderr, flush=True)
        try:
            data = b"" if sys.stdin is None else sys.stdin.buffer.readline()
        except KeyboardInterrupt:
            self.say("")
            raise
        if not data:
            if self.is_interactive:
                self.say("")
            raise EOFError
        start, self.num_bytes = self.num_bytes, self.num_bytes + len(data)
        try:
            return data.decode().rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise UsageError(
                "standard input is not UTF-8 text at byte {offset} (0x{byte:02x}).",
                hint="Convert it first, for example with iconv -t UTF-8.",
                offset=start + error.start,
                byte=data[error.start],
            ) from None

    def answer(self, deltas: Iterator[PartDelta]) -> None:
        """Reasoning is left out; a person is told how long it was."""
        is_terminal = sys.stdout.isatty()
        num_thought = 0
        for delta in deltas:
            if delta.kind == "reasoning":
                num_thought += delta.num_tokens
                continue
            if num_thought and delta.text and self.is_interactive:
                self.say(thought_line(num_thought))
                num_thought = 0
            sys.stdout.write(sanitize(delta.text) if is_terminal else delta.text)
            sys.stdout.flush()
        print(flush=True)

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def complain(self, text: str) -> None:
        print(f"bobot: {text}", file=sys.stderr, flush=True)
