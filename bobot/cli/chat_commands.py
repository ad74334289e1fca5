"""The chat's /commands: each is a method of Commands and a line in help_lines().

They act on the session and the screen; the loop that reads lines is in chat_loop.py.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bobot.chat import persona
from bobot.chat.interchange import import_into, read_file
from bobot.chat.session import EFFORTS, SETTINGS
from bobot.cli.run import stats_line
from bobot.cli.sanitize import sanitize
from bobot.cli.table import facts, table
from bobot.errors import UsageError
from bobot.messages import LANGUAGES, tr
from bobot.paths import write_atomic

if TYPE_CHECKING:
    from bobot.chat.messages import Message
    from bobot.cli.chat_loop import Chat

_COMMAND = re.compile(r"/(\w+|\?)(?:\s+(.*))?", re.DOTALL)
METHODS = {"import": "import_"}
"""Commands whose name is a word of Python."""
ALIASES = {"?": "help", "exit": "bye", "quit": "bye", "clear": "new"}
ALIASES |= {"regen": "retry", "rewind": "undo"}


def help_lines() -> list[tuple[str, str]]:
    """(command with its arguments, what it does), in the order in which a newcomer needs them."""
    return [
        ("/help", tr("this list")),
        ("/new", tr("start afresh; the conversation so far stays saved")),
        ("/retry", tr("answer the last question again")),
        ("/undo", tr("take back the last question and its answer")),
        ("/persona [NAME|FILE]", tr("list the personas, or take one on")),
        ("/system [TEXT|off]", tr("show, change or leave out the system prompt")),
        (
            "/set [NAME VALUE]",
            tr("show or change temperature, top_p, seed ...; VALUE default resets it"),
        ),
        (
            "/reasoning [LEVEL]",
            tr("show what the model thought; LEVEL low, medium, high, default: how long it thinks"),
        ),
        ("/stats [on|off]", tr("speed and size of the last answer; on: after each one")),
        ("/save [NAME]", tr("save the conversation under a name")),
        ("/load [NAME]", tr("list the saved conversations, or go on with one")),
        ("/branch [NAME]", tr("go on in a copy; the original stays as it is")),
        ("/trim", tr("drop the oldest turns when the context is full")),
        ("/search WORDS", tr("look for words in all conversations")),
        ("/export FILE", tr("write the conversation as Markdown; FILE.json: with all branches")),
        ("/import FILE", tr("add conversations exported by bobot or by ChatGPT")),
        ("/private [on|off]", tr("whether hosted models are never asked in this conversation")),
        ("/model [MODEL]", tr("show the model, or go on with another")),
        ("/lang [en|id]", tr("language of the interface")),
        ("/bye", tr("leave (or Ctrl-D)")),
    ]


def names() -> list[str]:
    """Every command without its slash."""
    return [line.split()[0][1:] for line, _ in help_lines()]


def parse(entry: str) -> tuple[str, str] | None:
    """(command, argument) of "/command argument"; None for a text to the model, as "/etc/hosts" is
    one.
    """
    match = _COMMAND.fullmatch(entry.strip()) if entry.startswith("/") else None
    return (ALIASES.get(match[1], match[1]), (match[2] or "").strip()) if match else None


class Commands:
    """What each command does; `run` raises a BobotError for a mistake."""

    def __init__(self, chat: Chat) -> None:
        self.chat = chat

    def run(self, name: str, argument: str) -> None:
        if name not in names():
            close = difflib.get_close_matches(name, [*names(), *ALIASES], n=1)
            if close:
                raise UsageError(
                    "/{name} is no command; did you mean /{close}?", name=name, close=close[0]
                )
            raise UsageError("/{name} is no command.", hint="/help lists them.", name=name)
        getattr(self, METHODS.get(name, name))(argument)

    def candidates(self, text: str) -> Iterator[str]:
        """The entries that `text`, the beginning of a command, could become."""
        command, blank, _ = text.partition(" ")
        if not blank:
            found = [f"/{name}" for name in names()]
        else:
            found = [f"{command} {value}" for value in self._values(command[1:])]
        return (
            candidate for candidate in found if candidate.startswith(text) and candidate != text
        )

    def _values(self, command: str) -> list[str]:
        values: dict[str, Callable[[], list[str]]] = {
            "persona": persona.shipped,
            "set": lambda: [*SETTINGS, "stats"],
            "load": lambda: self.chat.archive.names() if self.chat.archive else [],
            "lang": lambda: list(LANGUAGES),
            "stats": lambda: ["on", "off"],
            "private": lambda: ["on", "off"],
            "reasoning": lambda: [*EFFORTS, "default"],
            "system": lambda: ["off"],
        }
        return values[command]() if command in values else []

    # ------------------------------------------------------------------ talking

    def help(self, argument: str) -> None:
        self.chat.screen.say(facts(help_lines()))
        self.chat.screen.say(
            tr(
                "Alt-Enter breaks a line; three quotes begin and end a longer text."
                " Ctrl-C stops an answer."
            )
        )

    def bye(self, argument: str) -> None:
        raise EOFError

    def new(self, argument: str) -> None:
        name = self.chat.session.name
        self.chat.session.clear()
        self.chat.say(
            tr("A new conversation; the last one is saved as {name}.", name=name)
            if name
            else tr("A new conversation.")
        )

    def retry(self, argument: str) -> None:
        self.chat.session.retry()
        settings = self.chat.session.settings
        if settings.get("seed") is not None or settings.get("temperature") == 0:
            self.chat.say(tr("With a fixed seed or temperature 0 the answer stays the same."))
        self.chat.answer()

    def undo(self, argument: str) -> None:
        question = self.chat.session.undo()
        self.chat.autosave()
        self.chat.say(tr("Taken back: {question}", question=_one_line(question)))

    def trim(self, argument: str) -> None:
        chat = self.chat
        count = chat.session.trim(chat.model, tr.language)
        chat.say(tr("{count} of the oldest turns dropped from the conversation.", count=count))
        chat.autosave()
        if chat.session.pending:
            chat.answer()

    # ------------------------------------------------------------------ settings

    def persona(self, argument: str) -> None:
        session = self.chat.session
        if argument:
            session.take_persona(argument)
            self.chat.say(tr("Persona: {name}.", name=session.persona.name))
            return
        rows = []
        for name in persona.shipped():
            mark = "*" if name == session.persona.name else " "
            rows.append((f"{mark} {name}", persona.load(name).description(tr.language)))
        self.chat.screen.say(facts(rows))
        self.chat.screen.say(tr("A text or TOML file works too: /persona FILE"))

    def system(self, argument: str) -> None:
        session = self.chat.session
        if argument:
            session.own_system = "" if argument == "off" else argument
        self.chat.say(session.system(tr.language) or tr("No system prompt."))

    def set(self, argument: str) -> None:
        name, _, value = argument.partition(" ")
        session = self.chat.session
        if name == "stats" and value:
            return self.stats(value.strip())
        if name and value:
            session.set(name, value.strip())
        elif name and name not in SETTINGS:
            session.set(name, "default")  # raises with the names that exist
        self.chat.screen.say(facts([self._setting(key) for key in ([name] if name else SETTINGS)]))
        return None

    def _setting(self, name: str) -> tuple[str, str]:
        """(name, value) for the list, marked where it is the default."""
        if name in self.chat.session.settings:
            return name, str(self.chat.session.settings[name])
        value = self.chat.session.default_of(name, self.chat.model)
        return name, tr("default") if value is None else f"{value} ({tr('default')})"

    def stats(self, argument: str) -> None:
        if argument in ("on", "off"):
            self.chat.shows_stats = argument == "on"
            self.chat.say(
                tr("Statistics after each answer.")
                if self.chat.shows_stats
                else tr("No statistics.")
            )
        elif argument:
            raise UsageError("/stats takes on or off, not {value!r}.", value=argument)
        elif self.chat.model.last_stats is None:
            self.chat.say(tr("No answer yet."))
        else:
            self.chat.say(stats_line(self.chat.model.last_stats))
            self.chat.say(tr("context: {usage}", usage=self.chat.usage()))

    def reasoning(self, argument: str) -> None:
        session = self.chat.session
        if argument:
            session.set_reasoning_effort(argument, self.chat.model)
            effort = session.reasoning_effort or tr("default")
            self.chat.say(tr("Reasoning effort: {effort}.", effort=effort))
        else:
            thought = sanitize(session.last_reasoning.strip())
            self.chat.say(thought or tr("The last answer came without reasoning."))

    def lang(self, argument: str) -> None:
        if argument and argument not in LANGUAGES:
            raise UsageError(
                "/lang takes {allowed}, not {value!r}.",
                allowed=", ".join(LANGUAGES),
                value=argument,
            )
        tr.language = argument or tr.language
        self.chat.say(tr("Language of the interface: {language}.", language=tr("English")))

    def model(self, argument: str) -> None:
        if argument:
            self.chat.change_model(argument)
        self.chat.say(self.chat.model_line())

    def private(self, argument: str) -> None:
        session = self.chat.session
        if argument not in ("", "on", "off"):
            raise UsageError("/private takes on or off, not {value!r}.", value=argument)
        if argument:
            session.is_private = argument == "on"
            self.chat.autosave()
        self.chat.say(
            tr("This conversation is private: no hosted model is asked.")
            if session.is_private
            else tr("This conversation is not private: a hosted model may be asked.")
        )

    # ------------------------------------------------------------------ files

    def save(self, argument: str) -> None:
        self._need_messages()
        self._check_free(argument)
        archive = self.chat.need_archive()
        name = archive.save(self.chat.session, argument or None, self.chat.model.name)
        self.chat.say(tr("Saved as {name}.", name=name))

    def load(self, argument: str) -> None:
        archive = self.chat.need_archive()
        if argument:
            self.chat.session = archive.load(argument)
            self.chat.replay()
            return
        entries = archive.entries()
        if not entries:
            self.chat.say(tr("No saved conversations yet."))
            return
        rows = [(entry.name, str(entry.num_turns), entry.title) for entry in entries]
        self.chat.screen.say(table([(tr("NAME"), tr("TURNS"), tr("BEGINS")), *rows]))
        self.chat.screen.say(tr("Go on with one: /load NAME"))

    def branch(self, argument: str) -> None:
        self._need_messages()
        self._check_free(argument)
        archive, session = self.chat.need_archive(), self.chat.session
        archive.save(session, model=self.chat.model.name)
        original, session.name = session.name, None
        archive.save(session, argument or None, self.chat.model.name)
        self.chat.say(
            tr(
                "From here on this is {name}; /load {original} goes back.",
                name=session.name,
                original=original,
            )
        )

    def export(self, argument: str) -> None:
        self._need_messages()
        if not argument:
            raise UsageError("/export needs the name of a file.", hint="Example: /export chat.md")
        path = Path(argument).expanduser()
        if path.exists():
            raise UsageError("{file} exists already.", hint="Choose another name.", file=path)
        text = self._as_json() if path.suffix == ".json" else self._as_markdown()
        write_atomic(path.absolute(), text.encode(), mode=0o644)
        self.chat.say(tr("Written to {file}.", file=path))

    def _as_json(self) -> str:
        """With all branches; what /import reads."""
        archive, session = self.chat.need_archive(), self.chat.session
        name = archive.save(session, model=self.chat.model.name)
        return json.dumps(archive.exported(name), ensure_ascii=False, indent=1)

    def _as_markdown(self) -> str:
        parts = [
            f"**{self._speaker(message)}**\n\n{message.content}\n"
            for message in self.chat.session.messages
        ]
        return "\n".join(parts)

    def _speaker(self, message: Message) -> str:
        return tr("You") if message.role == "user" else message.model or self.chat.model.name

    def search(self, argument: str) -> None:
        if not argument:
            raise UsageError("/search needs words to look for.")
        rows = self.chat.need_archive().search(argument)
        if not rows:
            self.chat.say(tr("Nothing found."))
            return
        shown = [(name, _one_line(sanitize(snippet))) for name, snippet in rows]
        self.chat.screen.say(table([(tr("NAME"), tr("FOUND")), *shown]))
        self.chat.screen.say(tr("Go on with one: /load NAME"))

    def import_(self, argument: str) -> None:
        if not argument:
            raise UsageError("/import needs the name of a file.")
        store = self.chat.need_archive().store
        report = import_into(store, read_file(Path(argument).expanduser()))
        self.chat.say(
            tr(
                "{added} conversations imported, {known} were there already.",
                added=report.num_added,
                known=report.num_known,
            )
        )
        for line in report.skipped:
            self.chat.say(tr("Left out: {line}", line=sanitize(line)))

    def _need_messages(self) -> None:
        if not self.chat.session.messages:
            raise UsageError("the conversation is empty.")

    def _check_free(self, name: str) -> None:
        """A save under a new name never overwrites another conversation."""
        if name and name != self.chat.session.name and self.chat.need_archive().has(name):
            raise UsageError(
                "there is a conversation {name!r} already.", hint="Choose another name.", name=name
            )


def _one_line(text: str, width: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 3]}..."
