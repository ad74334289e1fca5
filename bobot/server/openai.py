"""OpenAI's routes that ask a model: chat/completions, completions, embeddings."""

from __future__ import annotations

import contextlib
import dataclasses
import functools

from bobot.chat.protocol import ChatRequest, TextRequest, TokenLogprob
from bobot.server.calls import Call, Reply, Stream, openai_stream
from bobot.server.embeddings import EmbeddingBody, embedding_list, texts_of
from bobot.server.llama_fields import shown
from bobot.server.openai_chat import ChatBody, chat_request
from bobot.server.openai_chat_answer import ChatForm, chat_chunks, whole_chat
from bobot.server.openai_text import TextBody, text_plan
from bobot.server.openai_text_answer import Echo, text_chunks, whole_texts
from bobot.server.running import Gathered, Runner, gather, merge
from bobot.server.settings import Settings
from bobot.server.tokens import tokenizer_of
from bobot.server.wire import decode


class OpenAi:
    def __init__(self, runner: Runner, settings: Settings) -> None:
        self._runner = runner
        self._is_lenient = settings.is_lenient
        self._settings = settings

    async def chat(self, call: Call) -> Reply | Stream:
        body = decode(call.body, ChatBody)
        call.is_private |= body.private
        settings = self._settings
        request = chat_request(body, lenient=self._is_lenient, is_llama=settings.is_llama)
        form = ChatForm(
            is_llama=settings.is_llama,
            shows_timings=bool(body.timings_per_token),
            prompt=await self._prompt(body, request),
            includes_usage=body.includes_usage,
            is_legacy=body.is_legacy,
            shows_ids=bool(body.return_token_ids),
            shows_logprobs=bool(body.logprobs),
        )
        if body.prompt_logprobs is not None:
            scores = await self._score(call, body, request)
            form = dataclasses.replace(form, prompt_scores=scores)
        events = self._runner.run(call, body.model, request)
        if body.stream:
            return openai_stream(chat_chunks(events, form))
        return Reply(whole_chat(await gather(events), form))

    async def stored_chats(self, call: Call) -> Reply:
        """None: `store` is refused. The ids are texts, as OpenAI's description has them."""
        return Reply(
            {"object": "list", "data": [], "first_id": "", "last_id": "", "has_more": False}
        )

    async def text(self, call: Call) -> Reply | Stream:
        body = decode(call.body, TextBody)
        call.is_private |= body.private
        plan = text_plan(body, lenient=self._is_lenient)
        async with self._runner.models.borrow(body.model) as opened:
            echo = Echo(plan, opened.tokenizer, 0.0 if self._is_lenient else None)
        starts = [
            functools.partial(self._runner.run, call, body.model, request)
            for request in plan.requests
        ]
        events = merge(starts)
        if body.stream:
            chunks = text_chunks(events, plan, echo, includes_usage=body.includes_usage)
            return openai_stream(chunks)
        gathered = [Gathered() for _ in starts]
        async with contextlib.aclosing(events):
            async for number, event in events:
                gathered[number].add(event)
        return Reply(whole_texts(gathered, plan, echo))

    async def embed(self, call: Call) -> Reply:
        body = decode(call.body, EmbeddingBody)
        texts = texts_of(body, lenient=self._is_lenient)
        as_text = body.encoding_format == "base64" and not self._is_lenient
        call.is_private |= body.private
        vectors, num_tokens, name = await self._runner.embed(call, body.model, texts)
        return Reply(embedding_list(name, vectors, num_tokens, as_text=as_text))

    async def _prompt(self, body: ChatBody, request: ChatRequest) -> str | None:
        """The prompt as text, where it is wanted in the answer."""
        is_wanted = self._settings.shows_prompt if body.verbose is None else body.verbose
        if not is_wanted:
            return None
        ids = await self._runner.prompt_ids(body.model, request)
        async with self._runner.models.borrow(body.model) as opened:
            return shown(tokenizer_of(opened), ids)

    async def _score(
        self, call: Call, body: ChatBody, request: ChatRequest
    ) -> tuple[TokenLogprob | None, ...]:
        """vLLM's prompt_logprobs of a conversation: its prompt, as ids, is scored as a text."""
        ids = await self._runner.prompt_ids(body.model, request)
        scored = TextRequest(
            prompt=ids, sampling={"max_tokens": 0}, prompt_logprobs=body.prompt_logprobs
        )
        found = await gather(self._runner.run(call, body.model, scored))
        return found.prompt_scores
