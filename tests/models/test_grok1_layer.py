"""One layer of the released Grok-1 at its real size: 4.9 GB of random 8-bit weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bobot.layers.context import PackedAttention
from bobot.models.grok1 import Grok1Layer
from bobot.models.grok1_dialects import PUBLISHED
from bobot.ops.rope import inverse_frequencies, rotation
from bobot.quant.scaled import weight_from_parts
from bobot.quant.weight import QuantWeight


def random_8bit(shape: tuple[int, ...], blocks: int) -> QuantWeight:
    """As the file holds it: [in, out] turned, one row of scales or eight."""
    *experts, outputs, inputs = shape
    values = torch.empty(*experts, inputs, outputs, dtype=torch.int8).random_(-128, 128)
    scales = torch.empty(*experts, blocks, outputs).uniform_(1e-4, 3e-4).to(torch.bfloat16)
    return weight_from_parts(values.mT, scales.mT, 1, inputs // blocks)


@pytest.mark.slow
@torch.no_grad()
def test_one_layer_runs_at_real_size() -> None:
    torch.manual_seed(0)
    with torch.device("meta"):
        layer = Grok1Layer(PUBLISHED)
    for name, parameter in list(layer.named_parameters()):
        path, _, leaf = name.rpartition(".")
        owner = layer.get_submodule(path)
        delattr(owner, leaf)
        if parameter.ndim == 3 or path.endswith("_proj"):
            blocks = 8 if leaf == "linear_1" or path.endswith("o_proj") else 1
            setattr(owner, leaf, random_8bit(tuple(parameter.shape), blocks))
        else:
            plain = torch.ones(parameter.shape)
            if parameter.ndim == 2:
                plain.normal_(std=0.02)
            dtype = torch.float32 if "gate" in path else torch.bfloat16
            setattr(owner, leaf, nn.Parameter(plain.to(dtype)))
    num_bytes = sum(w.nbytes for w in vars(layer.moe_block.experts).values() if is_8bit(w))
    assert num_bytes == 3 * 8 * 6144 * 32768 + 2 * 8 * (2 * 32768 + 8 * 6144)

    x_TD = torch.randn(2, PUBLISHED.hidden_size).to(torch.bfloat16)
    frequencies = inverse_frequencies(PUBLISHED.rope, PUBLISHED.head_dim)
    cos, sin = rotation(torch.arange(2), frequencies, x_TD.dtype)
    hidden_T = torch.zeros(2, dtype=torch.bool)
    out_TD = layer(x_TD, cos, sin, hidden_T, 0, PackedAttention())
    assert out_TD.isfinite().all()

    x_D = x_TD[:1]
    expected = expert_sum(layer, x_D)
    found = layer.moe_block(x_D)
    worst = ((found - expected).abs().max() / expected.abs().max()).item()
    assert worst < 2e-2, f"{worst:.1e} of the largest output, in bfloat16"


def is_8bit(weight: object) -> bool:
    return isinstance(weight, QuantWeight)


def expert_sum(layer: Grok1Layer, x_D: Tensor) -> Tensor:
    """The two best experts of one token, each matrix unpacked whole."""
    weights, chosen = layer.moe_block.gate(x_D.float()).softmax(-1).topk(2)
    total = torch.zeros(1, PUBLISHED.hidden_size)
    experts = layer.moe_block.experts
    for weight, e in zip(weights[0].tolist(), chosen[0].tolist(), strict=True):
        hidden = F.gelu(x_D.float() @ experts.linear[e].dequantize().T, approximate="tanh")
        hidden = hidden * (x_D.float() @ experts.linear_v[e].dequantize().T)
        total += weight * (hidden @ experts.linear_1[e].dequantize().T)
    return total
