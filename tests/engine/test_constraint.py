"""Constraints by ids: the tokens are those of plain decoding under the same masks, whoever drafts,
whoever runs beside, and whatever is preempted.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tiny_engine import run, tiny_llama
from torch import Tensor

from bobot.engine import Engine, EngineConfig, SamplingParams
from bobot.errors import RequestError
from bobot.layers.context import PackedAttention
from bobot.models.llama import Llama

V = 61
ROOMY: dict[str, Any] = {"max_num_seqs": 4, "block_size": 4, "num_blocks": 128}


def allowed(ids: Sequence[int]) -> set[int]:
    """What may follow `ids` under this test's rule: tokens of one of three classes, by the last
    token, so that texts repeat and drafts are often wrong. After a 7 only 8 may come, then 9.
    """
    last = ids[-1] if ids else 0
    if last in (7, 8):
        return {last + 1}
    return {token_id for token_id in range(60) if token_id % 3 == (last + len(ids) // 8) % 3}


class Rule:
    """`allowed`, as a Constraint."""

    def __init__(self, ids: tuple[int, ...] = (), *, forces: bool = True) -> None:
        self.ids = ids
        self.forces = forces
        self.threads: set[str] = set()

    def fork(self) -> Rule:
        return Rule(self.ids, forces=self.forces)

    def drafts(self, draft_ids: Sequence[int], most: int) -> tuple[int, ...]:
        draft: list[int] = []
        for token_id in draft_ids:
            if token_id not in allowed([*self.ids, *draft]) or len(draft) == most:
                break
            draft.append(token_id)
        while self.forces and len(draft) < most:
            may = allowed([*self.ids, *draft])
            if len(may) > 1:
                break
            draft += may
        return tuple(draft)

    def masks(self, draft_ids: Sequence[int]) -> list[bytes]:
        self.threads.add(threading.current_thread().name)
        found = []
        for size in range(len(draft_ids) + 1):
            may = allowed([*self.ids, *draft_ids[:size]])
            bits = [sum(1 << i for i in range(8) if 8 * byte + i in may) for byte in range(8)]
            found.append(bytes(bits))
        return found

    def accept(self, token_id: int) -> None:
        assert token_id in allowed(self.ids)
        self.ids += (token_id,)


def masked_greedy(model: Llama, prompt: list[int], num_tokens: int) -> list[int]:
    """The definition: the whole sequence through packed attention, the best token allowed."""
    ids = list(prompt)
    for _ in range(num_tokens):
        ids_T = torch.tensor(ids)
        hidden_TD = model(ids_T, torch.arange(len(ids)), PackedAttention([0]))
        logits_V = model.logits(hidden_TD[-1:])[0]
        may = torch.zeros(V, dtype=torch.bool)
        may[list(allowed(ids[len(prompt) :]))] = True
        ids.append(int(logits_V.masked_fill(~may, float("-inf")).argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("speculation", ["ngram", "off"])
@pytest.mark.parametrize("changes", [{}, {"num_blocks": 24}, {"max_num_batched_tokens": 5}])
def test_greedy_tokens_are_those_under_the_masks(
    model: Llama, changes: dict[str, Any], speculation: Any
) -> None:
    prompts = [[5, 6, 7, 8], [9] * 13, [1, 2], [40, 3, 40, 3, 40, 3, 40]]
    engine = Engine(model, EngineConfig(**ROOMY | changes, speculation=speculation))
    params = SamplingParams(max_tokens=30, temperature=0.0)
    ids = [engine.add(prompt, params, constraint=Rule()) for prompt in prompts]
    answers = run(engine)
    for request_id, prompt in zip(ids, prompts, strict=True):
        assert answers.tokens[request_id, 0] == masked_greedy(model, prompt, 30), prompt
    if "num_blocks" in changes:
        assert engine.stats().num_preemptions > 0


def test_drafts_of_a_constrained_sequence_come_true_and_forced_ones_always(model: Llama) -> None:
    """A rule that leaves one choice needs few steps, though nothing repeats."""

    class Counting(Rule):
        def fork(self) -> Counting:
            return Counting(self.ids)

        def drafts(self, draft_ids: Sequence[int], most: int) -> tuple[int, ...]:
            return tuple(range(len(self.ids), len(self.ids) + most))

        def masks(self, draft_ids: Sequence[int]) -> list[bytes]:
            first = len(self.ids)
            return [
                (1 << n).to_bytes(8, "little") for n in range(first, first + len(draft_ids) + 1)
            ]

        def accept(self, token_id: int) -> None:
            self.ids += (token_id,)

    engine = Engine(model, EngineConfig(**ROOMY))
    request_id = engine.add([3], SamplingParams(max_tokens=40), constraint=Counting())
    assert run(engine).tokens[request_id, 0] == list(range(40))
    stats = engine.stats()
    assert stats.num_drafted_tokens == stats.num_accepted_tokens > 30
    assert stats.num_steps < 10


@pytest.mark.parametrize("speculation", ["ngram", "off"])
def test_sampled_answers_keep_the_rule_and_repeat_beside_others(
    model: Llama, speculation: Any
) -> None:
    params = SamplingParams(max_tokens=24, seed=5, n=3, temperature=1.3, top_p=0.95)
    alone = Engine(model, EngineConfig(**ROOMY, speculation=speculation))
    first = alone.add([4, 4, 4], params, constraint=Rule())
    expected = run(alone).tokens
    assert len({tuple(expected[first, index]) for index in range(3)}) == 3
    for index in range(3):
        ids = expected[first, index]
        assert all(token_id in allowed(ids[:at]) for at, token_id in enumerate(ids))
    busy = Engine(model, EngineConfig(**ROOMY | {"num_blocks": 40}, speculation=speculation))
    free = busy.add([7, 7], SamplingParams(max_tokens=24, seed=1))
    second = busy.add([4, 4, 4], params, constraint=Rule())
    answers = run(busy).tokens
    assert [answers[second, i] for i in range(3)] == [expected[first, i] for i in range(3)]
    plain = Engine(model, EngineConfig(**ROOMY))
    lone = plain.add([7, 7], SamplingParams(max_tokens=24, seed=1))
    assert answers[free, 0] == run(plain).tokens[lone, 0]


def test_penalties_bias_and_logprobs_work_under_a_mask(model: Llama) -> None:
    engine = Engine(model, EngineConfig(**ROOMY))
    params = SamplingParams(
        max_tokens=20, temperature=0.0, frequency_penalty=1.5, logit_bias={0: 100.0}, logprobs=5
    )
    request_id = engine.add([2, 3], params, constraint=Rule())
    outputs = []
    while engine.has_unfinished():
        outputs += engine.step()
    ids = [output.token_id for output in outputs]
    assert all(token_id in allowed(ids[:at]) for at, token_id in enumerate(ids))
    assert ids[0] == 0 and outputs[0].request_id == request_id
    logits_TV = model.logits(model(torch.tensor([2, 3]), torch.arange(2), PackedAttention()))
    assert outputs[0].logprob == pytest.approx(float(logits_TV[-1].log_softmax(-1)[0]), abs=1e-5)


def test_masks_are_computed_while_the_model_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model waits for the mask: one after the other, neither would end."""
    model = tiny_llama()
    asked = threading.Event()

    class Telling(Rule):
        def fork(self) -> Telling:
            return self

        def masks(self, draft_ids: Sequence[int]) -> list[bytes]:
            asked.set()
            return super().masks(draft_ids)

    real = model.forward

    def forward(*args: Any) -> Tensor:
        assert asked.wait(20), "no mask was asked for while the model ran"
        return real(*args)

    monkeypatch.setattr(model, "forward", forward)
    engine = Engine(model, EngineConfig(**ROOMY))
    engine.runner.fused = None
    rule = Telling()
    request_id = engine.add([1, 2], SamplingParams(max_tokens=3), constraint=rule)
    assert len(run(engine).tokens[request_id, 0]) == 3
    assert threading.current_thread().name not in rule.threads


