"""A step in one C++ call, its many rows multiplied by AMX or by AMX in plain C++: as near to
the model in float32 as bfloat16 is, and unchanged for few rows.
"""

from __future__ import annotations

import pytest
import torch
from tiny_decoders import by_decoder, by_module, filled, gpt_oss, in_dtype, llama, mixtral

from bobot import kernels

LEVELS = [
    *(["amx"] if kernels.available and kernels.features().get("amx") else []),
    *([kernels.EMULATED_AMX] if kernels.available and kernels.can_emulate_amx() else []),
]
FAMILIES = {"llama": llama, "mixtral": mixtral, "gpt_oss": gpt_oss}
SEQUENCES = [[*range(1, 31)], [7, 7, 3], [*range(40, 10, -2)]]


def errors(found_TV: torch.Tensor, exact_TV: torch.Tensor) -> torch.Tensor:
    """Of each token's logits, in standard deviations of all."""
    return (found_TV - exact_TV).square().mean(-1).sqrt() / exact_TV.std()


@pytest.mark.skipif(not LEVELS, reason="neither AMX nor what its emulation needs")
@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_many_rows_come_nearer_to_float32_than_the_model_in_bfloat16(
    isa: str, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = in_dtype(filled(FAMILIES[family](), "Q8_0", is_tiled=True), torch.bfloat16)
    monkeypatch.setenv("BOBOT_ISA", isa)
    found = torch.cat(by_decoder(made, SEQUENCES))
    few_rows = torch.cat(by_decoder(made, SEQUENCES, most=2))  # in attention, of 3 heads each
    monkeypatch.setenv("BOBOT_ISA", "avx512vnni")
    assert torch.equal(few_rows, torch.cat(by_decoder(made, SEQUENCES, most=2)))
    assert not torch.equal(found, torch.cat(by_decoder(made, SEQUENCES)))
    in_bfloat16 = torch.cat(by_module(made, SEQUENCES))
    exact = torch.cat(by_module(in_dtype(made, torch.float32), SEQUENCES))
    for share in (0.5, 0.9):
        error, usual = (float(errors(x, exact).quantile(share)) for x in (found, in_bfloat16))
        assert error <= usual, f"error {error:.1e}, of the model in bfloat16 {usual:.1e}"
