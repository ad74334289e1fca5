"""A step in one C++ call, its many rows multiplied by AMX or by AMX in plain C++: as near to
the model in float32 as bfloat16 is, and unchanged for few rows.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_decoders import (
    FAMILIES,
    by_decoder,
    by_module,
    filled,
    in_dtype,
)

import bobot
from bobot import kernels
from bobot.engine import Engine, EngineConfig, SamplingParams, TokenOutput

LEVELS = [
    *(["amx"] if kernels.available and kernels.features().get("amx") else []),
    *([kernels.EMULATED_AMX] if kernels.available and kernels.can_emulate_amx() else []),
]
SEQUENCES = [[*range(1, 31)], [7, 7, 3], [*range(40, 10, -2)]]


def errors(found_TV: torch.Tensor, exact_TV: torch.Tensor) -> torch.Tensor:
    """Of each token's logits, in standard deviations of all."""
    return (found_TV - exact_TV).square().mean(-1).sqrt() / exact_TV.std()


EACH_LEVEL = pytest.mark.parametrize("isa", LEVELS)
pytestmark = pytest.mark.skipif(not LEVELS, reason="neither AMX nor what its emulation needs")


@EACH_LEVEL
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_many_rows_come_nearer_to_float32_than_the_model_in_bfloat16(
    isa: str, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = in_dtype(filled(FAMILIES[family](), "Q8_0", is_tiled=True), torch.bfloat16)
    monkeypatch.setenv("BOBOT_ISA", isa)
    found = torch.cat(by_decoder(made, SEQUENCES))
    few = 1 if family == "deepseek_v3" else 2  # tokens: at most 8 rows of a head of the cache
    few_rows = torch.cat(by_decoder(made, SEQUENCES, most=few))
    monkeypatch.setenv("BOBOT_ISA", "avx512vnni")
    assert torch.equal(few_rows, torch.cat(by_decoder(made, SEQUENCES, most=few)))
    assert not torch.equal(found, torch.cat(by_decoder(made, SEQUENCES)))
    in_bfloat16 = torch.cat(by_module(made, SEQUENCES))
    exact = torch.cat(by_module(in_dtype(made, torch.float32), SEQUENCES))
    for share in (0.5, 0.9):
        error, usual = (float(errors(x, exact).quantile(share)) for x in (found, in_bfloat16))
        assert error <= usual, f"error {error:.1e}, of the model in bfloat16 {usual:.1e}"


QUESTIONS = [
    "How do I download a model?",
    "Tell me a story about a small fox who finds a lamp in the forest. " * 8,
]


@EACH_LEVEL
@pytest.mark.parametrize("speculation", ["off", "ngram"])
def test_the_embedded_model_in_bfloat16_answers_the_same(
    isa: str, speculation: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts of 20 and 147 tokens by the unit, weights and attention, the tokens behind them not:
    the answers are those of AVX-512 and, in float32, of plain C++.
    """
    answers: dict[str, list[list[int | None]]] = {}
    for each, dtype in ((isa, "bfloat16"), ("avx512vnni", "bfloat16"), ("portable", "float32")):
        monkeypatch.setenv("BOBOT_ISA", each)
        model = bobot.load(dtype=dtype, engine_config=EngineConfig(speculation=speculation))
        for question in QUESTIONS:
            assert model.tokenizer is not None
            ids = list(model.tokenizer.encode_chat([{"role": "user", "content": question}]))
            model.engine.add(ids, SamplingParams(max_tokens=40, temperature=0))
            outputs: list[TokenOutput] = []
            while model.engine.has_unfinished():
                outputs += model.engine.step()
            assert len(outputs) > 10
            answers.setdefault(each, []).append([output.token_id for output in outputs])
    assert answers[isa] == answers["avx512vnni"] == answers["portable"]


class Repeats:
    """Drafts one token, which a model that always chooses it accepts."""

    def draft(self, limits: Any) -> dict[Any, tuple[int, ...]]:
        return {sequence: (7,) * limit for sequence, limit in limits.items()}

    def forget(self, sequence: Any) -> None:
        pass


@EACH_LEVEL
def test_drafts_do_not_take_a_step_to_the_unit(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose products are rounded otherwise: it would change logits by 8e-3. What is left comes from
    attention, where more than 8 rows of a key head are summed in another order: now and then a
    weight is rounded up instead of down.
    """
    monkeypatch.setenv("BOBOT_ISA", isa)
    made = in_dtype(filled(FAMILIES["llama"](), "Q8_0", is_tiled=True), torch.bfloat16)

    def logprobs(has_drafts: bool) -> torch.Tensor:
        engine = Engine(made, EngineConfig(speculation="ngram" if has_drafts else "off"))
        engine.speculation.drafter = Repeats() if has_drafts else None
        engine.add(
            [1, 2, 3],
            SamplingParams(
                max_tokens=60, temperature=0, ignore_eos=True, logprobs=2, logit_bias={7: 9.0}
            ),
        )
        outputs: list[TokenOutput] = []
        while engine.has_unfinished():
            outputs += engine.step()
        assert [output.token_id for output in outputs] == [7] * 60
        if has_drafts:
            assert engine.stats().num_accepted_tokens > 40
        return torch.tensor(
            [output.top_logprobs[1][1] for output in outputs if output.top_logprobs]
        )

    plain = logprobs(False)
    within_few_rows = float((logprobs(True) - plain).abs().max())
    monkeypatch.setattr(kernels, "max_rows_alike", lambda: None)
    in_many_rows = float((logprobs(True) - plain).abs().max())
    assert within_few_rows <= 4e-4 < 4e-3 < in_many_rows, (
        f"{within_few_rows:.1e}, {in_many_rows:.1e}"
    )
