"""What the attention kernel refuses: sizes, places and types that do not fit, before it reads."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bobot import kernels

pytestmark = pytest.mark.skipif(not kernels.available, reason="the extension is not built")


def run_with(**changes: Any) -> None:
    """One valid run of two spans with some arguments replaced."""
    given: dict[str, Any] = {
        "spans": torch.tensor([[0, 2, 3, 0], [2, 1, 9, 2]]),
        "starts": torch.tensor([0, 4, 8, 12, 16]),
        "block_size": 4,
        "heads": (4, 2, 8, 8),
        "window": 0,
        "num_threads": 2,
        "q": torch.zeros(3, 4, 8),
        "keys": torch.zeros(20, 2, 8),
        "values": torch.zeros(20, 2, 8),
        "out": torch.zeros(3, 4, 8),
        "sinks": None,
        "hidden": None,
        "isa": "portable",
    } | changes
    heads, kv_heads, head_dim, v_head_dim = given["heads"]
    made = kernels.attention_plan(
        given["spans"], given["starts"], given["block_size"], num_heads=heads,
        num_kv_heads=kv_heads, head_dim=head_dim, v_head_dim=v_head_dim,
        window=given["window"], num_threads=given["num_threads"],
    )  # fmt: skip
    made.run(
        given["q"], given["keys"], given["values"], given["out"], 1.0, 0.0, given["sinks"],
        given["hidden"], given["isa"],
    )  # fmt: skip


def test_the_run_that_the_next_tests_change_is_valid() -> None:
    run_with()
    run_with(sinks=torch.zeros(4), hidden=torch.zeros(20, dtype=torch.bool))
    run_with(spans=torch.zeros(0, 4, dtype=torch.int64))
    hidden_by_window = torch.tensor([0, 4, -1, 12, 16])  # a block that no query sees any more
    run_with(starts=hidden_by_window, window=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spans": torch.tensor([[0, 2, 3, 4]])}, "keys without a block"),
        ({"spans": torch.tensor([[0, 2, 20, 0]])}, "keys without a block"),
        ({"spans": torch.tensor([[2, 2, 3, 0]])}, "queries that q or out does not have"),
        ({"spans": torch.tensor([[0, 0, 3, 0]])}, "has no query"),
        ({"spans": torch.tensor([[-1, 2, 3, 0]])}, "out of range"),
        ({"spans": torch.tensor([[0, 2, -3, 0]])}, "out of range"),
        ({"spans": torch.tensor([[0, 2, 3, 1 << 62]])}, "out of range"),
        ({"starts": torch.tensor([0, 4, 8, 12, 19])}, "outside the cache"),
        ({"starts": torch.tensor([0, 4, 8, -1, 16])}, "outside the cache"),
        ({"starts": torch.tensor([0, 4, 8, 1 << 62, 16])}, "outside the cache"),
        ({"keys": torch.zeros(15, 2, 8)}, "outside the cache"),
        ({"values": torch.zeros(15, 2, 8)}, "outside the cache"),
        ({"hidden": torch.zeros(15, dtype=torch.bool)}, "outside the cache"),
        ({"block_size": 0}, "block has no slots"),
        ({"block_size": 1 << 62}, "block has no slots"),
        ({"heads": (4, 3, 8, 8)}, "heads do not fit"),
        ({"heads": (4, 0, 8, 8)}, "heads do not fit"),
        ({"heads": (4, 2, 0, 8)}, "no numbers"),
        ({"heads": (4, 2, 8, 1 << 40)}, "too large"),
        ({"num_threads": 0}, "num_threads"),
        ({"q": torch.zeros(3, 3, 8)}, "q does not have 4 heads of 8"),
        ({"q": torch.zeros(3, 4, 9)}, "q does not have 4 heads of 8"),
        ({"q": torch.zeros(3, 8, 4).transpose(1, 2)}, "side by side"),
        ({"keys": torch.zeros(20, 2, 7)}, "keys does not have"),
        ({"values": torch.zeros(20, 1, 8)}, "values does not have"),
        ({"out": torch.zeros(2, 4, 8)}, "q or out"),
        ({"values": torch.zeros(20, 2, 8, dtype=torch.float16)}, "differ in their type"),
        ({"sinks": torch.zeros(3)}, "one sink a head"),
        ({"isa": "sse9"}, "no kernels for sse9"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_with(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"q": torch.zeros(3, 4, 8, dtype=torch.float64)},
        {"keys": torch.zeros(20, 2, 8, dtype=torch.int8)},
        {"q": torch.zeros(12, 8)},
        {"spans": torch.zeros(1, 3, dtype=torch.int64)},
        {"spans": torch.zeros(1, 4, dtype=torch.int32)},
        {"starts": torch.zeros(5)},
        {"sinks": torch.zeros(4, dtype=torch.bfloat16)},
        {"hidden": torch.zeros(20)},
        {"num_threads": 1 << 40},
        {"window": -1},
    ],
)
def test_other_types_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        run_with(**changes)
