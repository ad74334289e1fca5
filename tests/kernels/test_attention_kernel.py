"""The attention kernel against the definition in double precision, with every instruction set.

Keys lie in scattered blocks of a cache that is NaN everywhere else, so that reading a slot that is
no key's, or a key that nobody may see, shows.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from bobot import kernels
from bobot.ops.attention import AttentionSpec, attention_reference
from bobot.ops.span_attention import Span, SpanAttention

pytestmark = pytest.mark.skipif(not kernels.available, reason="the extension is not built")

ISAS = [name for name, usable in kernels.features().items() if usable] if kernels.available else []
ISAS += [kernels.EMULATED_AMX] if kernels.available and kernels.can_emulate_amx() else []
ISAS_OF_BFLOAT16 = ("avx512vnni", "amx", kernels.EMULATED_AMX)
"""Beside a cache of bfloat16 they multiply bfloat16."""
EACH_ISA = pytest.mark.parametrize("isa", ISAS)
ROUNDING = {torch.float32: 0.0, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
"""Half the distance of neighbouring numbers, relative to their size."""


WEIGHT_ERROR = 2.0**-8 + 1e-4
"""Relative, of a weight in bfloat16: its rounding and the exponential's."""


@dataclass(frozen=True)
class Case:
    """Sequences of (first position, number of queries) side by side."""

    spec: AttentionSpec
    spans: tuple[tuple[int, int], ...] = ((0, 1),)
    block_size: int = 16
    q_dtype: torch.dtype = torch.float32
    kv_dtype: torch.dtype = torch.float32
    has_sinks: bool = False
    has_hidden: bool = False
    num_threads: int = 2
    size: float = 1.0
    """Of queries and keys: large ones give one key all the weight."""
    are_powers: bool = False
    """Queries and keys are few integers and the scale is ln 2: weights are powers of two."""


def shape(heads: int, kv_heads: int, head_dim: int, v_head_dim: int, **rules: Any) -> AttentionSpec:
    return AttentionSpec(
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        v_head_dim=v_head_dim,
        scale=head_dim**-0.5,
        **rules,
    )


