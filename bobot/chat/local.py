"""A model on this machine: weights, tokenizer and engine behind `logits`, `generate` and `chat`.

    model = bobot.load("path-or-name")
    for piece in model.generate("Once upon a time", max_tokens=64, temperature=0.8, seed=1):
        print(piece, end="")

Not here: what a conversation is (session.py), and how requests share the machine (engine/).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import Tensor

from bobot.chat.stop_strings import StopStrings
from bobot.engine import Engine, EngineConfig, SamplingParams, TokenOutput
from bobot.errors import NotFoundError, RequestError, TemplateError, TokenizerError, UsageError
from bobot.hub import resolve
from bobot.layers.context import PackedAttention
from bobot.text import Detokenizer, Tokenizer, load_tokenizer
from bobot.weights.load import LoadReport, Progress, load_model

Message = Mapping[str, Any]


class Piece(str):
    """A bit of an answer: a string that also knows its tokens.

    One piece per token; its text is empty while a character is incomplete or a stop string may have
    begun.
    """

    ids: list[int]
    index: int
    """Which of the n answers."""
    logprob: float | None
    top_logprobs: tuple[tuple[int, float], ...] | None
    finish_reason: str | None
    """stop or length on the last piece of an answer."""

    @classmethod
    def make(cls, text: str, output: TokenOutput, finish_reason: str | None) -> Piece:
        piece = cls(text)
        piece.ids = [] if output.token_id is None else [output.token_id]
        piece.index = output.index
        piece.logprob = output.logprob
        piece.top_logprobs = output.top_logprobs
        piece.finish_reason = finish_reason
        return piece


@dataclass(frozen=True)
class GenerationStats:
    """What the last answer took. Times in seconds."""

    num_prompt_tokens: int
    num_cached_tokens: int
    num_completion_tokens: int
    time_to_first_token_s: float
    decode_s: float
    finish_reason: str | None

    @property
    def tokens_per_s(self) -> float:
        """Decode speed: tokens after the first, by the time after the first."""
        return (self.num_completion_tokens - 1) / self.decode_s if self.decode_s > 0 else 0.0


def load(
    path: str | Path | None = None,
    device: str = "cpu",
    dtype: str | torch.dtype | None = None,
    quantize: str | None = None,
    *,
    engine_config: EngineConfig | None = None,
    progress: Progress | None = None,
) -> LocalModel:
    """The model of a folder, a file or a name (None: the embedded one), ready to answer.

    dtype None keeps the checkpoint's own. Raises a BobotError that names what is wrong with the
    files.
    """
    if quantize is not None:
        raise UsageError(
            "quantize is {found!r}; this version loads weights as they are published (None).",
            found=quantize,
        )
    if device != "cpu" and not _device_exists(device):
        raise UsageError(
            "device is {found!r}; this machine has {allowed}.",
            found=device,
            allowed="cpu" + ", cuda" * torch.cuda.is_available(),
        )
    location = resolve(path)
    tokenizer = _tokenizer_of(location)
    model, report = load_model(location, device, dtype, progress)
    if tokenizer is not None and tokenizer.vocab_size > model.config.vocab_size:
        raise TokenizerError(
            "{path}: the tokenizer has {found} entries, the model's vocabulary only {allowed}.",
            hint="Tokenizer and weights belong to different models: download them together.",
            path=location.name,
            found=tokenizer.vocab_size,
            allowed=model.config.vocab_size,
        )
    return LocalModel(location, model, tokenizer, report, device, engine_config or EngineConfig())


def _device_exists(device: str) -> bool:
    return device.partition(":")[0] == "cuda" and torch.cuda.is_available()


def _tokenizer_of(location: Path) -> Tokenizer | None:
    """The tokenizer beside the weights; None where the publisher put none."""
    try:
        return load_tokenizer(location)
    except NotFoundError:
        return None


class LocalModel:
    """Weights, tokenizer and engine of one model. Made by `load`."""

    def __init__(
        self,
        path: Path,
        model: Any,
        tokenizer: Tokenizer | None,
        report: LoadReport,
        device: str,
        engine_config: EngineConfig,
    ) -> None:
        self.path = path
        self.name = path.stem if path.is_file() else path.resolve().name
        self.model = model
        self.config = model.config
        self.tokenizer = tokenizer
        self.report = report
        self.device = device
        self.dtype = report.dtype
        self.num_parameters = report.num_parameters
        self.eos_ids = _eos_ids(report.generation_config, tokenizer)
        self.engine = Engine(model, engine_config, self.eos_ids)
        self.max_model_len = self.engine.max_model_len
        self.last_stats: GenerationStats | None = None
        self._outputs: dict[int, deque[TokenOutput]] = {}

    @property
    def default_sampling(self) -> dict[str, Any]:
        """What the publisher recommends in generation_config.json; empty if nothing."""
        given = self.report.generation_config
        if given.get("do_sample") is False:
            return {}
        known = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
        return {key: given[key] for key in known if given.get(key) is not None}

    def encode(self, text: str) -> list[int]:
        """Ids of plain text to continue, with the model's beginning token in front where it has
        one.
        """
        tokenizer = self._need_tokenizer()
        bos = [] if tokenizer.bos_id is None or not tokenizer.adds_bos else [tokenizer.bos_id]
        return bos + tokenizer.encode(text)

    def logits(self, ids: Sequence[int] | Tensor) -> Tensor:
        """Scores of the next token after each position, no sampling, no cache: float32 (len(ids),
        vocab_size).
        """
        ids_T = torch.as_tensor(self._checked(ids), dtype=torch.long, device=self.device)
        positions_T = torch.arange(len(ids_T), device=self.device)
        with torch.no_grad():
            return self.model.logits(self.model(ids_T, positions_T, PackedAttention()))

    def generate(
        self, prompt: str | Sequence[int], *, stop: str | Sequence[str] = (), **sampling: Any
    ) -> Iterator[Piece]:
        """Pieces of the continuation, one per token, as they come. `sampling`: see SamplingParams.

        Closing the iterator, or Ctrl-C while it runs, frees what the request held.
        """
        ids = self.encode(prompt) if isinstance(prompt, str) else self._checked(prompt)
        return self._start(ids, stop, sampling, opens_text=False)

    @overload
    def chat(
        self, messages: Sequence[Message], stream: Literal[False] = False, **sampling: Any
    ) -> str: ...
    @overload
    def chat(
        self, messages: Sequence[Message], stream: Literal[True], **sampling: Any
    ) -> Iterator[Piece]: ...
    def chat(
        self, messages: Sequence[Message], stream: bool = False, **sampling: Any
    ) -> str | Iterator[Piece]:
        """The answer to a conversation (`role` and `content` of each message): text, or pieces if
        `stream`.

        Starts from the publisher's recommended sampling. Raises TemplateError where the model has
        no template or its template refuses the conversation, RequestError where it does not fit the
        context.
        """
        tokenizer = self._need_tokenizer()
        if tokenizer.chat_template is None:
            raise TemplateError(
                "{name} has no chat template: it continues text and knows no conversations.",
                hint="Use generate (bobot run --raw), or an instruct model.",
                name=self.name,
            )
        ids = tokenizer.encode_chat([dict(message) for message in messages])
        sampling = {"max_tokens": None, **self.default_sampling, **sampling}
        pieces = self._start(ids, sampling.pop("stop", ()), sampling, opens_text=True)
        return pieces if stream else "".join(pieces)

    def _start(
        self,
        ids: list[int],
        stop: str | Sequence[str],
        sampling: dict[str, Any],
        *,
        opens_text: bool,
    ) -> Iterator[Piece]:
        """A stream whose parameters are checked now, not at its first piece."""
        params = _params(sampling)
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
        tokenizer = self._need_tokenizer() if stops else self.tokenizer
        answers = [
            _Answer(
                None if tokenizer is None else Detokenizer(tokenizer, opens_text=opens_text),
                StopStrings(stops),
            )
            for _ in range(params.n)
        ]
        return self._stream(ids, params, answers)

    def _stream(
        self, ids: list[int], params: SamplingParams, answers: list[_Answer]
    ) -> Iterator[Piece]:
        start = time.perf_counter()
        first = last = None
        num_tokens = num_cached = 0
        finish_reason = None
        request_id = self.engine.add(ids, params)
        self._outputs[request_id] = deque()
        try:
            while not all(answer.is_finished for answer in answers):
                output = self._next_output(request_id)
                last = time.perf_counter()
                first = first or last
                answer = answers[output.index]
                if answer.is_finished:
                    continue
                num_tokens += 1
                if output.index == 0:  # the others find the prompt that the first one computed
                    num_cached = output.num_cached_tokens
                piece = answer.push(output)
                finish_reason = piece.finish_reason or finish_reason
                yield piece
        finally:
            self.engine.abort(request_id)
            del self._outputs[request_id]
            self.last_stats = GenerationStats(
                num_prompt_tokens=len(ids),
                num_cached_tokens=num_cached,
                num_completion_tokens=num_tokens,
                time_to_first_token_s=(first or time.perf_counter()) - start,
                decode_s=(last or 0.0) - (first or 0.0),
                finish_reason=finish_reason,
            )

    def _next_output(self, request_id: int) -> TokenOutput:
        """Steps the engine until this request has a token; the others' tokens wait for their own
        readers.
        """
        mine = self._outputs[request_id]
        while not mine:
            for output in self.engine.step():
                if output.request_id in self._outputs:
                    self._outputs[output.request_id].append(output)
        output = mine.popleft()
        if output.error is not None:
            raise output.error
        return output

    def _checked(self, ids: Sequence[int] | Tensor) -> list[int]:
        """The ids as a list. RequestError for none, too many, or one outside the vocabulary."""
        values = [int(i) for i in ids]
        self.engine.check_prompt(values)
        if len(values) > self.max_model_len:
            raise RequestError(
                "The prompt has {found} tokens; the context of {name} holds {allowed}.",
                hint="Shorten it, or choose a model with a longer context.",
                found=len(values),
                name=self.name,
                allowed=self.max_model_len,
            )
        return values

    def _need_tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise TokenizerError(
                "{name} has no tokenizer beside its weights.",
                hint="Put tokenizer.json or tokenizer.model into the folder, or pass token ids.",
                name=self.name,
            )
        return self.tokenizer


class _Answer:
    """One answer on its way from tokens to text."""

    def __init__(self, detokenizer: Detokenizer | None, stop: StopStrings) -> None:
        self.detokenizer = detokenizer
        self.stop = stop
        self.is_finished = False

    def push(self, output: TokenOutput) -> Piece:
        finish_reason: str | None = output.finish_reason
        text = ""
        if self.detokenizer is not None:
            if output.token_id is not None and finish_reason != "stop":
                text = self.stop.push(self.detokenizer.push(output.token_id))
            if finish_reason is not None:
                text += self.stop.push(self.detokenizer.finish()) + self.stop.finish()
        if self.stop.is_hit:
            finish_reason = "stop"
        self.is_finished = finish_reason is not None
        return Piece.make(text, output, finish_reason)


def _params(sampling: dict[str, Any]) -> SamplingParams:
    known = SamplingParams.__dataclass_fields__
    if unknown := sorted(set(sampling) - set(known)):
        raise RequestError(
            "Unknown sampling parameter {found}; known: {allowed}.",
            found=unknown[0],
            allowed=", ".join(known) + ", stop",
        )
    return SamplingParams(**sampling)


def _eos_ids(generation_config: Mapping[str, Any], tokenizer: Tokenizer | None) -> frozenset[int]:
    """Tokens that end an answer: the publisher's generation settings and the tokenizer's own."""
    given = generation_config.get("eos_token_id")
    ids = given if isinstance(given, list) else [] if given is None else [given]
    return frozenset(ids) | (frozenset() if tokenizer is None else tokenizer.eos_ids)
