"""A model on this machine behind the protocol: many requests at once, each a stream of events.

    service = LocalService(bobot.load())
    async for event in service.chat(ChatRequest(messages=({"role": "user", "content": "Hi"},))):
        ...

While it runs, the engine belongs to its thread: the model's own generate, chat and answer must not
be called. An answer that reaches the end of the context ends with "length", also where max_tokens
asked for more.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace

from bobot.chat.engine_loop import EngineLoop, Job, ServiceLimits
from bobot.chat.local import LocalModel
from bobot.chat.protocol import (
    AnswerError,
    ChatRequest,
    Delta,
    Event,
    Finished,
    ParameterError,
    PromptRead,
    PromptScored,
    Started,
    TextRequest,
    TokenLogprob,
    Usage,
)
from bobot.chat.requests import Work, chat_work, named, text_work
from bobot.chat.stop_strings import StopStrings
from bobot.chat.token_reader import Step, TokenReader
from bobot.engine import TokenOutput
from bobot.engine.prompt_rows import Pooling, PromptScores, PromptVector
from bobot.engine.stats import EngineStats
from bobot.errors import RequestError
from bobot.layers.lora import Adapter
from bobot.text.constraints import Constraints, GrammarConstraint, check


class LocalService:
    """See chat/protocol.ChatModel."""

    def __init__(self, model: LocalModel, limits: ServiceLimits | None = None) -> None:
        self.model = model
        self.name = model.name
        self.max_model_len = model.max_model_len
        self.loop = EngineLoop(model.engine, limits or ServiceLimits())
        self.adapter: Adapter | None = None
        self.base = self
        """The model without an adapter, which owns what all share."""
        self._constraints: Constraints | None = None

    def adapted(self, name: str, adapter: Adapter) -> LocalService:
        """The same model, changed by an adapter and called `name`; both answer in the same steps.
        It can be used until its base is closed.
        """
        other = copy.copy(self.base)
        other.name, other.adapter = name, adapter
        return other

    async def chat(self, request: ChatRequest) -> AsyncIterator[Event]:
        work = await asyncio.to_thread(chat_work, self.model, request)
        stays_off_disk = request.is_private or request.is_passing
        async for event in self._answers(work, "messages", None, is_private=stays_off_disk):
            yield event

    async def complete(self, request: TextRequest) -> AsyncIterator[Event]:
        work = await asyncio.to_thread(text_work, self.model, request)
        scores, is_private = request.prompt_logprobs, request.is_private
        async for event in self._answers(work, "prompt", scores, is_private=is_private):
            yield event

    async def prompt_ids(self, request: ChatRequest | TextRequest) -> list[int]:
        """The ids that the model would be given; ParameterError as for the answer."""
        make = chat_work if isinstance(request, ChatRequest) else text_work
        work = await asyncio.to_thread(make, self.model, request)  # type: ignore[arg-type]
        return work.prompt_ids

    async def embed(
        self, texts: list[str | list[int]], pooling: Pooling = "mean"
    ) -> tuple[list[list[float]], int]:
        """The hidden states behind the final norm, their mean over the tokens or the last one, as a
        vector of length 1 for each text; and the number of tokens. The mean is for causal models
        that were not trained to embed; those that were say which they want.
        """
        prompts = [self._text_ids(text, number) for number, text in enumerate(texts)]
        vectors: list[list[float]] = []
        size = self.model.engine.config.max_num_seqs
        for start in range(0, len(prompts), size):
            readers = [PromptVector(len(ids), pooling) for ids in prompts[start : start + size]]
            jobs = [
                Job(ids, None, prompt_reader=reader, adapter=self.adapter)
                for ids, reader in zip(prompts[start:], readers, strict=False)
            ]
            try:
                for job in jobs:
                    self.loop.post(job)
                for job in jobs:
                    _checked(*await job.outputs())
            finally:
                for job in jobs:
                    self.loop.cancel(job)
            vectors += [reader.vector() for reader in readers]
        return vectors, sum(map(len, prompts))

    def stats(self) -> EngineStats:
        return self.model.engine.stats()

    async def close(self, max_s: float | None = None) -> None:
        """Lets the answers under way end, `max_s` seconds at most, and takes no more."""
        if self.base is self:
            await asyncio.to_thread(self.loop.close, max_s)
            await asyncio.to_thread(self.model.engine.close)

    async def _answers(
        self, work: Work, param: str, num_scores: int | None, *, is_private: bool
    ) -> AsyncIterator[Event]:
        num_answers = 1 if work.params is None else work.params.n
        with named("stop"):
            readers = [
                TokenReader(work.new_parser(), StopStrings(work.stop)) for _ in range(num_answers)
            ]
        self._check(work, param)
        reader = None
        if num_scores is not None:
            reader = PromptScores(work.prompt_ids, num_scores, self.model.engine.vocab_size)
        constraint = None
        if work.grammar is not None:
            constraint = await asyncio.to_thread(self._constraint, work.grammar, work)
        job = Job(
            work.prompt_ids,
            work.params,
            constraint,
            reader,
            adapter=self.adapter,
            is_private=is_private,
            reports_progress=work.reports_progress,
        )
        self.loop.post(job)
        answers = _Answers(self.model, readers, job, work)
        try:
            yield Started(tuple(work.prompt_ids), self.name)
            while not answers.are_finished:
                for output in await job.outputs():
                    for event in answers.events(_checked(output)):
                        yield event
        finally:
            self.loop.cancel(job)
        yield answers.usage()

    def _constraint(self, grammar: str, work: Work) -> GrammarConstraint:
        """ParameterError that names the part of the grammar that can't be followed."""
        model, base = self.model, self.base
        if base._constraints is None:
            base._constraints = Constraints(
                model.need_tokenizer(), model.engine.vocab_size, model.eos_ids
            )
        try:
            return base._constraints.of(grammar)
        except RequestError as error:
            for param, rule in work.rules:
                with named(param):
                    check(rule)
            param = work.rules[0][0]
            raise ParameterError("{problem}", param=param, problem=str(error)) from error

    def _check(self, work: Work, param: str) -> None:
        """ParameterError for a request that the engine could never run; `param` is its prompt."""
        num_tokens = len(work.prompt_ids)
        if num_tokens >= self.max_model_len + (work.params is None):
            raise ParameterError(
                # In OpenAI's words: clients know by them that a text has to be cut.
                "This model's maximum context length is {allowed} tokens. The prompt has {found}"
                " tokens, and an answer needs at least 1.",
                param=param,
                code="context_length_exceeded",
                found=num_tokens,
                allowed=self.max_model_len,
            )
        if work.params is not None:
            highest = max(work.params.logit_bias, default=0)
            if highest >= self.model.engine.vocab_size:
                raise ParameterError(
                    "logit_bias holds token id {found}; allowed: 0 to {highest}.",
                    param="logit_bias",
                    found=highest,
                    highest=self.model.engine.vocab_size - 1,
                )
        with named(param):
            self.model.engine.check(work.prompt_ids, work.params)

    def _text_ids(self, text: str | list[int], number: int) -> list[int]:
        with named(f"input[{number}]"):
            ids = self.model.encode(text) if isinstance(text, str) else list(text)
            if len(ids) > self.max_model_len:
                raise ParameterError(
                    "Text {number} has {found} tokens; the context of {name} holds {allowed}.",
                    param=f"input[{number}]",
                    code="context_length_exceeded",
                    number=number,
                    found=len(ids),
                    name=self.name,
                    allowed=self.max_model_len,
                )
            self.model.engine.check(ids, None)
            return ids


