"""The fused path and the definition say the same."""

from __future__ import annotations

import pytest
import torch

from bobot.ops.attention import AttentionSpec, attention, attention_reference


def case(num_queries: int, num_keys: int, heads: tuple[int, int], window: int | None) -> float:
    """Largest difference between the two ways for random queries, keys and values."""
    num_heads, num_kv_heads = heads
    spec = AttentionSpec(
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=16,
        v_head_dim=16,
        scale=0.3,
        sliding_window=window,
    )
    generator = torch.Generator().manual_seed(num_queries * 1000 + num_keys)
    q, k, v = (
        torch.randn(length, n, 16, generator=generator)
        for length, n in (
            (num_queries, num_heads),
            (num_keys, num_kv_heads),
            (num_keys, num_kv_heads),
        )
    )
    first = num_keys - num_queries
    fused = attention(q, k, v, spec, first_query=first)
    return (fused - attention_reference(q, k, v, spec, first_query=first)).abs().max().item()


@pytest.mark.parametrize("window", [None, 1, 5, 64])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize(("num_queries", "num_keys"), [(1, 1), (1, 30), (30, 30), (7, 30), (2, 3)])
def test_the_fused_path_equals_the_definition(
    num_queries: int, num_keys: int, heads: tuple[int, int], window: int | None
) -> None:
    difference = case(num_queries, num_keys, heads, window)
    assert difference <= 2e-6, f"{difference:.2e}"


def test_keys_after_the_last_query_are_not_read() -> None:
    spec = AttentionSpec(num_heads=2, num_kv_heads=1, head_dim=4, v_head_dim=4, scale=0.5)
    q, k, v = torch.randn(2, 2, 4), torch.randn(9, 1, 4), torch.randn(9, 1, 4)
    whole = attention(q, k, v, spec, first_query=3)
    k[5:], v[5:] = float("nan"), float("nan")
    assert torch.equal(whole, attention(q, k, v, spec, first_query=3))


def test_a_sink_takes_weight_and_a_softcap_bounds_scores() -> None:
    base = {"num_heads": 1, "num_kv_heads": 1, "head_dim": 1, "v_head_dim": 1, "scale": 1.0}
    q, k, v = torch.ones(1, 1, 1), torch.full((2, 1, 1), 100.0), torch.tensor([[[0.0]], [[1.0]]])
    sink = torch.tensor([100.0])
    out = attention(q, k, v, AttentionSpec(**base), first_query=1, sinks_N=sink)
    assert out.item() == pytest.approx(1 / 3)  # two keys and the sink share the weight
    capped = AttentionSpec(**base, logit_softcap=1.0)
    k[1] = -100.0
    out = attention(q, k, v, capped, first_query=1)
    e = torch.e
    assert out.item() == pytest.approx(e**-1 / (e + e**-1), abs=1e-6)


@pytest.mark.parametrize("rule", ["sinks", "softcap", "hidden", "latent"])
@pytest.mark.parametrize("window", [None, 5])
def test_rules_of_single_families_follow_their_definition(
    rule: str, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Score by score in double precision; the pieces are made small so that there are several."""
    monkeypatch.setattr("bobot.ops.attention.MAX_SCORES", 4 * 30)
    generator = torch.Generator().manual_seed(7)
    v_head_dim = 6 if rule == "latent" else 16
    num_kv_heads = 1 if rule == "latent" else 2
    spec = AttentionSpec(
        num_heads=4,
        num_kv_heads=num_kv_heads,
        head_dim=16,
        v_head_dim=v_head_dim,
        v_is_k_prefix=rule == "latent",
        scale=0.3,
        sliding_window=window,
        logit_softcap=2.0 if rule == "softcap" else None,
    )
    q = torch.randn(7, 4, 16, generator=generator)
    k = torch.randn(30, num_kv_heads, 16, generator=generator)
    v = k[..., :6] if rule == "latent" else torch.randn(30, 2, 16, generator=generator)
    sinks = torch.randn(4, generator=generator) if rule == "sinks" else None
    hidden = torch.rand(30, generator=generator) < 0.3 if rule == "hidden" else None
    found = attention(q, k, v, spec, first_query=23, sinks_N=sinks, hidden_S=hidden)
    for t in range(7):
        for n in range(4):
            head = n // (4 // num_kv_heads)
            total, wanted = 0.0, torch.zeros(v_head_dim, dtype=torch.float64)
            for s in range(30):
                is_seen = s <= 23 + t and (window is None or s > 23 + t - window)
                if not is_seen or (hidden is not None and hidden[s]):
                    continue
                score = 0.3 * (q[t, n].double() @ k[s, head].double())
                if rule == "softcap":
                    score = 2.0 * torch.tanh(score / 2.0)
                total += score.exp().item()
                wanted += score.exp() * v[s, head].double()
            if sinks is not None:
                total += sinks[n].double().exp().item()
            difference = (found[t, n] - wanted / total).abs().max().item()
            assert difference <= 1e-6, f"query {t}, head {n}: {difference:.2e}"
