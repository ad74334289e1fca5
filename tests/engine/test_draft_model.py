"""The draft model's own cache: it follows the accepted tokens, and takes over known prefixes."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Rows
from dataclasses import replace
from typing import Any

import pytest
from tiny_engine import greedy_without_cache, near_llama, run, tiny_llama

from bobot.engine import Engine, EngineConfig, SamplingParams
from bobot.engine.config import choose_num_blocks
from bobot.engine.draft_model import DraftModel
from bobot.engine.engine import _num_blocks
from bobot.engine.kv_cache import bytes_per_token
from bobot.engine.request import Chunk, Sequence
from bobot.models.llama import Llama

GREEDY = SamplingParams(temperature=0.0, max_tokens=24)


class Watch:
    """Notes how many tokens the draft model computes, and how many of them in one step."""

    def __init__(self, engine: Engine) -> None:
        drafter = engine.speculation.drafter
        assert isinstance(drafter, DraftModel)
        self.drafter = drafter
        self.steps: list[int] = []
        plain_run = drafter.runner.run

        def run(chunks: Rows[Chunk]) -> Any:
            self.steps.append(sum(chunk.num_rows for chunk in chunks))
            return plain_run(chunks)

        drafter.runner.run = run


@pytest.fixture
def engine(model: Llama) -> Engine:
    """The draft model is the model itself: whatever it drafts, computed rightly, is accepted."""
    config = EngineConfig(max_num_batched_tokens=16, max_num_seqs=4, block_size=4, num_blocks=64)
    return Engine(model, config, draft_model=model)


def all_right(engine: Engine) -> bool:
    stats = engine.stats()
    return stats.num_accepted_tokens == stats.num_drafted_tokens > 0


def test_a_prompt_is_computed_once_in_chunks_and_each_token_once(engine: Engine) -> None:
    watch = Watch(engine)
    prompt = list(range(50))
    engine.add(prompt, GREEDY)
    run(engine)
    assert all_right(engine)
    assert max(watch.steps) <= 16
    assert 73 - 2 <= sum(watch.steps) <= 73, "50 + 24 tokens, of which the last is never computed"


def test_a_known_prefix_is_not_computed_again(engine: Engine, model: Llama) -> None:
    watch = Watch(engine)
    prompt = list(range(40))
    first = engine.add(prompt, GREEDY)
    answer = run(engine).tokens[first, 0]
    watch.steps.clear()
    second = engine.add([*prompt, *answer, 1, 2], GREEDY)
    output = run(engine).last[second, 0]
    assert all_right(engine), "the cache it took over must be the true one"
    assert output.num_cached_tokens == 60
    new = 66 + 24 - 60
    assert sum(watch.steps) <= new + 24, "it remembers no more than a last run of drafts less"


def test_blocks_that_others_took_are_computed_again(engine: Engine) -> None:
    """Between two equal requests nearly the whole pool goes to others."""
    watch = Watch(engine)
    engine.add(list(range(40)), GREEDY)
    run(engine)
    for start in (3, 7):
        engine.add([i % 61 for i in range(start, start + 100)], GREEDY)
    run(engine)
    watch.steps.clear()
    engine.add(list(range(40)), GREEDY)
    run(engine)
    assert all_right(engine)
    assert sum(watch.steps) >= 50, "next to nothing was left to take over"


def test_requests_beside_each_other_keep_their_own_tokens(engine: Engine, model: Llama) -> None:
    prompts = [[1, 2, 3], list(range(30)), [5] * 9, [*range(30), 7]]
    ids = [engine.add(prompt, GREEDY) for prompt in prompts]
    answers = run(engine)
    assert all_right(engine)
    for request_id, prompt in zip(ids, prompts, strict=True):
        assert answers.tokens[request_id, 0] == greedy_without_cache(model, prompt, 24)


def test_drafts_end_where_the_draft_models_context_ends(model: Llama) -> None:
    short = tiny_llama()
    short.config = replace(short.config, max_position_embeddings=40)
    engine = Engine(model, EngineConfig(num_blocks=32), draft_model=short)
    watch = Watch(engine)
    engine.add(list(range(30)), SamplingParams(temperature=0.0, max_tokens=40))
    answers = run(engine)
    assert answers.tokens[0, 0] == greedy_without_cache(model, list(range(30)), 40)
    assert all_right(engine)
    assert sum(watch.steps) <= 40


def test_a_draft_model_whose_logits_are_not_finite_drafts_nothing(model: Llama) -> None:
    broken = tiny_llama()
    broken.model.norm.weight.fill_(float("nan"))
    engine = Engine(model, EngineConfig(num_blocks=32), draft_model=broken)
    engine.add([1, 2, 3], GREEDY)
    assert run(engine).tokens[0, 0] == greedy_without_cache(model, [1, 2, 3], 24)
    assert engine.stats().num_drafted_tokens == 0


def test_the_pool_counts_the_bytes_of_both_caches(model: Llama, monkeypatch) -> None:
    small, one = tiny_llama(num_key_value_heads=1), EngineConfig(block_size=4)
    seen = []
    monkeypatch.setattr(
        "bobot.engine.engine.choose_num_blocks",
        lambda *args: seen.append(args[2]) or choose_num_blocks(*args),
    )
    dtype = next(model.parameters()).dtype
    _num_blocks([model, small], one, 128)
    assert seen == [sum(bytes_per_token(m.kv_specs(), dtype) for m in (model, small))]


def test_drafts_are_those_of_the_draft_model_alone(model: Llama) -> None:
    """Many of them are wrong, so that its cache must be corrected again and again."""
    near = near_llama()
    config = EngineConfig(max_num_batched_tokens=16, max_num_seqs=4, block_size=4, num_blocks=30)
    engine = Engine(model, config, draft_model=near)
    plain_draft = engine.speculation.drafter.draft  # type: ignore[union-attr]
    num_compared = 0

    def draft(limits: Mapping[Sequence, int]) -> dict[Sequence, tuple[int, ...]]:
        nonlocal num_compared
        drafts = plain_draft(limits)
        for sequence, ids in drafts.items():
            assert list(ids) == greedy_without_cache(near, sequence.token_ids, len(ids))
            num_compared += len(ids)
        for trust in engine.speculation._trust.values():
            trust.pause = 0
        return drafts  # type: ignore[return-value]

    engine.speculation.drafter.draft = draft  # type: ignore[method-assign, union-attr]
    for prompt in [[1, 2, 3], list(range(30)), [5] * 9, [*range(30), 7]]:
        engine.add(prompt, SamplingParams(temperature=0.0, max_tokens=60))
    run(engine)
    stats = engine.stats()
    assert num_compared == stats.num_drafted_tokens > 100, stats
    assert 30 < stats.num_accepted_tokens < stats.num_drafted_tokens - 30, stats
    assert stats.num_preemptions, stats


def test_a_block_that_was_partly_overwritten_is_not_known(model: Llama) -> None:
    """The second request shares four blocks with the first and overwrites the fifth."""
    config = EngineConfig(block_size=4, num_blocks=64, enable_prefix_caching=False)
    engine = Engine(model, config, draft_model=model)
    for prompt, max_tokens in ((list(range(40)), 9), ([*range(17), 60, 60], 3)):
        engine.add(prompt, SamplingParams(temperature=0.0, max_tokens=max_tokens))
        run(engine)
    watch = Watch(engine)
    engine.add(list(range(40)), GREEDY)
    run(engine)
    assert watch.steps[0] == 41 - 16, "four blocks are known"
    assert all_right(engine)
