"""The chat itself: entry in, command or answer out, each turn saved. Knows the screen only by its
protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bobot.chat.archive import Archive
from bobot.chat.persona import DEFAULT
from bobot.chat.session import Session, has_template, is_hosted, takes_effort
from bobot.cli.chat_commands import Commands, parse
from bobot.cli.keeping import Keeping
from bobot.cli.run import answered_by, cost_text, stats_line
from bobot.cli.screen import PROMPT, Screen
from bobot.cli.stopping import Stopping
from bobot.cli.table import count_text
from bobot.errors import BobotError, StorageError, TemplateError, UsageError
from bobot.messages import tr
from bobot.text.parts import PartDelta


class Chat:
    """One run of `bobot chat`: a model, a session, a screen."""

    screen: Screen

    def __init__(
        self,
        model: Any,
        session: Session,
        archive: Archive | None,
        load_model: Callable[[str | None], Any],
    ) -> None:
        self.model = model
        self.session = session
        self.archive = archive
        """None: nothing is saved."""
        self.load_model = load_model
        self.commands = Commands(self)
        self.shows_stats = False
        self.has_failed = False

    def run(self, screen: Screen) -> int:
        """The exit status, when the last entry was read: 1 if an entry of a pipe failed."""
        self.screen = screen
        if screen.is_interactive:
            self.greet()
        elif not has_template(self.model):
            self.say(
                tr("{model} has no chat template: it continues your text.", model=self.model.name)
            )
        while True:
            try:
                self.handle(self._read())
            except EOFError:
                return int(self.has_failed and not screen.is_interactive)
            except BobotError as error:
                self.fail(error)

    def _read(self) -> str:
        """The next entry. The first Ctrl-C at the prompt says how to leave, the second leaves."""
        try:
            return self.screen.read(self.context_line())
        except KeyboardInterrupt:
            if not self.screen.is_interactive:
                raise
        self.say(tr("Ctrl-D or /bye leaves; Ctrl-C once more, too."))
        return self.screen.read(self.context_line())

    def handle(self, entry: str) -> None:
        """One entry: nothing, a command, or a question to the model."""
        if not entry.strip():
            return
        if command := parse(entry):
            self.commands.run(*command)
            return
        self.session.ask(entry)
        self.answer()

    def answer(self) -> None:
        """Answers the pending question, if it fits the context, and saves the turn."""
        if self._is_full():
            return
        stopping = Stopping()
        keeping = Keeping(self)
        try:
            with stopping, keeping:
                deltas = keeping.kept(self.session.reply(self.model, tr.language))
                self.screen.answer(stopping.until_stopped(deltas))
        except KeyboardInterrupt:  # the second one: the first piece is still being computed
            pass
        self._tell_the_end(stopping.is_stopped)
        if stopping.is_stopped and not self.screen.is_interactive:
            raise KeyboardInterrupt

    def _is_full(self) -> bool:
        """Whether the conversation has outgrown the context; then says what can be done. A host
        counts for itself.
        """
        if is_hosted(self.model):
            return False
        count, limit = (
            self.session.num_prompt_tokens(self.model, tr.language),
            self.model.max_model_len,
        )
        if count < limit:
            return False
        self.has_failed = True
        self.screen.complain(
            tr(
                "The conversation takes {count} tokens; the context of {model} holds {limit}."
                " Nothing was cut off: /trim drops the oldest turns and answers, /new starts"
                " afresh, /undo takes the last question back.",
                count=count,
                model=self.model.name,
                limit=limit,
            )
        )
        return True

    def _tell_the_end(self, is_stopped: bool) -> None:
        """Why the answer ended, where that is not the model's own will; statistics if wanted."""
        stats = self.model.last_stats
        if is_stopped:
            self.say(tr("Stopped. /retry answers again."))
        elif self.session.pending and stats.finish_reason != "length":
            self.say(tr("The model gave an empty answer. /retry asks again."))
        elif stats.finish_reason == "tool_calls":
            self.say(tr("The model called a tool; this chat runs none."))
        elif stats.finish_reason == "length" and "max_tokens" in self.session.settings:
            self.say(tr("Cut at max_tokens; /set max_tokens default lifts the limit."))
        elif stats.finish_reason == "length":
            self.say(tr("The context is full: /trim drops the oldest turns, /new starts afresh."))
        if self._routes_to and not self.session.pending:
            self.say(answered_by(stats))
        if self.shows_stats:
            self.say(stats_line(stats))

    # ------------------------------------------------------------------ lines on the screen

    def say(self, text: str) -> None:
        self.screen.say(text)

    def fail(self, error: BobotError) -> None:
        """One line for a mistake. A person goes on; text that is no UTF-8 ends a pipe."""
        self.has_failed = True
        if isinstance(error, UsageError) and not self.screen.is_interactive:
            raise error
        self.screen.complain(error.render(tr.translate))
        if isinstance(error, TemplateError) and self.session.system(tr.language):
            self.say(tr("Perhaps its template takes no system prompt: /system off, then /retry."))

    def greet(self) -> None:
        self.say(self.model_line())
        if not has_template(self.model):
            self.say(
                tr("{model} has no chat template: it continues your text.", model=self.model.name)
            )
        self.say(tr("/help lists the commands. Ctrl-C stops an answer, Ctrl-D leaves."))

    @property
    def _routes_to(self) -> tuple[str, ...]:
        """The models that a policy chooses among; empty for a model."""
        return getattr(self.model, "routes_to", ())

    def model_line(self) -> str:
        if self._routes_to:
            return tr(
                "{name}: chooses among {models}; what a hosted one is asked leaves this machine"
                " (/private on forbids it)",
                name=self.model.name,
                models=", ".join(self._routes_to),
            )
        if is_hosted(self.model):
            return tr(
                "{model}: hosted; what you write here is sent to {host}",
                model=self.model.name,
                host=self.model.name.partition(":")[0],
            )
        return tr(
            "{model}: {count} parameters, context {limit} tokens",
            model=self.model.name,
            count=count_text(self.model.num_parameters),
            limit=self.model.max_model_len,
        )

    def context_line(self) -> str:
        """How full the context is; the parts are two blanks apart so that a narrow window can drop
        some.
        """
        parts = [self.model.name, self.usage()]
        if self.session.is_private:
            parts.append(tr("private"))
        if self.session.persona.name != DEFAULT and self.session.own_system is None:
            parts.append(self.session.persona.name)
        if is_hosted(self.model):
            parts.append(cost_text(self.model.total_cost_usd))
        if self.session.name:
            parts.append(self.session.name)
        return "  ".join([*parts, "/help"])

    def usage(self) -> str:
        """How much of the context the last turn filled."""
        stats = self.model.last_stats if self.session.messages else None
        used = stats.num_prompt_tokens + stats.num_completion_tokens if stats else 0
        if self.model.max_model_len is None:
            return tr("{used} tokens", used=used)
        return tr("{used} of {limit} tokens", used=used, limit=self.model.max_model_len)

    def replay(self) -> None:
        """Shows a loaded conversation again."""
        for message in self.session.messages:
            if message.role == "user":
                self.screen.say(PROMPT + message.content.replace("\n", "\n... "))
            else:
                self.screen.answer(iter([PartDelta(part=0, kind="text", text=message.content)]))
        self.say(
            tr("{count} turns of {name}.", count=self.session.num_turns, name=self.session.name)
        )

    # ------------------------------------------------------------------ model and files

    def change_model(self, name: str) -> None:
        """Goes on with another model; the old one stays when loading fails."""
        self.model = self.load_model(name)
        if self.session.reasoning_effort is not None and not takes_effort(self.model):
            self.session.reasoning_effort = None
            self.say(tr("{model} has no reasoning effort to set.", model=self.model.name))

    def need_archive(self) -> Archive:
        if self.archive is None:
            raise UsageError("this conversation is private or in a pipe: nothing is saved.")
        return self.archive

    def autosave(self) -> None:
        """Saves the conversation; a full disk is told once and does not end the chat."""
        if self.archive is None or not (self.session.messages or self.session.name):
            return
        try:
            self.archive.save(self.session, model=self.model.name)
        except StorageError as error:
            self.stop_saving(error)

    def stop_saving(self, error: StorageError) -> None:
        self.archive = None
        self.screen.complain(error.render(tr.translate))
        self.say(tr("From here on this conversation is not saved."))