def _checked(
    output: TokenOutput | PromptRead, *_: TokenOutput | PromptRead
) -> TokenOutput | PromptRead:
    if isinstance(output, TokenOutput) and output.error is not None:
        raise AnswerError("{problem}", problem=str(output.error)) from output.error
    return output


@dataclass
class _Waiting:
    """Tokens of one answer that no delta has brought yet."""

    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    opens_text: bool = False
    """No text has come, and the first one will lose the space that it may begin with."""


class _Answers:
    """The events of one request, from the outputs of the engine."""

    def __init__(self, model: LocalModel, readers: list[TokenReader], job: Job, work: Work) -> None:
        self._tokenizer = model.tokenizer
        self._readers = readers
        self._job = job
        self._waiting = [_Waiting(opens_text=work.opens_text) for _ in readers]
        self._is_scored = not isinstance(job.prompt_reader, PromptScores)
        self._num_tokens = self._num_reasoning = self._num_cached = 0
        self._reports_progress = work.reports_progress
        self._num_read: int | None = None
        """Of the prompt, as told."""
        self._first_s: float | None = None
        self._last_s = 0.0

    @property
    def are_finished(self) -> bool:
        return all(reader.is_finished for reader in self._readers)

    def events(self, output: TokenOutput | PromptRead) -> Iterator[Event]:
        if isinstance(output, PromptRead):
            yield from self._read(output)
        else:
            yield from self._events(output)

    def _read(self, read: PromptRead) -> Iterator[PromptRead]:
        if self._num_read is None:
            self._num_read = read.cached
            yield replace(read, processed=read.cached)
        if read.processed > self._num_read:
            self._num_read = read.processed
            yield read

    def _events(self, output: TokenOutput) -> Iterator[Event]:
        if self._first_s is None and self._reports_progress:
            total = output.num_prompt_tokens
            yield from self._read(PromptRead(total, output.num_cached_tokens, total))
        self._last_s = time.monotonic()
        if self._first_s is None:
            self._first_s = self._last_s
        if output.index == 0:  # the others find the prompt that the first one computed
            self._num_cached = output.num_cached_tokens
        if not self._is_scored:
            self._is_scored = True
            yield self._scores()
        reader = self._readers[output.index]
        if reader.is_finished:
            return
        self._num_tokens += output.token_id is not None
        step = reader.push(output)
        yield from self._deltas(step)
        if step.finish_reason is not None:
            yield Finished(output.index, step.finish_reason, reader.stop)  # type: ignore[arg-type]

    def usage(self) -> Usage:
        first_s = self._first_s or self._job.posted_s
        return Usage(
            prompt_tokens=len(self._job.prompt_ids),
            completion_tokens=self._num_tokens,
            cached_tokens=self._num_cached,
            reasoning_tokens=self._num_reasoning,
            prompt_s=first_s - self._job.posted_s,
            completion_s=self._last_s - first_s,
        )

    def _deltas(self, step: Step) -> Iterator[Delta]:
        output = step.output
        waiting = self._waiting[output.index]
        if output.token_id is not None:
            waiting.token_ids += (output.token_id,)
            if output.logprob is not None:
                top = output.top_logprobs or ()
                token = self._token(
                    output.token_id, output.logprob, top, opens_text=waiting.opens_text
                )
                waiting.logprobs += (token,)
                if waiting.opens_text:
                    waiting.opens_text = not self._piece(output.token_id)
        for part in step.deltas:
            if part.kind == "reasoning":
                self._num_reasoning += part.num_tokens
            yield Delta(output.index, part, waiting.token_ids, waiting.logprobs)
            waiting.token_ids, waiting.logprobs = (), ()

    def _scores(self) -> PromptScored:
        reader = self._job.prompt_reader
        assert isinstance(reader, PromptScores)
        entries = [
            replace(self._token(s.token_id, s.logprob, s.top), rank=s.rank) for s in reader.scores
        ]
        return PromptScored((None, *entries))

    def _token(
        self,
        token_id: int,
        logprob: float,
        top: tuple[tuple[int, float], ...],
        *,
        opens_text: bool = False,
    ) -> TokenLogprob:
        """`opens_text`: as the answer's text begins with it, and would with each other."""
        pieces = functools.partial(self._piece, opens_text=opens_text)
        named_top = tuple((other, pieces(other), value) for other, value in top)
        return TokenLogprob(token_id, pieces(token_id), logprob, named_top)

    def _piece(self, token_id: int, *, opens_text: bool = False) -> bytes:
        if self._tokenizer is None:
            return b""
        return next(self._tokenizer.decode_pieces([token_id], opens_text=opens_text))
