"""One request and one stream of events for every model, on this machine or hosted.

The faces of the server (OpenAI, Anthropic, Ollama), the chats and the arena make a `ChatRequest`
or a `TextRequest` and read `Event`s; `ChatModel` is whoever answers: service.py for weights on this
machine, gateway/ for those of others. What can't be done is refused before the first event, with
the parameter's name.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from bobot.errors import BobotError, RequestError
from bobot.text.parts import PartDelta

FormatKind = Literal["text", "json_object", "json_schema", "regex", "lark", "gbnf"]
ToolChoice = Literal["auto", "none", "required"]
NO_REASONING = "none"
"""The reasoning effort of an answer without reasoning."""


@dataclass(frozen=True)
class Format:
    """What the text of an answer must look like."""

    kind: FormatKind = "text"
    schema: Any = None
    """The JSON schema."""
    grammar: str = ""
    """The regular expression or the grammar."""


@dataclass(frozen=True, kw_only=True)
class ChatRequest:
    """A conversation to be answered."""

    messages: tuple[Mapping[str, Any], ...]
    """As in OpenAI's API: role (system, user, assistant, tool), content (a text), and where they
    apply reasoning_content, tool_calls, tool_call_id and name."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """What was asked for, in the words of SamplingParams; what is left out is the model's own."""
    stop: tuple[str, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    """As in OpenAI's API: {"type": "function", "function": {name, description, parameters}}."""
    tool_choice: ToolChoice | str = "auto"
    """Or "function:NAME": that one must be called."""
    parallel_tool_calls: bool = True
    format: Format = Format()
    reasoning_effort: str | None = None
    effort_is_optional: bool = False
    """A model that can't be told how long to think is asked without."""
    template_options: Mapping[str, Any] = field(default_factory=dict)
    """Further variables of the chat template (chat_template_kwargs)."""
    continues_last: bool = False
    """The last message, the assistant's, is to be continued and not to be answered."""
    begins_with_bos: bool = False
    """The prompt begins with the beginning token of plain texts also where the chat template does
    not write it, as llama.cpp's prompts do."""
    reports_progress: bool = False
    """How far the prompt is read is told as it is (PromptRead), where the model knows."""
    is_private: bool = False
    """Never leaves this machine, and leaves no trace on its disk."""
    is_passing: bool = False
    """Leaves no trace on this machine's disk."""


@dataclass(frozen=True, kw_only=True)
class TextRequest:
    """A prompt to be continued, as ids or as text; no chat template."""

    prompt: str | tuple[int, ...]
    sampling: Mapping[str, Any] = field(default_factory=dict)
    stop: tuple[str, ...] = ()
    format: Format = Format()
    suffix: str = ""
    prompt_logprobs: int | None = None
    """Log-probabilities of the prompt's own tokens, and of so many most likely in their place."""
    reports_progress: bool = False
    """How far the prompt is read is told as it is (PromptRead), where the model knows."""
    is_private: bool = False
    """Never leaves this machine, and leaves no trace on its disk."""


@dataclass(frozen=True)
class TokenLogprob:
    """One token, what it adds to the text, and the most likely tokens in its place."""

    token_id: int
    piece: bytes
    logprob: float
    top: tuple[tuple[int, bytes, float], ...] = ()
    rank: int | None = None
    """1 for the most likely token; of a prompt's tokens only."""


@dataclass(frozen=True)
class Started:
    """The first event: the prompt is checked and queued."""

    prompt_ids: tuple[int, ...] | None
    """None where a host does not say."""
    model: str
    """The model that answers, by its own name."""
    chosen: str | None = None
    """Where a policy was asked: the name that its choice is served under, for the accounts. A host
    may call itself anything.
    """


@dataclass(frozen=True)
class PromptRead:
    """How far the prompt has been read, in tokens: one event for each step where wanted."""

    total: int
    cached: int
    """Found in the prefix cache."""
    processed: int
    """Those and the ones computed since; the first event comes before any of them."""


@dataclass(frozen=True)
class PromptScored:
    """One entry for each token of the prompt; None for the first, which nothing precedes."""

    entries: tuple[TokenLogprob | None, ...]


@dataclass(frozen=True)
class Delta:
    """More of one answer."""

    index: int
    """Which of the n answers."""
    part: PartDelta
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    """Of the tokens since the last delta, where they were asked for."""


@dataclass(frozen=True)
class Finished:
    """One answer has ended."""

    index: int
    reason: Literal["stop", "length", "tool_calls", "content_filter"]
    stop: str | None = None
    """The stop string that ended it."""


@dataclass(frozen=True)
class Usage:
    """The last event: what it took. Tokens; None where a host does not say."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost_usd: float | None = None
    """Of hosted models with a known price."""
    prompt_s: float | None = None
    """Seconds until the first token."""
    completion_s: float | None = None
    """Seconds from the first token to the last."""


Event = Started | PromptRead | PromptScored | Delta | Finished | Usage


class ChatModel(Protocol):
    """A model that answers. Closing the iterator cancels the answer within one step."""

    @property
    def name(self) -> str: ...
    @property
    def max_model_len(self) -> int | None:
        """Tokens of its context; None where a host does not say."""
        ...

    def chat(self, request: ChatRequest) -> AsyncIterator[Event]: ...
    def complete(self, request: TextRequest) -> AsyncIterator[Event]: ...
    async def embed(self, texts: list[str | list[int]]) -> tuple[list[list[float]], int]:
        """A vector of length 1 for each text, and the number of tokens."""
        ...

    async def close(self) -> None: ...


class ParameterError(RequestError):
    """A request that is refused for one of its parameters."""

    def __init__(
        self, template: str, /, *, param: str, code: str = "invalid_value", **values: Any
    ) -> None:
        super().__init__(template, param=param, **values)
        self.param = param
        """As a path into the request: messages[0].role."""
        self.code = code
        """invalid_value, unsupported_parameter, context_length_exceeded, model_not_found ..."""


class OverloadedError(RequestError):
    """The queue is full, or a host asks to wait."""

    def __init__(self, template: str, /, *, retry_after_s: float, **values: Any) -> None:
        super().__init__(template, **values)
        self.retry_after_s = retry_after_s


class AnswerError(BobotError):
    """The model failed while it answered: no mistake of the request."""
