"""The chat on a full terminal: line editing by prompt_toolkit, markdown by rich. Imported by the
chat only.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.styles import Style
from rich.console import Console

from bobot.cli.echo import without_echo
from bobot.cli.live_lines import LiveLines
from bobot.cli.markdown_stream import MarkdownStream
from bobot.cli.screen import CONTINUATION, PROMPT, is_open, unquote
from bobot.cli.thinking import Thinking
from bobot.paths import make_private_folder, storage_error
from bobot.text.parts import PartDelta

STYLE = Style.from_dict({"prompt": "bold", "bottom-toolbar": "noreverse fg:ansibrightblack"})

log = logging.getLogger("bobot.cli")

Candidates = Callable[[str], Iterable[str]]
"""The text before the cursor -> the entries it could become."""


class Terminal:
    """A screen (see screen.py) with history, completion, multi-line input and rendered markdown."""

    is_interactive = True

    def __init__(self, history: Path | None, candidates: Candidates) -> None:
        self.console = Console(highlight=False)
        self.session: PromptSession[str] = PromptSession(
            history=_history(history),
            completer=_CommandCompleter(candidates),
            complete_while_typing=True,
            key_bindings=_key_bindings(),
            multiline=True,
            prompt_continuation=CONTINUATION,
            reserve_space_for_menu=4,
            style=STYLE,
            color_depth=ColorDepth.DEPTH_1_BIT if self.console.no_color else None,
        )

    def read(self, status: str) -> str:
        return unquote(
            self.session.prompt(
                [("class:prompt", PROMPT)],
                bottom_toolbar=lambda: _fitting(status),
            )
        )

    def answer(self, deltas: Iterator[PartDelta]) -> None:
        print(flush=True)
        with without_echo():
            lines = LiveLines(self.console)
            stream, thinking = MarkdownStream(lines), None
            try:
                for delta in deltas:
                    if delta.kind == "reasoning":
                        if thinking is None:
                            stream.finish()
                            thinking = Thinking(lines)
                        thinking.push(delta.text, delta.num_tokens)
                        continue
                    if thinking is not None and delta.text:
                        thinking.finish(is_after_text=stream.has_block)
                        thinking = None
                    stream.push(delta.text)
            finally:
                if thinking is not None:
                    thinking.finish(is_after_text=stream.has_block)
                stream.finish()
        print(flush=True)

    def say(self, text: str) -> None:
        self.console.print(text, style="dim", markup=False, soft_wrap=False)

    def complain(self, text: str) -> None:
        self.console.print(text, style="red", markup=False)


def _fitting(status: str) -> str:
    """The status without its last parts where the window is narrow."""
    parts = status.split("  ")
    while len(parts) > 1 and len("  ".join(parts)) >= shutil.get_terminal_size().columns:
        parts.pop()
    return "  ".join(parts)


def _history(path: Path | None) -> History:
    """The lines typed in earlier runs, readable by their owner only; None keeps them in memory."""
    if path is None:
        return InMemoryHistory()
    make_private_folder(path.parent)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
    except OSError as error:
        raise storage_error(path, error) from error
    return _FileHistory(path)


class _FileHistory(FileHistory):
    """Lines are also remembered when they can't be written any more: a full disk ends no chat."""

    def store_string(self, string: str) -> None:
        try:
            super().store_string(string)
        except OSError as error:
            log.warning("%s", storage_error(Path(str(self.filename)), error))


def _key_bindings() -> KeyBindings:
    """Enter sends, or breaks the line inside three quotes; Alt-Enter always breaks the line;
    Ctrl-C clears what was typed before it says anything.
    """
    keys = KeyBindings()

    @Condition
    def is_quoted() -> bool:
        from prompt_toolkit.application import get_app

        return is_open(get_app().current_buffer.text)

    @keys.add("enter", filter=~is_quoted)
    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def break_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c")
    def clear(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt)

    return keys


class _CommandCompleter(Completer):
    """Completes /commands and their arguments, never ordinary text."""

    def __init__(self, candidates: Candidates) -> None:
        self.candidates = candidates

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterator[Completion]:
        text = document.text_before_cursor
        if text.startswith("/") and "\n" not in text:
            start = len(text) - text.rfind(" ") - 1
            for candidate in self.candidates(text):
                yield Completion(
                    candidate[len(text) - start :], -start, display=candidate.split()[-1]
                )
