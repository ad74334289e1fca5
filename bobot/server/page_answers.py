"""Questions of the page and their answers: asked, asked again, edited, stopped, taken up again."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from typing import Any

from bobot.chat import persona
from bobot.chat.answer_writer import AnswerWriter
from bobot.chat.protocol import ChatRequest, ParameterError
from bobot.chat.store import Store
from bobot.chat.store_rows import Conversation, NewMessage, StoredMessage
from bobot.server.calls import Call, Reply, Stream, openai_stream
from bobot.server.page_bodies import Attachment, Language, Question, message_object
from bobot.server.page_chats import Chats, is_passing
from bobot.server.page_live import LiveAnswer, LiveAnswers
from bobot.server.running import Runner
from bobot.server.wire import decode, sse

NUM_ALTERNATIVES = 5
TITLE_LETTERS = 60


class AnswerRoutes:
    def __init__(self, runner: Runner, chats: Chats, live: LiveAnswers) -> None:
        self._runner = runner
        self._chats = chats
        self._live = live

    async def ask(self, call: Call) -> Stream:
        """Stores the question, begins its answer and follows it. A second question below the same
        parent is an edited one, a second answer below the same question another try.
        """
        body = decode(call.body, Question)
        identity = call.params["id"]
        store = self._chats.store_of(identity)
        conversation = await asyncio.to_thread(store.get, identity)
        model = self._runner.models.name_of(body.model or conversation.model)
        question, writer, request = await asyncio.to_thread(
            _prepared, store, conversation, model, body
        )
        live = self._live.start(call, store, writer, model, request, identity)
        return openai_stream(_asked(store, question, live))

    async def follow(self, call: Call) -> Stream:
        live = self._live.find(call.params["id"], int(call.params["message"]))
        return openai_stream(live.follow())

    async def stop(self, call: Call) -> Reply:
        await self._live.stop(call.params["id"], int(call.params["message"]))
        return Reply({"stopped": True})


async def _asked(
    store: Store, question: StoredMessage, live: LiveAnswer
) -> AsyncGenerator[bytes, None]:
    begun = message_object(await asyncio.to_thread(store.message, live.message))
    yield sse({"type": "asked", "question": message_object(question), "answer": begun})
    async for frame in live.follow():
        yield frame


def _prepared(
    store: Store, conversation: Conversation, model: str, body: Question
) -> tuple[StoredMessage, AnswerWriter, ChatRequest]:
    with store.transaction():
        question = _question(store, conversation, body)
        line = store.branch(question.id)
        if not conversation.title:
            title = " ".join(str(question.extra.get("typed", question.content)).split())
            store.change(conversation.id, title=title[:TITLE_LETTERS])
        if conversation.model != model:
            store.change(conversation.id, model=model)
        writer = store.begin(conversation.id, question.id, model)
    return question, writer, chat_request(conversation, line, body)


def _question(store: Store, conversation: Conversation, body: Question) -> StoredMessage:
    if body.parent is not None:
        parent = store.message(body.parent)
        if parent.conversation != conversation.id:
            raise ParameterError(
                "{param} is no message of this conversation.", param="parent", code="not_found"
            )
        if (parent.role == "user") != (body.content is None):
            raise ParameterError(
                "{param}: a question needs content and stands below an answer; without content"
                " the parent is the question.",
                param="parent",
            )
    if body.content is None:
        if body.parent is None:
            raise ParameterError(
                "{param} is missing.", param="content", code="missing_required_parameter"
            )
        return store.message(body.parent)
    if not body.content.strip() and not body.attachments:
        raise ParameterError("{param} is empty.", param="content")
    said = NewMessage(
        role="user",
        content=with_attachments(body.content, body.attachments),
        extra=_attached(body),
    )
    return store.message(store.add(conversation.id, body.parent, said))


def _attached(body: Question) -> dict[str, Any]:
    if not body.attachments:
        return {}
    files = [{"name": one.name, "text": one.text} for one in body.attachments]
    return {"typed": body.content, "attachments": files}


def with_attachments(content: str, attachments: list[Attachment]) -> str:
    """The question with each file below it, in a fence longer than any within."""
    texts = [content] if content.strip() else []
    for one in attachments:
        longest = max((len(run) for run in re.findall(r"`{3,}", one.text)), default=2)
        fence = "`" * (longest + 1)
        texts.append(f"{one.name}:\n{fence}\n{one.text.rstrip()}\n{fence}")
    return "\n\n".join(texts)


def chat_request(
    conversation: Conversation, line: list[StoredMessage], body: Question
) -> ChatRequest:
    system = system_prompt(conversation, body.language)
    said = [{"role": "system", "content": system}] if system else []
    said += [_said(message) for message in line if message.role != "system"]
    sampling = dict(conversation.settings)
    if body.shows_tokens:
        sampling["logprobs"] = NUM_ALTERNATIVES
    return ChatRequest(
        messages=tuple(said),
        sampling=sampling,
        reasoning_effort=conversation.extra.get("reasoning_effort"),
        is_private=conversation.is_private,
        is_passing=is_passing(conversation.id),
    )


def _said(message: StoredMessage) -> dict[str, Any]:
    """A tool's result, from an imported conversation, is told as text."""
    role = "user" if message.role == "tool" else message.role
    return {"role": role, "content": message.content}


def system_prompt(conversation: Conversation, language: Language) -> str:
    """The conversation's own, else that of its persona; one from the terminal's files is kept in
    `extra`.
    """
    if conversation.system is not None:
        return conversation.system
    name = conversation.persona or persona.DEFAULT
    if name in persona.shipped():
        return persona.load(name).prompt(language)
    texts = conversation.extra.get("persona_system") or {}
    return persona.Persona(name, {}, texts).prompt(language)
