"""Products of many rows by AMX: on a processor that has it, and with its registers in plain C++ on
any with AVX-512 and AVX512-BF16. Else these tests are skipped.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from test_tiles import EACH_FORMAT, Case, case

from bobot import kernels
from bobot.ops import linear as linear_module
from bobot.ops.linear import linear
from bobot.quant.tiles import TileLayout, weight_from_tiles

LEVELS = [
    *(["amx"] if kernels.available and kernels.features().get("amx") else []),
    *([kernels.EMULATED_AMX] if kernels.available and kernels.can_emulate_amx() else []),
]
pytestmark = pytest.mark.skipif(not LEVELS, reason="neither AMX nor what its emulation needs")
EACH_LEVEL = pytest.mark.parametrize("isa", LEVELS)

ROUNDING = 2.0**-8
"""What rounding to bfloat16 changes at most, as a share of the number."""
FLOAT_SUMS = 1e-6
"""The same for sums in float32 of these lengths, as a share of the sum of all magnitudes."""


def rows_of(num_rows: int, num_inputs: int) -> torch.Tensor:
    return torch.randn(num_rows, num_inputs, generator=torch.manual_seed(num_rows))


def product(
    made: Case, x: torch.Tensor, isa: str, *, activations: str = "int16", num_threads: int = 2
) -> torch.Tensor:
    out = torch.full((x.shape[0], made.layout[2]), torch.nan)
    kernels.tiles_linear(
        *made.layout,
        made.tiles,
        x,
        out,
        activations=activations,
        num_threads=num_threads,
        force=isa,
    )
    return out


def share_of_sizes(found: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> float:
    """How far `found` is from a @ b.T, at most, as a share of the sum of all magnitudes."""
    exact, sizes = a.double() @ b.double().T, a.abs().double() @ b.abs().double().T
    return ((found - exact).abs() / sizes).max().item()


@EACH_LEVEL
@EACH_FORMAT
@pytest.mark.parametrize(("num_rows", "num_outputs"), [(9, 53), (16, 16), (17, 33), (70, 31)])
def test_products_are_those_of_weights_and_rows_in_bfloat16(
    isa: str, name: str, num_rows: int, num_outputs: int
):
    made = case(name, num_outputs, 768)
    x = rows_of(num_rows, 768)
    found = product(made, x, isa)
    in_bfloat16 = share_of_sizes(found, x.bfloat16(), made.weights.bfloat16())
    assert in_bfloat16 < FLOAT_SUMS, f"{in_bfloat16:.1e}"
    rounded_rows = share_of_sizes(found, x.bfloat16(), made.weights)
    assert 0 < rounded_rows < ROUNDING, f"{rounded_rows:.1e}"
    exact = share_of_sizes(found, x, made.weights)
    assert exact < 2 * ROUNDING + ROUNDING**2, f"{exact:.1e}"


@EACH_LEVEL
@pytest.mark.parametrize("name", ["Q4_0", "Q8_0", "MXFP4", "int8"])
@pytest.mark.parametrize("num_inputs", [96, 288, 1056])
def test_inputs_need_not_fill_the_blocks(isa: str, name: str, num_inputs: int):
    made = case(name, 40, num_inputs)
    x = rows_of(35, num_inputs)
    error = share_of_sizes(product(made, x, isa), x.bfloat16(), made.weights.bfloat16())
    assert error < FLOAT_SUMS, f"{error:.1e}"


@EACH_LEVEL
def test_more_of_everything_than_is_multiplied_at_once(isa: str):
    """Two parts of the rows, three groups of panels, seven blocks of inputs and a bit."""
    made = case("Q4_0", 16 * 33 + 5, 1824)
    x = rows_of(300, 1824)
    error = share_of_sizes(product(made, x, isa), x.bfloat16(), made.weights.bfloat16())
    assert error < FLOAT_SUMS, f"{error:.1e}"


@EACH_LEVEL
@pytest.mark.parametrize("name", ["Q4_K", "Q6_K", "int4"])
def test_neither_threads_nor_other_rows_change_a_row(isa: str, name: str):
    made = case(name, 85, 768)
    x = rows_of(67, 768)
    alone = product(made, x, isa, num_threads=1)
    for num_threads in (2, 3, 7):
        assert torch.equal(product(made, x, isa, num_threads=num_threads), alone)
    for num_rows in (9, 16, 32, 33, 66):
        assert torch.equal(product(made, x[:num_rows].contiguous(), isa), alone[:num_rows])


@EACH_LEVEL
def test_few_rows_and_floats_are_multiplied_as_without_it(isa: str):
    made = case("Q4_K", 53, 768)
    for num_rows in (0, 1, 8):
        x = rows_of(num_rows, 768)
        assert torch.equal(product(made, x, isa), product(made, x, "avx512vnni"))
    x = rows_of(40, 768)
    as_floats = [product(made, x, each, activations="float32") for each in (isa, "avx512vnni")]
    assert torch.equal(*as_floats)
    assert share_of_sizes(as_floats[0], x, made.weights) < FLOAT_SUMS


@EACH_LEVEL
def test_activations_of_any_size_keep_their_meaning(isa: str):
    """As the instruction says: denormal numbers are 0. What is infinite or no number stays so, in
    its own row."""
    made = case("Q8_0", 16, 64)
    x = torch.zeros(20, 64)
    x[1, 3], x[1, 40] = 1e6, 1.0
    x[2], x[3] = 1e-20, 1e-39
    x[4, 5], x[5, 60], x[6] = torch.inf, torch.nan, -torch.inf
    x[7:] = rows_of(13, 64)
    found = product(made, x, isa)
    usual = [0, 1, 2, *range(7, 20)]
    exact = x[usual].bfloat16().double() @ made.weights.bfloat16().double().T
    sizes = x[usual].abs().double() @ made.weights.abs().double().T + 1e-30
    assert ((found[usual] - exact).abs() / sizes).max() < FLOAT_SUMS
    assert (found[3] == 0).all()
    assert not found[4:7].isfinite().any()


@pytest.mark.skipif(len(LEVELS) < 2, reason="no AMX to compare with")
@EACH_FORMAT
def test_the_processor_does_what_its_emulation_does(name: str):
    made = case(name, 53, 768)
    x = rows_of(67, 768)
    assert torch.equal(*(product(made, x, isa) for isa in LEVELS))


@EACH_LEVEL
@pytest.mark.parametrize("name", ["Q4_0", "Q4_K", "mxfp4"])
def test_linear_layers_take_it_for_many_rows(isa: str, name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BOBOT_ISA", isa)
    monkeypatch.setattr(linear_module, "linear_in_pieces", None)  # torch's way
    made = case(name, 53, 768)
    weight = weight_from_tiles(TileLayout(*made.layout), made.tiles)
    x = rows_of(70, 768).bfloat16()
    bias = rows_of(1, 53)[0].bfloat16()
    found = linear(x, weight, bias)
    assert found.dtype == torch.bfloat16
    expected = F.linear(x.double(), made.weights.bfloat16().double(), bias.double())
    sizes = F.linear(x.abs().double(), made.weights.abs().double())
    allowed = ROUNDING * expected.abs() + FLOAT_SUMS * sizes
    worst = ((found.double() - expected).abs() / allowed).max().item()
    assert worst <= 1, f"{worst:.2f} roundings"


def test_the_emulation_is_used_when_asked_for_and_never_chosen(monkeypatch: pytest.MonkeyPatch):
    assert kernels.EMULATED_AMX not in kernels.features()
    monkeypatch.delenv("BOBOT_ISA", raising=False)
    assert kernels.isa() != kernels.EMULATED_AMX
    monkeypatch.setenv("BOBOT_ISA", kernels.EMULATED_AMX)
    assert kernels.isa() == kernels.EMULATED_AMX
