"""What the page sends, and how conversations and messages are sent to it. Unknown fields are
errors: the page and the server are of one version.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from bobot.chat.store_rows import Conversation, StoredMessage, Winner
from bobot.server.openai_fields import Penalty, Seed, Share, Temperature

Language = Literal["en", "id"]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Title = Annotated[str, Meta(max_length=200)]


class Sampling(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Settings of a conversation; what is left out is the model's own."""

    temperature: Temperature | None = None
    top_p: Share | None = None
    top_k: Annotated[int, Meta(ge=0)] | None = None
    min_p: Share | None = None
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=100)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Seed | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None

    def chosen(self) -> dict[str, Any]:
        found = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: value for name, value in found.items() if value is not None}


class Changes(Struct, kw_only=True, forbid_unknown_fields=True):
    """Fields of a conversation that are to be set."""

    title: Title | UnsetType = UNSET
    persona: Name | UnsetType | None = UNSET
    system: str | UnsetType | None = UNSET
    settings: Sampling | UnsetType = UNSET
    reasoning_effort: Literal["low", "medium", "high"] | UnsetType | None = UNSET
    model: Name | UnsetType | None = UNSET
    is_private: bool | UnsetType = UNSET
    head: int | UnsetType = UNSET


class NewConversation(Changes, kw_only=True, forbid_unknown_fields=True):
    is_kept: bool = True
    """False: in the server's memory only, never on the disk."""


class BranchOff(Struct, kw_only=True, forbid_unknown_fields=True):
    """A new conversation that begins as this one up to `message`."""

    message: int
    title: Title | UnsetType = UNSET


class Attachment(Struct, kw_only=True, forbid_unknown_fields=True):
    """A text file that goes with a question."""

    name: Name
    text: str


class Question(Struct, kw_only=True, forbid_unknown_fields=True):
    """A question below `parent`, or without one another answer to the question `parent`."""

    parent: int | None = None
    content: str | None = None
    attachments: list[Attachment] = []
    model: Name | None = None
    language: Language = "en"
    shows_tokens: bool = False
    """Asks for each token's probability and its alternatives."""


class NewPair(Struct, kw_only=True, forbid_unknown_fields=True):
    """Two models for the arena; None: any on this machine."""

    models: tuple[Name | None, Name | None] = (None, None)
    is_blind: bool = True
    is_private: bool = False
    system: str | None = None
    settings: Sampling = Sampling()


class PairQuestion(Struct, kw_only=True, forbid_unknown_fields=True):
    content: Annotated[str, Meta(min_length=1)]


class PairVote(Struct, kw_only=True, forbid_unknown_fields=True):
    winner: Winner


def conversation_object(conversation: Conversation, *, is_kept: bool) -> dict[str, Any]:
    names = ("id", "title", "created", "updated", "persona", "system", "settings", "model", "head")
    found = {name: getattr(conversation, name) for name in (*names, "name", "is_private")}
    effort = conversation.extra.get("reasoning_effort")
    return {**found, "reasoning_effort": effort, "is_kept": is_kept}


def message_object(message: StoredMessage) -> dict[str, Any]:
    """Without the tokens' probabilities, which are asked for one by one."""
    names = ("id", "parent", "role", "content", "reasoning", "model", "usage", "finish_reason")
    found = {name: getattr(message, name) for name in (*names, "is_partial", "created")}
    extra = {name: value for name, value in message.extra.items() if name != "tokens"}
    return {**found, "extra": extra, "has_tokens": "tokens" in message.extra}
