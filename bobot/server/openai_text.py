"""OpenAI's completions: prompts as texts or token ids, turned into TextRequests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Meta

from bobot.chat.protocol import ParameterError, TextRequest
from bobot.server.openai_chat import StreamOptions
from bobot.server.openai_fields import (
    Count,
    ResponseFormat,
    SamplingFields,
    format_of,
    sampling_of,
    stops_of,
)
from bobot.server.wire import refuse_unsupported

DEFAULT_MAX_TOKENS = 16
"""OpenAI's."""
MAX_PROMPTS = 2048

UNSUPPORTED: dict[str, tuple[Any, ...]] = {"suffix": ("",), "return_progress": (False,)}

Prompt = str | tuple[int, ...]


class TextBody(SamplingFields, kw_only=True):
    prompt: str | list[str | int | list[int]] | None = None
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_completion_tokens: Count | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=20)] | bool | None = None
    best_of: Annotated[int, Meta(ge=0, le=128)] | None = None
    suffix: str | None = None
    response_format: ResponseFormat | None = None
    private: bool = False
    """bobot's own: never asks a hosted model."""

    @property
    def includes_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def num_logprobs(self) -> int | None:
        """Alternatives per token; `true`, which the chat API takes, means none."""
        if isinstance(self.logprobs, bool):
            return 0 if self.logprobs else None
        return self.logprobs


@dataclass(frozen=True)
class TextPlan:
    """The requests of one body, and what of them is shown."""

    requests: tuple[TextRequest, ...]
    num_answers: int
    """Per prompt."""
    echoes: bool
    num_logprobs: int | None
    shows_prompt_scores: bool
    shows_ids: bool


def text_plan(body: TextBody, *, lenient: bool = False) -> TextPlan:
    """Raises ParameterError."""
    refuse_unsupported(body, UNSUPPORTED, lenient=lenient)
    if body.stream_options is not None and not body.stream and not lenient:
        raise ParameterError("{param} needs stream: true.", param="stream_options")
    num_answers = body.n or 1
    if (body.best_of or num_answers) != num_answers and not lenient:
        raise ParameterError(
            "{param} is {value}; it must be n: the best of several is not chosen here.",
            param="best_of",
            code="unsupported_parameter",
            value=body.best_of,
        )
    limits = [n for n in (body.max_tokens, body.max_completion_tokens) if n is not None]
    limit = limits[0] if limits else DEFAULT_MAX_TOKENS
    sampling = sampling_of(body, lenient=lenient) | {"max_tokens": limit}
    num_logprobs, num_scores = body.num_logprobs, body.prompt_logprobs
    if num_logprobs is not None:
        sampling["logprobs"] = num_logprobs
    if body.echo and num_logprobs is not None:
        num_scores = max(num_scores or 0, num_logprobs)
    stop, form = stops_of(body.stop), format_of(body, body.response_format)
    requests = tuple(
        TextRequest(
            prompt=prompt, sampling=sampling, stop=stop, format=form, prompt_logprobs=num_scores
        )
        for prompt in prompts_of(body.prompt)
    )
    return TextPlan(
        requests=requests,
        num_answers=num_answers,
        echoes=bool(body.echo),
        num_logprobs=num_logprobs,
        shows_prompt_scores=body.prompt_logprobs is not None,
        shows_ids=bool(body.return_token_ids),
    )


def prompts_of(
    given: str | list[str | int | list[int]] | None, param: str = "prompt"
) -> list[Prompt]:
    """One text, several, one list of ids, or several."""
    if given is None:
        raise ParameterError("{param} is missing.", param=param, code="missing_required_parameter")
    if isinstance(given, str):
        return [given]
    if not given:
        raise ParameterError("{param} is empty.", param=param)
    if len(given) > MAX_PROMPTS and not isinstance(given[0], int):
        raise ParameterError(
            "{param} has {found} entries; at most {allowed} are allowed.",
            param=param,
            found=len(given),
            allowed=MAX_PROMPTS,
        )
    kind = type(given[0])
    odd = next((i for i, entry in enumerate(given) if type(entry) is not kind), None)
    if odd is not None:
        raise ParameterError("{param} mixes texts and token ids.", param=f"{param}[{odd}]")
    if kind is int:
        return [_ids(given, param)]
    return [
        entry if isinstance(entry, str) else _ids(entry, f"{param}[{i}]")
        for i, entry in enumerate(given)
    ]


def _ids(ids: Any, param: str) -> tuple[int, ...]:
    if not ids:
        raise ParameterError("{param} is empty.", param=param)
    if min(ids) < 0 or max(ids) >= 1 << 31:
        raise ParameterError("{param} holds a number that is no token id.", param=param)
    return tuple(ids)