def error(case: Case, isa: str, seed: int = 0) -> float:
    """Largest difference from the definition, beyond the rounding of the output itself and, beside
    a cache of bfloat16 on AVX-512 and AMX, of queries and weights.
    """
    generator = torch.manual_seed(seed)
    spec = case.spec
    lengths = [first + count for first, count in case.spans]
    num_blocks = [-(-length // case.block_size) for length in lengths]
    order = torch.randperm(sum(num_blocks) + 2, generator=generator) * case.block_size
    num_slots = len(order) * case.block_size
    keys = torch.full((num_slots, spec.num_kv_heads, spec.head_dim), torch.nan)
    values = torch.full((num_slots, spec.num_kv_heads, spec.v_head_dim), torch.nan)
    hidden = torch.ones(num_slots, dtype=torch.bool)
    slots = []
    for number, length in enumerate(lengths):
        first = sum(num_blocks[:number])
        starts = order[first : first + num_blocks[number]]
        inside = torch.arange(case.block_size)
        slots.append((starts[:, None] + inside).flatten()[:length])
        keys[slots[-1]] = torch.randn(length, *keys.shape[1:], generator=generator) * case.size
        values[slots[-1]] = torch.randn(length, *values.shape[1:], generator=generator)
        hidden[slots[-1]] = torch.rand(length, generator=generator) < 0.3
        hidden[slots[-1][0]] = True  # with a window of 1 a query may see no key at all
    num_queries = sum(count for _, count in case.spans)
    q = torch.randn(num_queries, spec.num_heads, spec.head_dim, generator=generator) * case.size
    if case.are_powers:
        keys = keys.clamp(-2, 2).round()
        q = q.sign() * (torch.rand(q.shape, generator=generator) < 9 / spec.head_dim)
    keys, values, q = keys.to(case.kv_dtype), values.to(case.kv_dtype), q.to(case.q_dtype)
    if spec.v_is_k_prefix:
        values = keys[..., : spec.v_head_dim]
    sinks = torch.randn(spec.num_heads, generator=generator) if case.has_sinks else None
    out = torch.full((num_queries, spec.num_heads, spec.v_head_dim), torch.nan).to(case.q_dtype)
    rows, row = [], 0
    for number, (first, count) in enumerate(case.spans):
        rows.append((row, count, first, sum(num_blocks[:number])))
        row += count
    plan(case, rows, order).run(
        q, keys, values, out, spec.scale, spec.logit_softcap or 0.0, sinks,
        hidden if case.has_hidden else None, isa,
    )  # fmt: skip
    worst = 0.0
    for (start, count, first, _), own in zip(rows, slots, strict=True):
        unseen = 0 if spec.sliding_window is None else max(0, first + 1 - spec.sliding_window)
        seen = own[unseen:]
        expected, slack = attention_in_double(
            q[start : start + count],
            keys[seen],
            values[seen],
            spec,
            first - unseen,
            sinks,
            hidden[seen] if case.has_hidden else None,
        )
        difference = (out[start : start + count].double() - expected).abs()
        allowed = expected.abs() * ROUNDING[case.q_dtype]
        is_rounded = case.kv_dtype == torch.bfloat16 and not case.are_powers
        if is_rounded and isa in ISAS_OF_BFLOAT16:
            allowed += slack * (1 + ROUNDING[case.q_dtype])
        worst = max(worst, torch.nan_to_num(difference - allowed, nan=9e9).max().item())
    return worst


def plan(case: Case, rows: list[tuple[int, ...]], block_starts: Tensor) -> Any:
    spec = case.spec
    return kernels.attention_plan(
        torch.tensor(rows),
        block_starts,
        case.block_size,
        num_heads=spec.num_heads,
        num_kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        v_head_dim=spec.v_head_dim,
        window=spec.sliding_window or 0,
        num_threads=case.num_threads,
    )


def attention_in_double(
    q_TNH: Tensor,
    k_SKH: Tensor,
    v_SKV: Tensor,
    spec: AttentionSpec,
    first_query: int,
    sinks_N: Tensor | None,
    hidden_S: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The definition of ops/attention.py, head by head, in float64, and how far from it the result
    may lie where queries and weights are rounded to bfloat16.

    A weight w becomes w (1 + e): |e| is WEIGHT_ERROR and what an error of its score makes of it,
    which is 2^-8 of each product of a rounded query. The result sum(w v) / sum(w) moves by
    sum(w e (v - result)) / sum(w (1 + e)).
    """
    positions_T1 = torch.arange(first_query, first_query + len(q_TNH))[:, None]
    keys_S = torch.arange(len(k_SKH))
    is_seen_TS = keys_S <= positions_T1
    if spec.sliding_window is not None:
        is_seen_TS &= keys_S > positions_T1 - spec.sliding_window
    outputs, slacks = [], []
    for head in range(spec.num_heads):
        kv_head = head // (spec.num_heads // spec.num_kv_heads)
        scores_TS = q_TNH[:, head].double() @ k_SKH[:, kv_head].double().T * spec.scale
        if spec.logit_softcap is not None:
            scores_TS = spec.logit_softcap * torch.tanh(scores_TS / spec.logit_softcap)
        if hidden_S is not None:
            scores_TS = scores_TS.masked_fill(hidden_S, torch.finfo(torch.float32).min)
        scores_TS = scores_TS.masked_fill(~is_seen_TS, float("-inf"))
        if sinks_N is not None:
            sink_T1 = sinks_N[head].double().expand(len(q_TNH), 1)
            scores_TS = torch.cat((scores_TS, sink_T1), dim=-1)
        weights_TS = scores_TS.softmax(-1)[:, : len(k_SKH)]
        outputs.append(weights_TS @ v_SKV[:, kv_head].double())
        errors_TS = torch.full_like(weights_TS, WEIGHT_ERROR)
        if q_TNH.dtype != torch.bfloat16:
            sizes_TS = q_TNH[:, head].double().abs() @ k_SKH[:, kv_head].double().abs().T
            errors_TS += torch.expm1(sizes_TS * spec.scale * ROUNDING[torch.bfloat16])
        moved_TS = weights_TS * errors_TS
        all_T1 = moved_TS.sum(-1, keepdim=True)
        slack_TV = moved_TS @ v_SKV[:, kv_head].double().abs() + all_T1 * outputs[-1].abs()
        slacks.append(slack_TV / (1 - all_T1).clamp(min=0.1))
    return torch.stack(outputs, dim=1), torch.stack(slacks, dim=1)


CASES = {
    "one key": Case(shape(4, 2, 16, 16)),
    "decode": Case(shape(8, 2, 64, 64), ((700, 1),), kv_dtype=torch.bfloat16),
    "decode of many": Case(shape(8, 8, 32, 32), ((40, 1), (0, 1), (300, 1), (64, 1)), block_size=4),
    "decode with drafts": Case(shape(4, 2, 48, 48), ((130, 4), (5, 2)), kv_dtype=torch.float16),
    "three heads a group": Case(shape(9, 3, 80, 80), ((200, 1), (63, 2))),
    "prompt": Case(shape(8, 2, 64, 64), ((0, 200),)),
    "chunk at a depth": Case(shape(16, 1, 128, 128), ((777, 65),), kv_dtype=torch.bfloat16),
    "mixed step": Case(shape(6, 2, 32, 32), ((0, 150), (513, 1), (90, 7)), block_size=3),
    "odd sizes": Case(shape(10, 2, 37, 21), ((70, 1), (0, 33)), kv_dtype=torch.float16),
    "odd sizes in bfloat16": Case(
        shape(10, 2, 37, 21), ((70, 1), (0, 33)), kv_dtype=torch.bfloat16
    ),
    "one number in bfloat16": Case(
        shape(2, 1, 1, 1), ((0, 70),), kv_dtype=torch.bfloat16, block_size=1
    ),
    "one number a head": Case(shape(2, 1, 1, 1), ((0, 70),), block_size=1),
    "latent": Case(shape(128, 1, 576, 512, v_is_k_prefix=True), ((330, 1),), num_threads=3),
    "latent prompt": Case(
        shape(12, 1, 576, 512, v_is_k_prefix=True), ((0, 70),), kv_dtype=torch.bfloat16
    ),
    "bfloat16 decode": Case(
        shape(12, 2, 96, 96), ((600, 1), (20, 1)), q_dtype=torch.bfloat16, kv_dtype=torch.bfloat16
    ),
    "bfloat16 prompt": Case(
        shape(8, 2, 64, 64), ((0, 100), (333, 9)), q_dtype=torch.bfloat16, kv_dtype=torch.bfloat16
    ),
    "large scores": Case(shape(4, 1, 64, 64), ((0, 90), (300, 1)), size=6.0),
}
RULES = {
    "plain": {},
    "window of 1": {"sliding_window": 1},
    "window below a tile": {"sliding_window": 37},
    "window beyond all": {"sliding_window": 5000},
    "softcap": {"logit_softcap": 2.0},
    "sinks": {"has_sinks": True},
    "hidden": {"has_hidden": True},
    "all": {
        "sliding_window": 100,
        "logit_softcap": 30.0,
        "has_sinks": True,
        "has_hidden": True,
    },
    "hidden in a window of 1": {"sliding_window": 1, "has_hidden": True},
}
TOLERANCE = 4e-6
"""Of values of size 1, for sums of up to 850 weights and scores of size 1. Most reach 1e-6."""


def with_rules(case: Case, rules: dict[str, Any]) -> Case:
    of_spec = {name: rules[name] for name in rules if hasattr(case.spec, name)}
    others = {name: rules[name] for name in rules if name not in of_spec}
    return replace(case, spec=replace(case.spec, **of_spec), **others)


@EACH_ISA
@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("name", CASES)
def test_the_kernel_equals_the_definition(name: str, rules: str, isa: str) -> None:
    case = with_rules(CASES[name], RULES[rules])
    tolerance = TOLERANCE * max(1.0, case.size**2)  # an error of a score is one of its weight
    assert (found := error(case, isa)) <= tolerance, f"{found:.2e}"


@EACH_ISA
@pytest.mark.parametrize("group", [1, 4, 8])
@pytest.mark.parametrize(
    "sizes", [(64, 64), (80, 80), (96, 96), (128, 128), (256, 256), (576, 512)]
)
def test_a_cache_of_bfloat16_is_read_right(sizes: tuple[int, int], group: int, isa: str) -> None:
    """Few and many rows of several sequences, odd lengths, all rules."""
    head_dim, v_head_dim = sizes
    kv_heads = 1 if head_dim > v_head_dim else 2
    spec = shape(
        group * kv_heads,
        kv_heads,
        head_dim,
        v_head_dim,
        v_is_k_prefix=head_dim > v_head_dim,
        sliding_window=333 if group == 4 else None,
        logit_softcap=20.0 if group == 8 else None,
    )
    case = Case(
        spec,
        ((0, 67), (131, 45), (601, 1), (90, 3)),
        q_dtype=torch.float32 if group == 4 else torch.bfloat16,
        kv_dtype=torch.bfloat16,
        has_sinks=group == 8,
        has_hidden=group == 4,
        num_threads={1: 1, 4: 2, 8: 3}[group],
    )
    assert (found := error(case, isa)) <= TOLERANCE, f"{found:.2e}"


POWERS = {
    "plain": {},
    "window below a tile": {"sliding_window": 37},
    "sinks and hidden": {"has_sinks": True, "has_hidden": True},
}


@EACH_ISA
@pytest.mark.parametrize("rules", POWERS)
@pytest.mark.parametrize(
    "sizes", [(1, 1), (16, 16), (37, 21), (64, 64), (72, 40), (128, 96), (576, 512)]
)
def test_nothing_is_lost_where_nothing_is_rounded(
    sizes: tuple[int, int], rules: str, isa: str
) -> None:
    """Weights that are powers of two are bfloat16 numbers, and an exponential to 1e-4 of them is
    rounded to the very number: a cache of bfloat16 must then give what one of float32 gives, every
    key once and in its place.
    """
    head_dim, v_head_dim = sizes
    spec = replace(
        shape(10, 2, head_dim, v_head_dim, v_is_k_prefix=head_dim == 576), scale=math.log(2)
    )
    case = Case(
        spec, ((0, 70), (131, 45), (401, 1), (90, 3)), kv_dtype=torch.bfloat16, are_powers=True
    )
    assert (found := error(with_rules(case, POWERS[rules]), isa)) <= TOLERANCE, f"{found:.2e}"


@pytest.mark.parametrize("isa", [isa for isa in ISAS if isa in ("amx", kernels.EMULATED_AMX)])
def test_the_matrix_unit_takes_many_rows_beside_a_cache_of_bfloat16(isa: str) -> None:
    """Whose sums are in another order. Other rows and other caches are computed as without it."""
    torch.manual_seed(0)
    for dtype, num_queries, has_unit in (
        (torch.bfloat16, 40, True),
        (torch.bfloat16, 2, False),  # rows of 4 heads: read in place
        (torch.float16, 40, False),
        (torch.float32, 40, False),
    ):
        q = torch.randn(num_queries, 8, 64)
        keys, values = torch.randn(704, 2, 64).to(dtype), torch.randn(704, 2, 64).to(dtype)
        outputs = []
        for each in (isa, "avx512vnni"):
            outputs.append(torch.empty(num_queries, 8, 64))
            plan(Case(shape(8, 2, 64, 64)), [(0, num_queries, 650, 0)], torch.arange(44) * 16).run(
                q, keys, values, outputs[-1], 0.125, 0.0, None, None, each
            )
        assert torch.equal(*outputs) != has_unit


@EACH_ISA
@pytest.mark.parametrize("num_queries", [1, 40])
def test_rounded_weights_add_up_to_one(num_queries: int, isa: str) -> None:
    """Equal values stay what they are: the total is that of the weights as they are used."""
    torch.manual_seed(0)
    q, keys = torch.randn(num_queries, 4, 64), torch.randn(704, 1, 64).bfloat16()
    values = torch.linspace(-3, 3, 64).bfloat16().expand(704, 1, 64).contiguous()
    out = torch.empty(num_queries, 4, 64)
    case = Case(shape(4, 1, 64, 64))
    plan(case, [(0, num_queries, 650, 0)], torch.arange(44) * 16).run(
        q, keys, values, out, 0.125, 0.0, None, None, isa
    )
    assert (found := (out - values[0].float()).abs().max()) <= 2e-6, f"{found:.2e}"


@EACH_ISA
@pytest.mark.parametrize("seed", range(40))
def test_random_shapes_equal_the_definition(seed: int, isa: str) -> None:
    rng = random.Random(seed)
    kv_heads, group = rng.choice([1, 1, 2, 3]), rng.randint(1, 16)
    head_dim = rng.choice([8, 16, 24, 33, 64, 80, 96, 112, 128, 160, 192, 256])
    is_prefix = rng.random() < 0.2
    v_head_dim = head_dim if rng.random() < 0.5 else rng.randint(1, head_dim)
    spans = tuple(
        (rng.choice([0, rng.randint(1, 400)]), rng.choice([1, rng.randint(1, 200)]))
        for _ in range(rng.randint(1, 3))
    )
    spec = shape(
        kv_heads * group,
        kv_heads,
        head_dim,
        v_head_dim,
        v_is_k_prefix=is_prefix,
        sliding_window=rng.choice([None, None, rng.randint(1, 300)]),
        logit_softcap=rng.choice([None, None, rng.choice([1.5, 50.0])]),
    )
    case = Case(
        spec,
        spans,
        block_size=rng.choice([1, 4, 16, 17, 128]),
        q_dtype=rng.choice(list(ROUNDING)),
        kv_dtype=rng.choice(list(ROUNDING)),
        has_sinks=rng.random() < 0.3,
        has_hidden=rng.random() < 0.3,
        num_threads=rng.randint(1, 3),
    )
    assert (found := error(case, isa, seed)) <= TOLERANCE, f"{found:.2e}: {case}"


@EACH_ISA
def test_every_half_precision_result_is_rounded_like_torch_rounds_it(isa: str) -> None:
    """One key gives its value: every magnitude from denormal to overflow, ties included."""
    exponents = torch.arange(103, 144, dtype=torch.int32)[:, None] << 23
    fractions = torch.arange(0, 1 << 23, 0x7FF, dtype=torch.int32)
    ties = torch.tensor([0x1000, 0x3000, 0x8000, 0x18000, 0x7FF000], dtype=torch.int32)
    values = (exponents | torch.cat((fractions, ties))).flatten().view(torch.float32)
    values = torch.cat((values, -values))[None, None]
    one = torch.ones(1, 1, 1)
    for dtype in (torch.float16, torch.bfloat16):
        out = torch.empty(values.shape, dtype=dtype)
        case = Case(shape(1, 1, 1, values.shape[-1]))
        plan(case, [(0, 1, 0, 0)], torch.tensor([0])).run(
            one.to(dtype), one, values, out, 1.0, 0.0, None, None, isa
        )
        differ = out.view(torch.int16) != values.to(dtype).view(torch.int16)
        assert not differ.any(), values[differ][:5].tolist()


@EACH_ISA
@pytest.mark.parametrize("num_queries", [1, 40])
def test_what_is_not_a_number_stays_so(num_queries: int, isa: str) -> None:
    for place in range(3):
        inputs = [torch.randn(num_queries, 2, 16) for _ in range(3)]
        inputs[place][-1, 0, 3] = torch.nan
        out = torch.zeros(num_queries, 2, 16)
        case = Case(shape(2, 2, 16, 16))
        rows, starts = [(0, num_queries, 0, 0)], torch.arange(3) * 16
        plan(case, rows, starts).run(*inputs, out, 0.25, 0.0, None, None, isa)
        assert out[-1, 0, 3].isnan() and not out[:, 1].isnan().any(), place


@pytest.mark.parametrize("spans", [((900, 1),), ((0, 70), (30, 1)), ((500, 30),)])
def test_threads_change_nothing_but_the_order_of_sums(spans: tuple[tuple[int, int], ...]) -> None:
    case = Case(shape(8, 2, 64, 64), spans)
    for num_threads in (1, 2, 3, 7):
        found = error(replace(case, num_threads=num_threads), kernels.isa())
        assert found <= 2e-6, f"{num_threads} threads: {found:.2e}"


def test_a_plan_can_be_used_again_and_again() -> None:
    case = Case(shape(4, 1, 32, 32))
    reused = plan(case, [(0, 1, 299, 0)], torch.arange(19) * 16)
    for seed in range(3):
        torch.manual_seed(seed)
        q, k, v = torch.randn(1, 4, 32), torch.randn(304, 1, 32), torch.randn(304, 1, 32)
        out = torch.empty(1, 4, 32)
        reused.run(q, k, v, out, 0.2, 0.0, None, None, kernels.isa())
        spec = replace(case.spec, scale=0.2)
        expected = attention_reference(q, k[:300], v[:300], spec, first_query=299)
        assert (out - expected).abs().max() <= 1e-6


def test_rows_of_strided_arrays_are_found() -> None:
    """q, k and v as parts of one product, as a model may give them."""
    torch.manual_seed(1)
    qkv = torch.randn(70, 4 + 2 + 2, 32)
    q, k, v = qkv[:, :4], qkv[:, 4:6], qkv[:, 6:]
    spec = shape(4, 2, 32, 32)
    spans = SpanAttention([Span(slice(0, 70), 0, [0], 70, torch.device("cpu"))])
    expected = attention_reference(q, k, v, spec, first_query=0)
    assert (spans(q, k, v, spec) - expected).abs().max() <= 2e-6
