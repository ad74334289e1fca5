"""An engine whose answers are written in advance, for a LocalModel that needs no weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from bobot.chat.local import LocalModel
from bobot.engine import TokenOutput
from bobot.text import load_tokenizer

HARMONY = [
    *("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>"),
    "<|call|>",
]
LOGPROB = -0.5
"""Of every token, where log-probabilities are asked for; no other token is named."""


class ScriptedEngine:
    """Gives the tokens of `answer` to every request, then the stop token or its last token."""

    max_model_len = 4096
    vocab_size = 1 << 20

    def __init__(self, answer: Sequence[int], eos_ids: frozenset[int]) -> None:
        self.answer = list(answer)
        self.eos_ids = eos_ids
        self.requests: dict[int, tuple[list[int], Any, list[int]]] = {}
        self.prompts: list[list[int]] = []

    def check_prompt(self, ids: list[int]) -> None:
        pass

    def check(self, ids: list[int], params: Any) -> None:
        pass

    def running(self) -> set[int]:
        return set(self.requests)

    def is_unfinished(self, request_id: int) -> bool:
        return bool(self.requests[request_id][0])

    def add(self, ids: list[int], params: Any, **options: Any) -> int:
        number = len(self.prompts)
        self.prompts.append(list(ids))
        self.requests[number] = (list(self.answer[: params.max_tokens]), params, [])
        return number

    def abort(self, request_id: int) -> None:
        self.requests.pop(request_id, None)

    def close(self) -> None:
        pass

    def step(self) -> list[TokenOutput]:
        outputs = []
        for number, (left, params, _) in self.requests.items():
            if not left:
                continue
            token_id = left.pop(0)
            is_end = token_id in self.eos_ids
            reason = "stop" if is_end else "length" if not left else None
            outputs += [
                TokenOutput(
                    request_id=number,
                    index=index,
                    token_id=token_id,
                    logprob=None if params.logprobs is None else LOGPROB,
                    top_logprobs=None if params.logprobs is None else ((token_id, LOGPROB),),
                    finish_reason=reason,
                    num_prompt_tokens=len(self.prompts[number]),
                    num_cached_tokens=0,
                )
                for index in range(params.n)
            ]
        return outputs


def scripted_model(
    folder: Path, specials: list[str], template: str | None, answer: str
) -> LocalModel:
    """A LocalModel that reads bytes and `specials`, and answers `answer`, in which special tokens
    are written out.
    """
    letters = pre_tokenizers.ByteLevel.alphabet()
    vocab = {letter: i for i, letter in enumerate(sorted(letters))}
    library = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens([AddedToken(name, special=True) for name in specials])
    library.save(str(folder / "tokenizer.json"))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    tokenizer = load_tokenizer(folder)
    model = object.__new__(LocalModel)
    model.name = "scripted"
    model.tokenizer = tokenizer
    model.report = SimpleNamespace(generation_config={})  # type: ignore[assignment]
    model.eos_ids = tokenizer.eos_ids
    ids = tokenizer.encode(answer, allow_special=True)
    model.engine = ScriptedEngine(ids, tokenizer.eos_ids)  # type: ignore[assignment]
    model.max_model_len = ScriptedEngine.max_model_len
    model.last_stats = None
    model.adapters, model.adapter = {}, None
    model._outputs = {}
    return model
