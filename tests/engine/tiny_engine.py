"""Tiny Llamas with random weights, and the plain generation the engine is held against."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from bobot.engine import Engine, TokenOutput
from bobot.layers.context import PackedAttention
from bobot.models.llama import Llama, LlamaConfig


def tiny_llama(sliding_window: int | None = None, num_key_value_heads: int = 2) -> Llama:
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=num_key_value_heads,
        head_dim=8,
        max_position_embeddings=128,
        sliding_window=sliding_window,
    )
    model = Llama(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(std=0.3)
    return model


def near_llama() -> Llama:
    """A model that agrees with `tiny_llama()` about as often as not."""
    model = tiny_llama()
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.02)
    return model


def greedy_without_cache(model: Llama, prompt: list[int], num_tokens: int) -> list[int]:
    """The definition: the whole sequence through packed attention for each token."""
    ids = list(prompt)
    for _ in range(num_tokens):
        ids_T = torch.tensor(ids)
        hidden_TD = model(ids_T, torch.arange(len(ids)), PackedAttention([0]))
        ids.append(int(model.logits(hidden_TD[-1:]).argmax()))
    return ids[len(prompt) :]


@dataclass
class Answers:
    """All outputs of a run, by (request id, index)."""

    tokens: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    last: dict[tuple[int, int], TokenOutput] = field(default_factory=dict)

    def add(self, outputs: Iterable[TokenOutput]) -> None:
        for output in outputs:
            key = (output.request_id, output.index)
            if output.token_id is not None:
                self.tokens.setdefault(key, []).append(output.token_id)
            self.last[key] = output


def run(engine: Engine, max_steps: int = 2000) -> Answers:
    answers = Answers()
    for _ in range(max_steps):
        if not engine.has_unfinished():
            return answers
        answers.add(engine.step())
    raise AssertionError(f"unfinished after {max_steps} steps: {engine.stats()}")
