"""Rows with LoRA adapters in one C++ call: what the modules give, and nothing for other rows."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_decoders import FAMILIES, by_decoder, by_module, deepseek_v3, filled, in_dtype, llama

from bobot import kernels
from bobot.engine.fused import FusedDecoder, fused_decoder
from bobot.engine.kv_cache import KVCache
from bobot.layers.linear import Linear
from bobot.layers.lora import Adapter, LowRank

pytestmark = pytest.mark.skipif(not kernels.available, reason="the extension is not built")

SEQUENCES = [[1, 2, 3], list(range(40)), [*range(30), 7], [5] * 9, [60], list(range(50, 10, -1))]
LONG = {"max_position_embeddings": 1024}
RANKS = (4, 1, 19, 8, 33, 2)
PACKINGS = [("float32", False), ("Q8_0", True)]


@pytest.fixture(autouse=True)
def without_grad() -> Any:
    with torch.inference_mode():
        yield


def names_of(model: Any) -> list[str]:
    """Linear layers that an adapter can change."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, Linear) and name.startswith("model.layers.")
    ]


def adapter(
    model: Any,
    seed: int,
    ranks: tuple[int, ...] = RANKS,
    chosen: Callable[[str], bool] = lambda name: True,
) -> Adapter:
    """Random, of these ranks in turn, for the layers chosen by their names."""
    draw = torch.Generator().manual_seed(seed)
    changes = {}
    for n, name in enumerate(filter(chosen, names_of(model))):
        module, rank = model.get_submodule(name), ranks[n % len(ranks)]
        a_RD = torch.randn(rank, module.in_features, generator=draw) / module.in_features**0.5
        b_RF = torch.randn(rank, module.out_features, generator=draw) * 0.3 / rank**0.5
        changes[name] = LowRank(a_RD, b_RF)
    return Adapter(changes, b"")


def distance(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """The largest difference, in units of the logits' deviation."""
    expected_TV = torch.cat(expected)
    return float((torch.cat(found) - expected_TV).abs().max() / expected_TV.std())


def decoder_of(model: Any) -> FusedDecoder:
    cache = KVCache(model.kv_specs(), 16, 4, torch.float32, torch.device("cpu"))
    decoder = fused_decoder(model, cache)
    assert decoder is not None
    return decoder


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("packing", "is_tiled"), PACKINGS)
@pytest.mark.parametrize(("num_threads", "most"), [(1, 6), (2, 60), (3, 200)])
def test_logits_are_those_of_the_modules(
    family: str, packing: str, is_tiled: bool, num_threads: int, most: int
) -> None:
    """Prompts in chunks of any size beside decoding sequences; several adapters and none."""
    made = filled(FAMILIES[family](), packing, is_tiled=is_tiled)
    a, b = adapter(made, 1), adapter(made, 2, ranks=(3,))
    used = [a, None, b, a, b, a]
    expected, plain = by_module(made, SEQUENCES, used), by_module(made, SEQUENCES)
    found = by_decoder(made, SEQUENCES, adapters=used, num_threads=num_threads, most=most)
    difference, change = distance(found, expected), distance(expected, plain)
    assert difference <= 2e-5 < 0.5 < change, f"differ by {difference:.1e}, changed {change:.1e}"


PARTS = sorted({(family, name.rpartition(".")[2]) for family in FAMILIES
                for name in names_of(FAMILIES[family]())})  # fmt: skip


@pytest.mark.parametrize(("family", "part"), [*PARTS, ("deepseek_v3", "q_proj")])
@pytest.mark.parametrize(("packing", "is_tiled"), PACKINGS)
def test_each_layer_is_changed_by_itself(
    family: str, part: str, packing: str, is_tiled: bool
) -> None:
    """The part in all layers, and in the last one alone, which another sequence goes through."""
    more = {"q_lora_rank": None} if (family, part) == ("deepseek_v3", "q_proj") else {}
    made = filled(FAMILIES[family](**more), packing, is_tiled=is_tiled)
    everywhere = adapter(made, 3, chosen=lambda name: name.endswith(f".{part}"))
    last = adapter(made, 4, chosen=lambda name: name.endswith(f".{part}") and ".2." in name)
    used = [everywhere, last, None, everywhere, last, last]
    found = by_decoder(made, SEQUENCES, adapters=used, num_threads=2, most=30)
    expected, plain = by_module(made, SEQUENCES, used), by_module(made, SEQUENCES)
    difference = distance(found, expected)
    assert difference <= 2e-5, f"logits differ by {difference:.1e}"
    assert distance(expected[:1], plain[:1]) > 1e-3, "the adapter changes nothing"


