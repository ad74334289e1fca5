"""A model on this machine: weights, tokenizer and engine behind `logits`, `generate`, `chat` and
`answer`.

    model = bobot.load("path-or-name")
    for piece in model.generate("Once upon a time", max_tokens=64, temperature=0.8, seed=1):
        print(piece, end="")

Not here: what a conversation is (session.py), and how requests share the machine (engine/).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import Tensor

from bobot.chat.answer import Answer
from bobot.chat.stop_strings import StopStrings
from bobot.chat.token_reader import Parser, PlainText, Step, TokenReader
from bobot.engine import Engine, EngineConfig, SamplingParams, TokenOutput
from bobot.errors import NotFoundError, RequestError, TemplateError, TokenizerError, UsageError
from bobot.hub import resolve
from bobot.layers.context import PackedAttention
from bobot.layers.lora import Adapter, applied
from bobot.quant.tiles import Activations
from bobot.text import Detokenizer, Tokenizer, load_tokenizer
from bobot.text.answer_parser import answer_parser
from bobot.text.parts import PartDelta
from bobot.weights.adapters import check_adapter, load_adapter, open_adapter
from bobot.weights.load import LoadReport, Progress, load_model
from bobot.weights.quantize import grid_named, rounding_at_load

Message = Mapping[str, Any]


class Piece(str):
    """A bit of an answer: a string that also knows its tokens.

    One piece per token; its text is empty while a character is incomplete, a stop string may have
    begun, or the model reasons or calls a tool.
    """

    ids: list[int]
    index: int
    """Which of the n answers."""
    logprob: float | None
    top_logprobs: tuple[tuple[int, float], ...] | None
    finish_reason: str | None
    """stop, length or tool_calls on the last piece of an answer."""

    @classmethod
    def of(cls, step: Step) -> Piece:
        piece, output = cls(step.text), step.output
        piece.ids = [] if output.token_id is None else [output.token_id]
        piece.index = output.index
        piece.logprob = output.logprob
        piece.top_logprobs = output.top_logprobs
        piece.finish_reason = step.finish_reason
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
    activations: Activations = None,
    draft: str | Path | None = None,
    adapters: Mapping[str, str | Path] | None = None,
    engine_config: EngineConfig | None = None,
    progress: Progress | None = None,
) -> LocalModel:
    """The model of a folder, a file or a name (None: the embedded one), ready to answer.

    dtype None keeps the checkpoint's own. `quantize` (int8, int4 or mxfp4) rounds the matrices of
    the layers that are not packed already; None loads weights as they are published. `activations`
    "int8" multiplies packed weights with activations of 8 bits, as llama.cpp does: faster, and a
    little less precise; None keeps what `dtype` holds. `draft` names
    a smaller model of the same family that guesses tokens for this one to check: the same answers,
    sooner where it guesses well. `adapters`: LoRA adapters by name, which answers then ask for:
    folders as PEFT writes them, or GGUF files of llama.cpp's.
    Raises a BobotError that names what is wrong with the files.
    """
    change = None if quantize is None else rounding_at_load(grid_named(quantize))
    if device != "cpu" and not _device_exists(device):
        raise UsageError(
            "device is {found!r}; this machine has {allowed}.",
            found=device,
            allowed="cpu" + ", cuda" * torch.cuda.is_available(),
        )
    location = resolve(path)
    draft_location = None if draft is None else resolve(draft)
    files = {name: open_adapter(Path(file)) for name, file in (adapters or {}).items()}
    for file in files.values():  # before the weights: reading those may take minutes
        check_adapter(file, location)
    tokenizer = _tokenizer_of(location)
    model, report = load_model(location, device, dtype, progress, change, activations=activations)
    if tokenizer is not None and tokenizer.vocab_size > model.config.vocab_size:
        raise TokenizerError(
            "{path}: the tokenizer has {found} entries, the model's vocabulary only {allowed}.",
            hint="Tokenizer and weights belong to different models: download them together.",
            path=location.name,
            found=tokenizer.vocab_size,
            allowed=model.config.vocab_size,
        )
    draft_model = None
    if draft_location is not None:
        draft_model, _ = load_model(draft_location, device, dtype, progress)
    config = engine_config or EngineConfig()
    loaded = LocalModel(location, model, tokenizer, report, device, config, draft_model)
    loaded.adapters = {
        name: load_adapter(file, model, report.family) for name, file in files.items()
    }
    return loaded


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
        draft_model: Any = None,
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
        self.engine = Engine(model, engine_config, self.eos_ids, draft_model)
        self.max_model_len = self.engine.max_model_len
        self.adapters: dict[str, Adapter] = {}
        self.adapter: str | None = None
        """The one for answers that ask for none."""
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
        tokenizer = self.need_tokenizer()
        bos = [] if tokenizer.bos_id is None or not tokenizer.adds_bos else [tokenizer.bos_id]
        return bos + tokenizer.encode(text)

    def adapter_named(self, name: str | None) -> Adapter | None:
        """None: the one that this model uses by itself, if any. RequestError for an unknown one."""
        name = self.adapter if name is None else name
        if name is not None and name not in self.adapters:
            raise RequestError(
                "{name} has no adapter {found!r}; there are: {allowed}.",
                name=self.name,
                found=name,
                allowed=", ".join(self.adapters) or "none",
            )
        return None if name is None else self.adapters[name]

    def logits(self, ids: Sequence[int] | Tensor, *, adapter: str | None = None) -> Tensor:
        """Scores of the next token after each position, no sampling, no cache: float32 (len(ids),
        vocab_size).
        """
        chosen = self.adapter_named(adapter)
        ids_T = torch.as_tensor(self._checked(ids), dtype=torch.long, device=self.device)
        positions_T = torch.arange(len(ids_T), device=self.device)
        rows = [] if chosen is None else [(chosen, slice(None))]
        with torch.no_grad(), applied(self.model, rows):
            return self.model.logits(self.model(ids_T, positions_T, PackedAttention()))

    def generate(
        self, prompt: str | Sequence[int], *, stop: str | Sequence[str] = (), **sampling: Any
    ) -> Iterator[Piece]:
        """Pieces of the continuation, one per token, as they come. `sampling`: see SamplingParams;
        and `adapter`, the name of one of the model's adapters, here as in chat and answer.

        Closing the iterator, or Ctrl-C while it runs, frees what the request held.
        """
        ids = self.encode(prompt) if isinstance(prompt, str) else self._checked(prompt)
        tokenizer = self.tokenizer

        def parser() -> Parser:
            return PlainText(
                None if tokenizer is None else Detokenizer(tokenizer, opens_text=False)
            )

        return _pieces(self._start(ids, stop, sampling, parser))

    @overload
    def chat(
        self,
        messages: Sequence[Message],
        stream: Literal[False] = False,
        *,
        tools: Sequence[Mapping] | None = None,
        reasoning_effort: str | None = None,
        **sampling: Any,
    ) -> str: ...
    @overload
    def chat(
        self,
        messages: Sequence[Message],
        stream: Literal[True],
        *,
        tools: Sequence[Mapping] | None = None,
        reasoning_effort: str | None = None,
        **sampling: Any,
    ) -> Iterator[Piece]: ...
    def chat(
        self,
        messages: Sequence[Message],
        stream: bool = False,
        *,
        tools: Sequence[Mapping] | None = None,
        reasoning_effort: str | None = None,
        **sampling: Any,
    ) -> str | Iterator[Piece]:
        """The answer to a conversation: what the user reads of it, or pieces if `stream`.

        messages and tools as in OpenAI's API; reasoning_effort low, medium or high where the model
        knows it. Starts from the publisher's recommended sampling. Raises TemplateError where the
        model has no template or its template refuses the conversation, RequestError where it does
        not fit the context.
        """
        pieces = _pieces(self._start_chat(messages, tools, reasoning_effort, sampling))
        return pieces if stream else "".join(pieces)

    @overload
    def answer(
        self,
        messages: Sequence[Message],
        stream: Literal[False] = False,
        *,
        tools: Sequence[Mapping] | None = None,
        reasoning_effort: str | None = None,
        **sampling: Any,
    ) -> Answer: ...
    @overload
    def answer(
        self,
        messages: Sequence[Message],
        stream: Literal[True],
        *,
        tools: Sequence[Mapping] | None = None,
        reasoning_effort: str | None = None,
        **sampling: Any,
    ) -> Generator[PartDelta, None, None]: ...
    def answer(
        self,
        messages: Sequence[Message],
        stream: bool = False,
        *,
        tools: Sequence[Mapping] | None = None,
        reasoning_effort: str | None = None,
        **sampling: Any,
    ) -> Answer | Generator[PartDelta, None, None]:
        """Like chat, with reasoning and tool calls: an Answer, or the deltas of its parts if
        `stream`. Raises RequestError for more than one answer (n)."""
        if sampling.get("n", 1) != 1:
            raise RequestError(
                "n is {found}; answer gives one answer.",
                hint="Use chat for several, or ask several times.",
                found=sampling["n"],
            )
        deltas = _deltas(self._start_chat(messages, tools, reasoning_effort, sampling))
        as_text = self.need_tokenizer().takes_argument_text
        return deltas if stream else Answer.of(deltas, arguments_as_text=as_text)

    def _start_chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping] | None,
        reasoning_effort: str | None,
        sampling: dict[str, Any],
    ) -> Generator[Step, None, None]:
        tokenizer = self.need_tokenizer()
        self.need_chat_template(tokenizer)
        if tools and not tokenizer.takes("tools"):
            raise RequestError(
                "{name} takes no tools: its chat template does not show them.", name=self.name
            )
        options: dict[str, Any] = {}
        if reasoning_effort is not None:
            options["reasoning_effort"] = reasoning_effort
        if options and not tokenizer.takes("reasoning_effort"):
            raise RequestError(
                "{name} has no reasoning effort to set: its chat template knows none.",
                hint="Leave it out.",
                name=self.name,
            )
        ids = tokenizer.encode_chat([dict(message) for message in messages], tools, **options)
        sampling = {"max_tokens": None, **self.default_sampling, **sampling}

        def parser() -> Parser:
            return answer_parser(tokenizer, tools=tools, prompt_ids=ids)

        return self._start(ids, sampling.pop("stop", ()), sampling, parser)

    def _start(
        self,
        ids: list[int],
        stop: str | Sequence[str],
        sampling: dict[str, Any],
        new_parser: Callable[[], Parser],
    ) -> Generator[Step, None, None]:
        """A stream whose parameters are checked now, not at its first token."""
        adapter = self.adapter_named(sampling.pop("adapter", None))
        params = _params(sampling)
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
        if stops:
            self.need_tokenizer()
        readers = [TokenReader(new_parser(), StopStrings(stops)) for _ in range(params.n)]
        return self._stream(ids, params, readers, adapter)

    def _stream(
        self,
        ids: list[int],
        params: SamplingParams,
        readers: list[TokenReader],
        adapter: Adapter | None,
    ) -> Generator[Step, None, None]:
        start = time.perf_counter()
        first = last = None
        num_tokens = num_cached = 0
        finish_reason = None
        request_id = self.engine.add(ids, params, adapter=adapter)
        self._outputs[request_id] = deque()
        try:
            while not all(reader.is_finished for reader in readers):
                output = self._next_output(request_id)
                last = time.perf_counter()
                first = first or last
                reader = readers[output.index]
                if reader.is_finished:
                    continue
                num_tokens += 1
                if output.index == 0:  # the others find the prompt that the first one computed
                    num_cached = output.num_cached_tokens
                step = reader.push(output)
                finish_reason = step.finish_reason or finish_reason
                yield step
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

    def need_chat_template(self, tokenizer: Tokenizer) -> None:
        """TemplateError where the model knows no conversations."""
        if tokenizer.chat_template is None:
            raise TemplateError(
                "{name} has no chat template: like every base model it continues text and knows no"
                " conversations.",
                hint="Use generate (bobot run --raw), or an instruct model.",
                name=self.name,
            )

    def need_tokenizer(self) -> Tokenizer:
        """TokenizerError where the model has none."""
        if self.tokenizer is None:
            raise TokenizerError(
                "{name} has no tokenizer beside its weights.",
                hint="Put tokenizer.json or tokenizer.model into the folder, or pass token ids.",
                name=self.name,
            )
        return self.tokenizer


def _pieces(steps: Generator[Step, None, None]) -> Iterator[Piece]:
    try:
        for step in steps:
            yield Piece.of(step)
    finally:
        steps.close()


def _deltas(steps: Generator[Step, None, None]) -> Generator[PartDelta, None, None]:
    try:
        for step in steps:
            yield from step.deltas
    finally:
        steps.close()


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
