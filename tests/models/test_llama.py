"""Our Llama family against transformers: logits and gradients on tiny random weights, float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig as HFLlamaConfig
from transformers import LlamaForCausalLM, MistralConfig, MistralForCausalLM

from bobot.layers.context import PackedAttention
from bobot.models.llama import Llama
from bobot.models.llama_dialects import config_from_hf

SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
CASES: dict[str, tuple[type, dict[str, Any]]] = {
    "grouped queries": (LlamaForCausalLM, {"num_key_value_heads": 2}),
    "one head each": (LlamaForCausalLM, {"num_key_value_heads": 4, "rms_norm_eps": 1e-6}),
    "tied": (LlamaForCausalLM, {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "biases": (LlamaForCausalLM, {"attention_bias": True, "mlp_bias": True}),
    "llama 3.1 rope": (
        LlamaForCausalLM,
        {"num_key_value_heads": 2, "rope_parameters": LLAMA3_ROPE},
    ),
    "linear rope": (
        LlamaForCausalLM,
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    ),
    "own head_dim": (LlamaForCausalLM, {"num_key_value_heads": 2, "head_dim": 16}),
    "sliding window": (MistralForCausalLM, {"num_key_value_heads": 2, "sliding_window": 7}),
}


class Source:
    """A checkpoint that is only a config."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.tensors: dict[str, Any] = {}

    def read(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        raise KeyError(name)


def pair(case: str) -> tuple[Any, Llama]:
    """The reference model and ours with the same random weights."""
    kind, changes = CASES[case]
    make = MistralConfig if kind is MistralForCausalLM else HFLlamaConfig
    torch.manual_seed(0)
    reference = kind(make(**{**SMALL, **changes}, attn_implementation="eager"))
    for parameter in reference.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    raw = reference.config.to_dict()
    raw["architectures"] = [kind.__name__]
    model = Llama(config_from_hf(Source(raw)))  # type: ignore[arg-type]
    model.load_state_dict(reference.state_dict())
    return reference, model


@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients_equal_transformers(case: str) -> None:
    reference, model = pair(case)
    ids = torch.randint(0, 97, (61,), generator=torch.Generator().manual_seed(1))
    hidden = model(ids, torch.arange(61), PackedAttention())
    logits = model.logits(hidden)
    expected = reference(ids[None]).logits[0]
    difference = (logits - expected).abs().max().item()
    assert difference <= 2e-5, f"{case}: logits differ by {difference:.2e}"

    targets = ids.roll(-1)
    torch.nn.functional.cross_entropy(logits, targets).backward()
    torch.nn.functional.cross_entropy(expected, targets).backward()
    theirs = dict(reference.named_parameters())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and theirs[name].grad is not None, name
        difference = (parameter.grad - theirs[name].grad).abs().max().item()
        assert difference <= 1e-5, f"{case}: gradient of {name} differs by {difference:.2e}"


@pytest.mark.parametrize("case", ["grouped queries", "sliding window", "llama 3.1 rope"])
def test_packed_sequences_equal_each_sequence_alone(case: str) -> None:
    _, model = pair(case)
    generator = torch.Generator().manual_seed(2)
    sequences = [torch.randint(0, 97, (length,), generator=generator) for length in (13, 1, 30)]
    alone = [model(ids, torch.arange(len(ids)), PackedAttention()) for ids in sequences]
    packed = model(
        torch.cat(sequences),
        torch.cat([torch.arange(len(ids)) for ids in sequences]),
        PackedAttention([0, 13, 14]),
    )
    difference = (packed - torch.cat(alone)).abs().max().item()
    assert difference <= 1e-5, f"{case}: packed and alone differ by {difference:.2e}"


def test_a_later_token_never_changes_an_earlier_one() -> None:
    _, model = pair("grouped queries")
    ids = torch.arange(20)
    before = model(ids, torch.arange(20), PackedAttention())
    ids[15] = 96
    after = model(ids, torch.arange(20), PackedAttention())
    assert torch.equal(before[:15], after[:15])
    assert not torch.equal(before[15:], after[15:])