@pytest.mark.parametrize("isa", [name for name, usable in kernels.features().items() if usable])
@pytest.mark.parametrize("family", ["llama", "deepseek_v3"])
def test_every_instruction_set_gives_the_same(
    isa: str, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At odd shapes: columns that fill no panel, and shares that are not of one size."""
    monkeypatch.setenv("BOBOT_ISA", isa)
    changes = {"num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 32, "vocab_size": 67}
    made = filled(
        FAMILIES[family](hidden_size=96, intermediate_size=160, **changes), "Q8_0", is_tiled=True
    )
    used = [adapter(made, 1), None, adapter(made, 2, (17, 40)), None, adapter(made, 5), None]
    found = by_decoder(made, SEQUENCES, adapters=used, num_threads=3, most=150)
    difference = distance(found, by_module(made, SEQUENCES, used))
    assert difference <= 2e-5, f"logits differ by {difference:.1e}"


@pytest.mark.parametrize("family", FAMILIES)
def test_models_of_16_bits_come_nearer_to_float32_than_in_torch(family: str) -> None:
    """Hidden values are then integers for the weights, and floats for the adapters."""
    made = in_dtype(filled(FAMILIES[family](), "Q8_0", is_tiled=True), torch.bfloat16)
    used = [adapter(made, 1), adapter(made, 2), None, None, adapter(made, 1), adapter(made, 2)]
    found = torch.cat(by_decoder(made, SEQUENCES, adapters=used, most=60))
    by_torch = torch.cat(by_module(made, SEQUENCES, used))
    exact = torch.cat(by_module(in_dtype(made, torch.float32), SEQUENCES, used))
    step, reference = (
        float((x - exact).square().mean(-1).sqrt().median() / exact.std())
        for x in (found, by_torch)
    )
    assert step <= reference, f"error {step:.1e}, in torch {reference:.1e}"


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize(("packing", "is_tiled"), PACKINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_other_rows_do_not_see_an_adapter(
    family: str, packing: str, is_tiled: bool, num_threads: int
) -> None:
    """Not in one bit, beside the same rows without it."""
    made = filled(FAMILIES[family](**LONG), packing, is_tiled=is_tiled)
    sequences = [*SEQUENCES, [n * 7 % 61 for n in range(300)]]
    used = [None, adapter(made, 1), None, adapter(made, 2), None, adapter(made, 1), None]
    plain, beside = (
        by_decoder(made, sequences, adapters=adapters, num_threads=num_threads, most=90)
        for adapters in ([], used)
    )
    for n, each in enumerate(used):
        assert torch.equal(plain[n], beside[n]) == (each is None), f"sequence {n}"


@pytest.mark.skipif(kernels.max_rows_alike() is not None, reason="many rows are rounded otherwise")
def test_a_row_is_the_same_alone_and_beside_others_of_its_adapter() -> None:
    made = filled(llama(), "Q8_0", is_tiled=True)
    a, b = adapter(made, 1), adapter(made, 2)
    decoder = decoder_of(made)
    used: list[Adapter | None] = [a, b, None, a, a, b, a, a, a]

    def logits(rows: list[int]) -> torch.Tensor:
        chunks = [(0, [n + 1, n + 2], [n]) for n in rows]
        logits_RV = torch.empty(2 * len(rows), decoder.vocab_size)
        adapters = [decoder.native_adapter(used[n]) for n in rows]
        decoder.native.step(chunks, list(range(2 * len(rows))), logits_RV.numpy(), 2, adapters)
        return logits_RV.view(len(rows), 2, -1)

    together = logits(list(range(len(used))))
    for n in range(len(used)):
        assert torch.equal(logits([n])[0], together[n]), f"row {n}"


def test_what_is_made_of_an_adapter_goes_with_it() -> None:
    made = filled(llama())
    decoder = decoder_of(made)
    a, b = adapter(made, 1), adapter(made, 2)
    assert decoder.native_adapter(a) is decoder.native_adapter(a)
    decoder.native_adapter(b)
    assert len(decoder.adapters) == 2
    del a
    gc.collect()
    assert list(decoder.adapters) == [b]


def refused(decoder: FusedDecoder, *changes: tuple[int, str, Any, Any]) -> str:
    with pytest.raises((ValueError, TypeError)) as caught:
        decoder.native.adapter(list(changes))
    return str(caught.value)


def test_changes_that_fit_no_layer_are_refused_by_its_name() -> None:
    decoder = decoder_of(filled(deepseek_v3()))
    a, b = torch.zeros(4, 64), torch.zeros(4, 96)
    decoder.native.adapter([(0, "gate", a, b)])
    assert "gate of layer 3" in refused(decoder, (3, "gate", a, b))
    assert "gate of layer 1" in refused(decoder, (1, "gate", a, b)), "its experts have it"
    assert "k of layer 0" in refused(decoder, (0, "k", a, b)), "latents have no keys"
    assert "twice gate of layer 0" in refused(decoder, *[(0, "gate", a, b)] * 2)
    for shapes in [((4, 63), (4, 96)), ((4, 64), (4, 95)), ((4, 64), (3, 96)), ((0, 64), (0, 96))]:
        other_a, other_b = (torch.zeros(shape) for shape in shapes)
        found = refused(decoder, (0, "gate", other_a, other_b))
        assert "do not fit gate of layer 0" in found
    refused(decoder, (0, "gate", a.double(), b))
    refused(decoder, (0, "gate", a.T.contiguous().T, b))


def test_adapters_of_another_decoder_or_number_are_refused() -> None:
    made = filled(llama())
    decoder, other = decoder_of(made), decoder_of(made)
    a = adapter(made, 1)
    logits = torch.zeros(1, 61).numpy()
    for adapters in ([other.native_adapter(a)], [decoder.native_adapter(a)] * 2, [a]):
        with pytest.raises((ValueError, TypeError)):
            decoder.native.step([(0, [1], [0])], [0], logits, 1, adapters)
    decoder.native.step([(0, [1], [0])], [0], logits, 1, [decoder.native_adapter(a)])
