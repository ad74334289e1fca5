"""Our Mixtral against transformers: logits and gradients on tiny random weights, float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import MixtralConfig as HFMixtralConfig
from transformers import MixtralForCausalLM

from bobot.errors import ConfigError
from bobot.layers.context import PackedAttention
from bobot.models.mixtral import Mixtral
from bobot.models.mixtral_dialects import config_from_hf, config_from_mistral
from bobot.ops.moe import mixture_of_experts

SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "num_local_experts": 6,
    "num_experts_per_tok": 2,
}


def from_transformers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """transformers keeps gate and up of all experts in one tensor; its files do not."""
    ours = {}
    for name, tensor in tensors.items():
        name = name.replace(".mlp.", ".block_sparse_moe.")
        if name.endswith("experts.gate_up_proj"):
            stem = name.removesuffix("gate_up_proj")
            ours[f"{stem}w1"], ours[f"{stem}w3"] = tensor.chunk(2, dim=1)
        elif name.endswith("experts.down_proj"):
            ours[f"{name.removesuffix('down_proj')}w2"] = tensor
        else:
            ours[name] = tensor
    return ours


def source(config: dict[str, Any]) -> Any:
    return type("Source", (), {"config": config, "tensors": {}})()


def test_logits_and_gradients_equal_transformers() -> None:
    torch.manual_seed(0)
    reference = MixtralForCausalLM(HFMixtralConfig(**SMALL, attn_implementation="eager"))
    for parameter in reference.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model = Mixtral(config_from_hf(source(reference.config.to_dict())))
    model.load_state_dict(from_transformers(reference.state_dict()))
    ids = torch.randint(0, 97, (61,), generator=torch.Generator().manual_seed(1))
    logits = model.logits(model(ids, torch.arange(61), PackedAttention()))
    expected = reference(ids[None]).logits[0]
    difference = (logits - expected).abs().max().item()
    assert difference <= 2e-5, f"logits differ by {difference:.2e}"

    for scores in (logits, expected):
        torch.nn.functional.cross_entropy(scores, ids.roll(-1)).backward()
    theirs = from_transformers(
        {name: p.grad for name, p in reference.named_parameters() if p.grad is not None}
    )
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        difference = (parameter.grad - theirs[name]).abs().max().item()
        assert difference <= 1e-5, f"gradient of {name} differs by {difference:.2e}"


def test_a_mixture_is_the_weighted_sum_of_its_experts() -> None:
    generator = torch.Generator().manual_seed(2)
    gate, up, down = (torch.randn(5, 4, 4, generator=generator) for _ in range(3))
    x, weights = torch.randn(7, 4, generator=generator), torch.rand(7, 2, generator=generator)
    experts = torch.tensor([[0, 3], [3, 0], [1, 1], [0, 1], [3, 1], [1, 0], [0, 3]])  # 2, 4 idle

    def swiglu(e: int, rows: torch.Tensor) -> torch.Tensor:
        return (torch.nn.functional.silu(rows @ gate[e].T) * (rows @ up[e].T)) @ down[e].T

    found = mixture_of_experts(x, experts, weights, swiglu)
    for t in range(7):
        expected = sum(
            weights[t, a] * (down[e] @ (torch.nn.functional.silu(gate[e] @ x[t]) * (up[e] @ x[t])))
            for a, e in enumerate(experts[t].tolist())
        )
        assert torch.allclose(found[t], torch.as_tensor(expected), atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_experts_per_tok": 7}, ["7", "6"]),
        ({"num_local_experts": None}, ["num_local_experts", "missing"]),
        ({"surprise": 1}, ["surprise"]),
    ],
)
def test_a_wrong_config_is_refused(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        config_from_hf(source({**SMALL, "rms_norm_eps": 1e-5, **changes}))
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_published_sizes_give_the_published_number_of_parameters() -> None:
    raw = {
        "dim": 4096,
        "n_layers": 32,
        "head_dim": 128,
        "hidden_dim": 14336,
        "n_heads": 32,
        "n_kv_heads": 8,
        "norm_eps": 1e-05,
        "vocab_size": 32000,
        "moe": {"num_experts_per_tok": 2, "num_experts": 8},
    }
    with torch.device("meta"):
        model = Mixtral(config_from_mistral(source({**raw, "tied_embeddings": False})))
    assert sum(p.numel() for p in model.parameters()) == 46_702_792_704
