"""llama-server's /completion and /infill: the request, checked and turned into TextRequests.

What llama.cpp's samplers can do and bobot's can't is refused (llama_samplers.py). Hints that change
no answer (id_slot, cache_prompt, backend_sampling, n_cache_reuse) are passed over; so is n_keep: no
context is ever shifted here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Meta

from bobot.chat.protocol import ParameterError, TextRequest
from bobot.server.openai_fields import SamplingFields, format_of, sampling_of, stops_of
from bobot.server.openai_text import MAX_PROMPTS
from bobot.server.wire import unsupported_parameter
from bobot.text import Tokenizer

DEFAULTS: Mapping[str, Any] = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}
"""llama-server's, as its API describes them."""
RANDOM_SEED = (1 << 32) - 1
"""What llama.cpp writes for -1."""

Ids = tuple[int, ...]


class CompletionBody(SamplingFields, kw_only=True):
    prompt: Any = None
    model: str | None = None
    stream: bool | None = None
    n_predict: Annotated[int, Meta(ge=-1)] | None = None
    max_tokens: Annotated[int, Meta(ge=-1)] | None = None  # type: ignore[assignment]
    max_completion_tokens: Annotated[int, Meta(ge=-1)] | None = None
    temperature: Annotated[float, Meta(ge=0)] | None = None
    logit_bias: Any = None
    n_cmpl: Annotated[int, Meta(ge=1, le=128)] | None = None
    n_probs: Annotated[int, Meta(ge=0)] | None = None
    logprobs: Annotated[int, Meta(ge=0)] | None = None
    post_sampling_probs: bool = False
    return_tokens: bool = False
    timings_per_token: bool = False
    response_fields: list[str] | None = None

    @property
    def limit(self) -> int | None:
        """New tokens; None: until the context is full."""
        named = (self.n_predict, self.max_completion_tokens, self.max_tokens)
        limit = next((value for value in named if value is not None), -1)
        return None if limit == -1 else limit

    @property
    def num_probs(self) -> int:
        """Alternatives of each token; 0: no probabilities."""
        return (self.logprobs if self.n_probs is None else self.n_probs) or 0


@dataclass(frozen=True)
class Plan:
    """The requests of one body, and what of their answers is shown."""

    requests: tuple[TextRequest, ...]
    is_list: bool
    """Answered with a list."""
    num_answers: int
    settings: Mapping[str, Any]
    """generation_settings: what was asked, and what bobot takes where nothing was."""
    body: CompletionBody


def plan(
    body: CompletionBody,
    prompts: list[Ids],
    tokenizer: Tokenizer,
    defaults: Mapping[str, Any],
    *,
    is_list: bool,
    lenient: bool,
) -> Plan:
    """Raises ParameterError. `defaults`: the server's own sampling."""
    given_bias = _bias(body.logit_bias, tokenizer)
    body.logit_bias = {str(token_id): bias for token_id, bias in given_bias.items()}
    if body.seed in (-1, RANDOM_SEED):
        body.seed = None
    body.n = body.n_cmpl or body.n
    limit = body.limit
    sampling = {**DEFAULTS, **defaults, **sampling_of(body, lenient=lenient)}
    if limit is not None or body.n_predict == -1 or "max_tokens" not in defaults:
        sampling["max_tokens"] = limit
    if body.num_probs:
        sampling |= {"logprobs": body.num_probs, "drawn_logprobs": body.post_sampling_probs}
    stop = stops_of([text for text in _texts(body.stop) if text])
    form = format_of(body)
    scores = 0 if sampling["max_tokens"] == 0 else None
    requests = tuple(
        TextRequest(
            prompt=ids,
            sampling=sampling,
            stop=stop,
            format=form,
            prompt_logprobs=scores,
            reports_progress=bool(body.stream and body.return_progress),
        )
        for ids in prompts
    )
    settings = _settings(body, sampling, stop, tokenizer)
    num_answers = sampling.get("n", 1)
    return Plan(requests, is_list or num_answers > 1, num_answers, settings, body)


def prompts_of(given: Any, tokenizer: Tokenizer) -> tuple[list[Ids], bool]:
    """The prompts as ids, special tokens written in them included, and whether they came as a list.

    A text, ids, a list that mixes both into one prompt, an object {"prompt_string": text}, or a
    list of these.
    """
    if given is None:
        raise ParameterError(
            "{param} is missing.", param="prompt", code="missing_required_parameter"
        )
    is_mixed = isinstance(given, list) and any(type(entry) is int for entry in given)
    is_one = is_mixed and not any(isinstance(entry, list | dict) for entry in given)
    if not isinstance(given, list) or is_one:
        return [_one_prompt(given, tokenizer, "prompt")], False
    if not 1 <= len(given) <= MAX_PROMPTS:
        raise ParameterError(
            "{param} has {found} entries; allowed: {allowed}.",
            param="prompt",
            found=len(given),
            allowed=f"1 to {MAX_PROMPTS}",
        )
    return [_one_prompt(e, tokenizer, f"prompt[{i}]") for i, e in enumerate(given)], True