@pytest.mark.parametrize("kind", ["refused", "empty"])
def test_a_sequence_that_cannot_go_on_ends_with_the_reason(model: Llama, kind: str) -> None:
    class Ending(Rule):
        def fork(self) -> Ending:
            return Ending(self.ids)

        def masks(self, draft_ids: Sequence[int]) -> list[bytes]:
            if len(self.ids) < 4:
                return super().masks(draft_ids)
            if kind == "refused":
                raise RequestError("The grammar is at its end.")
            return [bytes(8)] * (1 + len(draft_ids))

    engine = Engine(model, EngineConfig(**ROOMY))
    bad = engine.add([1, 2], SamplingParams(max_tokens=9), constraint=Ending())
    good = engine.add([1, 2], SamplingParams(max_tokens=9), constraint=Rule())
    answers = run(engine)
    assert answers.last[bad, 0].finish_reason == "error"
    reason = "grammar is at its end" if kind == "refused" else "No token of the vocabulary"
    assert reason in str(answers.last[bad, 0].error)
    assert answers.last[good, 0].finish_reason == "length"
    assert engine.stats().num_free_blocks == 128


def test_a_step_that_fails_leaves_the_constraint_where_it_was(
    model: Llama, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = SamplingParams(max_tokens=12, temperature=0.0)
    engine = Engine(model, EngineConfig(**ROOMY))
    request_id = engine.add([5, 6, 7], params, constraint=Rule())
    real, calls = engine.runner.run, []

    def failing(chunks: Any) -> Any:
        calls.append(chunks)
        if len(calls) % 2:
            raise MemoryError("now and then")
        return real(chunks)

    monkeypatch.setattr(engine.runner, "run", failing)
    tokens = []
    while engine.has_unfinished():
        try:
            tokens += [output.token_id for output in engine.step()]
        except MemoryError:
            continue
    assert request_id == 0 and tokens == masked_greedy(model, [5, 6, 7], 12)
