"""An answer of the terminal chat on its way into the store, piece by piece."""

from __future__ import annotations

from collections.abc import Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from bobot.errors import StorageError
from bobot.text.parts import PartDelta

if TYPE_CHECKING:
    from bobot.chat.answer_writer import AnswerWriter
    from bobot.cli.chat_loop import Chat


class Keeping:
    """A context around one answer: the question is stored before, the answer as it comes and when
    it has ended. A full disk is told and ends neither.

    with Keeping(chat) as keeping:
        for delta in keeping.kept(deltas): ...
    """

    def __init__(self, chat: Chat) -> None:
        self.chat = chat
        self._writer: AnswerWriter | None = None

    def __enter__(self) -> Keeping:
        chat = self.chat
        if chat.archive is not None and chat.session.pending:
            try:
                self._writer = chat.archive.answering(chat.session, chat.model.name)
            except StorageError as error:
                chat.stop_saving(error)
        return self

    def kept(self, deltas: Generator[PartDelta, None, None]) -> Generator[PartDelta, None, None]:
        try:
            for delta in deltas:
                self._push(delta)
                yield delta
        finally:
            deltas.close()

    def _push(self, delta: PartDelta) -> None:
        if self._writer is None or delta.kind == "tool_call" or not delta.text:
            return
        try:
            self._writer.push(**{delta.kind: delta.text})
        except StorageError as error:
            self._writer = None
            self.chat.stop_saving(error)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is None:
            return
        session, stats = self.chat.session, self.chat.model.last_stats
        try:
            if session.pending:
                self._writer.drop()
            else:
                said = session.messages[-1]
                self._writer.finish(
                    model=said.model,
                    content=said.content,
                    reasoning=said.reasoning,
                    usage=usage_of(stats),
                    finish_reason=None if stats is None else stats.finish_reason,
                )
            self.chat.autosave()
        except StorageError as failure:
            self.chat.stop_saving(failure)


def usage_of(stats: Any) -> dict[str, Any] | None:
    """What an answer took, in the words of protocol.Usage."""
    if stats is None:
        return None
    usage = {
        "prompt_tokens": stats.num_prompt_tokens,
        "completion_tokens": stats.num_completion_tokens,
        "cached_tokens": stats.num_cached_tokens,
        "prompt_s": stats.time_to_first_token_s,
        "completion_s": stats.decode_s,
    }
    cost = getattr(stats, "cost_usd", None)
    return usage if cost is None else {**usage, "cost_usd": cost}