def _one_prompt(given: Any, tokenizer: Tokenizer, param: str) -> Ids:
    if isinstance(given, dict):
        if given.get("multimodal_data"):
            raise unsupported_parameter(f"{param}.multimodal_data")
        given, param = given.get("prompt_string"), f"{param}.prompt_string"
    parts = given if isinstance(given, list) and given else [given]
    ids: list[int] = []
    for number, part in enumerate(parts):
        if type(part) is int and 0 <= part < tokenizer.vocab_size:
            ids.append(part)
        elif isinstance(part, str):
            ids += with_bos(tokenizer, part) if number == 0 else _encoded(tokenizer, part)
        else:
            raise ParameterError(
                "{param} holds {found}, which is neither a text nor a token id below {size}.",
                param=param,
                found=repr(part)[:80],
                size=tokenizer.vocab_size,
            )
    return tuple(ids)


def with_bos(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text that begins a prompt; a beginning token that it names itself is enough."""
    ids = _encoded(tokenizer, text)
    adds = tokenizer.adds_bos and tokenizer.bos_id is not None
    return [tokenizer.bos_id, *ids] if adds and ids[:1] != [tokenizer.bos_id] else ids  # type: ignore[list-item]


def _encoded(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, allow_special=True)


def shown(tokenizer: Tokenizer, ids: Iterable[int], *, opens_text: bool = False) -> str:
    """The text of a prompt, special tokens by their names; `opens_text`: see decode_pieces."""
    names = {token_id: name.encode() for name, token_id in tokenizer.special_tokens.items()}
    ids = list(ids)
    pieces = tokenizer.decode_pieces(ids, opens_text=opens_text)
    found = (names.get(token_id, piece) for token_id, piece in zip(ids, pieces, strict=True))
    return b"".join(found).decode("utf-8", "replace")


def _texts(stop: str | list[str] | None) -> list[str]:
    return [stop] if isinstance(stop, str) else list(stop or ())


def _bias(given: Any, tokenizer: Tokenizer) -> dict[int, float]:
    """{id or text: bias} or [[id or text, bias]]; a text stands for each of its tokens, a bias of
    false bans them."""
    pairs = list(given.items()) if isinstance(given, dict) else given or []
    found: dict[int, Any] = {}
    for place, pair in enumerate(pairs if isinstance(pairs, list) else [None]):
        key, bias = pair if isinstance(pair, list | tuple) and len(pair) == 2 else (None, None)
        bias = -100.0 if bias is False else bias
        is_key = isinstance(key, str) or (type(key) is int and 0 <= key < tokenizer.vocab_size)
        if not is_key or type(bias) not in (int, float):
            raise ParameterError(
                "{param} has an entry that is no pair of a token and a number.",
                param=f"logit_bias[{place}]",
            )
        if isinstance(key, str) and not key.isdecimal():
            found |= dict.fromkeys(_encoded(tokenizer, key), bias)
        else:
            found[int(key)] = bias  # type: ignore[arg-type]
    return found


def _settings(
    body: CompletionBody, sampling: Mapping[str, Any], stop: tuple[str, ...], tokenizer: Tokenizer
) -> dict[str, Any]:
    """Those of llama-server's settings that mean something here."""
    bias: dict[int, float | None] = dict(sampling.get("logit_bias", {}))
    if body.ignore_eos:
        bias |= dict.fromkeys(sorted(tokenizer.eos_ids), None)
    limit = sampling["max_tokens"]
    return {
        **settings_of(sampling),
        "stop": list(stop),
        "max_tokens": -1 if limit is None else limit,
        "n_predict": -1 if limit is None else limit,
        "ignore_eos": bool(body.ignore_eos),
        "stream": bool(body.stream),
        "logit_bias": [{"bias": value, "token": token_id} for token_id, value in bias.items()],
        "n_probs": body.num_probs,
        "grammar": body.grammar or "",
        "timings_per_token": body.timings_per_token,
        "post_sampling_probs": body.post_sampling_probs,
    }


def settings_of(sampling: Mapping[str, Any]) -> dict[str, Any]:
    """The sampler's part of the settings, in llama-server's words."""
    return {
        "seed": sampling.get("seed", RANDOM_SEED),
        "temperature": sampling["temperature"],
        "top_k": sampling["top_k"],
        "top_p": sampling["top_p"],
        "min_p": sampling["min_p"],
        "typical_p": 1.0,
        "top_n_sigma": -1.0,
        "dynatemp_range": 0.0,
        "dry_multiplier": 0.0,
        "xtc_probability": 0.0,
        "mirostat": 0,
        "adaptive_target": -1.0,
        "adaptive_decay": 0.0,
        "repeat_last_n": -1,
        "repeat_penalty": sampling.get("repetition_penalty", 1.0),
        "presence_penalty": sampling.get("presence_penalty", 0.0),
        "frequency_penalty": sampling.get("frequency_penalty", 0.0),
        "samplers": ["penalties", "temperature", "top_k", "top_p", "min_p"],
        "lora": [],
    }
