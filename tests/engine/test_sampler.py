"""The sampler inside the engine: log-probabilities, penalties and bias reach the tokens."""

from __future__ import annotations

import pytest
import torch
from tiny_engine import greedy_without_cache, run

from bobot.engine import Engine, EngineConfig, SamplingParams
from bobot.engine.request import Chunk, Request
from bobot.engine.sampler import choose
from bobot.layers.context import PackedAttention
from bobot.models.llama import Llama


def generate(model: Llama, params: SamplingParams) -> list[int]:
    engine = Engine(model, EngineConfig(num_blocks=16))
    engine.add([1, 2, 3], params)
    return run(engine).tokens[0, 0]


def choose_each(logits_RV: torch.Tensor, requests: list[Request]) -> list[int | None]:
    """One token for each request, which has nothing drafted."""
    chunks = [Chunk(request.sequences[0], 1) for request in requests]
    return [choice.token_id for (choice,) in choose(logits_RV, chunks)]


def test_logprobs_are_those_of_the_model_before_any_change(model: Llama) -> None:
    prompt = [1, 2, 3]
    params = SamplingParams(
        max_tokens=1, temperature=0.3, seed=1, logprobs=4, top_k=3, logit_bias={7: 50.0}
    )
    engine = Engine(model, EngineConfig(num_blocks=16))
    engine.add(prompt, params)
    (output,) = engine.step()
    hidden_TD = model(torch.tensor(prompt), torch.arange(3), PackedAttention([0]))
    expected = model.logits(hidden_TD[-1:])[0].log_softmax(-1)
    assert output.token_id == 7
    assert output.logprob == pytest.approx(expected[7].item(), abs=1e-5)
    values, ids = expected.topk(4)
    assert output.top_logprobs is not None
    assert [token_id for token_id, _ in output.top_logprobs] == ids.tolist()
    assert [p for _, p in output.top_logprobs] == pytest.approx(values.tolist(), abs=1e-5)


@pytest.mark.parametrize("temperature", [0.0, 0.4])
def test_drawn_logprobs_are_those_after_penalties_and_filters(
    model: Llama, temperature: float
) -> None:
    """The kept tokens alone, their probabilities summing to 1; counted here by hand."""
    bias = {7: 3.0, 9: -2.0}
    params = SamplingParams(
        max_tokens=1, temperature=temperature, seed=1, logprobs=8, drawn_logprobs=True,
        top_k=3, logit_bias=bias,
    )  # fmt: skip
    engine = Engine(model, EngineConfig(num_blocks=16))
    engine.add([1, 2, 3], params)
    (output,) = engine.step()
    scores_V = model.logits(model(torch.tensor([1, 2, 3]), torch.arange(3), PackedAttention([0])))[
        -1
    ].clone()
    for token_id, value in bias.items():
        scores_V[token_id] += value
    values, ids = scores_V.topk(3 if temperature else 1)
    expected = (values / (temperature or 1)).log_softmax(-1).tolist()
    assert output.top_logprobs is not None
    assert [token_id for token_id, _ in output.top_logprobs] == ids.tolist()
    assert [p for _, p in output.top_logprobs] == pytest.approx(expected, abs=1e-4)
    assert output.logprob == pytest.approx(dict(output.top_logprobs)[output.token_id], abs=1e-6)


def test_zero_logprobs_gives_the_chosen_one_and_none_gives_nothing(model: Llama) -> None:
    for logprobs, expected in ((0, ()), (None, None)):
        engine = Engine(model, EngineConfig(num_blocks=16))
        engine.add([1], SamplingParams(max_tokens=1, logprobs=logprobs))
        (output,) = engine.step()
        assert output.top_logprobs == expected
        assert (output.logprob is None) == (logprobs is None)


def test_a_ban_holds_for_greedy_and_for_sampling(model: Llama) -> None:
    banned = greedy_without_cache(model, [1, 2, 3], 1)[0]
    for temperature in (0.0, 1.0):
        params = SamplingParams(
            max_tokens=40, temperature=temperature, seed=2, logit_bias={banned: -100.0}
        )
        assert banned not in generate(model, params)


def test_a_frequency_penalty_spreads_the_tokens(model: Llama) -> None:
    plain = generate(model, SamplingParams(max_tokens=60, temperature=0.0))
    spread = generate(model, SamplingParams(max_tokens=60, temperature=0.0, frequency_penalty=2.0))
    assert len(set(spread)) > len(set(plain)), (len(set(spread)), len(set(plain)))


def test_greedy_ties_go_to_the_lowest_id() -> None:
    logits_RV = torch.tensor([[0.0, 2.0, 1.0, 2.0], [3.0, 3.0, 3.0, 3.0]])
    params = SamplingParams(temperature=0.0)
    requests = [Request(i, [0], params, seed=1, max_len=9) for i in range(2)]
    assert choose_each(logits_RV, requests) == [1, 0]


def test_a_row_gets_the_same_token_wherever_it_stands_in_the_batch() -> None:
    torch.manual_seed(0)
    logits_RV = torch.randn(6, 50)
    params = SamplingParams(temperature=0.8, top_p=0.95, min_p=0.01)
    requests = [Request(i, [0], params, seed=i, max_len=9) for i in range(6)]
    together = choose_each(logits_RV, requests)
    order = [4, 2, 0, 5, 1, 3]
    shuffled = choose_each(logits_RV[order], [requests[i] for i in order])
    assert shuffled == [together[i] for i in order]
    single = [choose_each(logits_RV[i : i + 1], [requests[i]])[0] for i in range(6)]
    assert single == together


def test_the_key_of_a_token_comes_from_seed_index_and_position_only() -> None:
    def key(seed: int, index: int, num_tokens: int) -> int:
        request = Request(7, [3] * num_tokens, SamplingParams(n=3), seed=seed, max_len=99)
        return request.sequences[index].token_key(num_tokens)

    cases = [(1, 0, 4), (1, 1, 4), (1, 0, 5), (2, 0, 4), (-1, 0, 4), (11, 0, 4), (1, 2, 4)]
    assert len({key(*case) for case in cases}) == len(cases)
    assert key(1, 0, 4) == 297926159907385056, "seeded texts changed"
