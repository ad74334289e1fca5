"""One message of a conversation, the same for every model: a role, a text, and the reasoning before
it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bobot.errors import RequestError

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Message:
    role: str
    content: str
    reasoning: str = ""
    """What the model thought first; its chat template decides whether it sees it again."""
    model: str | None = field(default=None, compare=False)
    """Who said it; None where nobody noted it."""

    def as_dict(self) -> dict[str, str]:
        """The form that chat templates and OpenAI's API take."""
        reasoning = {"reasoning_content": self.reasoning} if self.reasoning else {}
        return {"role": self.role, "content": self.content, **reasoning}


def parse_messages(values: Iterable[object]) -> list[Message]:
    """The messages in `values`, dicts with a role and a text; raises RequestError that names the
    wrong one.
    """
    return [_parse(index, value) for index, value in enumerate(values)]


def _parse(index: int, value: object) -> Message:
    if isinstance(value, Message):
        return value
    if not isinstance(value, Mapping):
        raise RequestError("messages[{index}] is no object with role and content.", index=index)
    role, content = value.get("role"), value.get("content")
    if role not in ROLES:
        raise RequestError(
            "messages[{index}].role is {role!r}; allowed: {allowed}.",
            index=index,
            role=role,
            allowed=", ".join(ROLES),
        )
    if not isinstance(content, str):
        raise RequestError("messages[{index}].content must be a text.", index=index)
    reasoning = value.get("reasoning_content", "")
    if not isinstance(reasoning, str):
        raise RequestError("messages[{index}].reasoning_content must be a text.", index=index)
    return Message(role, content, reasoning)
