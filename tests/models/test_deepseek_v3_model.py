"""Our DeepSeek-V3 against transformers on tiny random weights, float32; its cache; its routing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DeepseekV3Config as HFDeepseekV3Config
from transformers import DeepseekV3ForCausalLM

from bobot.engine import Engine, EngineConfig
from bobot.engine.kv_cache import bytes_per_token
from bobot.engine.sampling_params import SamplingParams
from bobot.layers.context import PackedAttention
from bobot.models.deepseek_v3 import DeepseekV3, DeepseekV3Config, DeepseekV3Router
from bobot.models.deepseek_v3_dialects import config_from_hf
from bobot.weights.load import load_model

SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 40,
    "moe_intermediate_size": 24,
    "num_hidden_layers": 3,
    "first_k_dense_replace": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 20,
    "kv_lora_rank": 24,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
    "max_position_embeddings": 512,
    "routed_scaling_factor": 2.5,
    "num_nextn_predict_layers": 0,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 50000.0,
    "factor": 32.0,
    "beta_fast": 1.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 16,
}
CASES: dict[str, dict[str, Any]] = {
    "kimi k2": {"n_group": 1, "topk_group": 1, "rope_parameters": YARN},
    "groups": {"n_group": 4, "topk_group": 2, "num_experts_per_tok": 2},
    "deepseek v3": {
        "n_group": 4,
        "topk_group": 3,
        "first_k_dense_replace": 2,
        "rope_parameters": {**YARN, "beta_fast": 32.0, "factor": 40.0, "rope_theta": 10000.0},
    },
    "queries without a latent, two shared experts": {
        "n_group": 1,
        "topk_group": 1,
        "q_lora_rank": None,
        "n_shared_experts": 2,
    },
    "mscale apart from mscale_all_dim": {
        "n_group": 1,
        "topk_group": 1,
        "norm_topk_prob": False,
        "rope_parameters": {**YARN, "mscale": 0.5, "beta_fast": 8.0},
    },
}


def from_transformers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """transformers keeps gate and up of all experts in one tensor; its files do not."""
    ours = {}
    for name, tensor in tensors.items():
        if name.endswith("experts.gate_up_proj"):
            stem = name.removesuffix("gate_up_proj")
            ours[f"{stem}gate_proj"], ours[f"{stem}up_proj"] = tensor.chunk(2, dim=1)
        else:
            ours[name] = tensor
    return ours


def source(config: dict[str, Any]) -> Any:
    return type("Source", (), {"config": config, "tensors": {}})()


def pair(case: str) -> tuple[Any, DeepseekV3]:
    """The reference model and ours with the same random weights."""
    settings = HFDeepseekV3Config(**{**SMALL, **CASES[case]}, attn_implementation="eager")
    torch.manual_seed(0)
    reference = DeepseekV3ForCausalLM(settings)
    for parameter in (*reference.parameters(), *reference.buffers()):
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    for name, tensor in reference.state_dict().items():
        if name.endswith("e_score_correction_bias"):
            torch.nn.init.normal_(tensor, std=0.3)
        elif tensor.ndim == 1:
            torch.nn.init.normal_(tensor, mean=1.0, std=0.2)
    raw = reference.config.to_dict()
    raw["architectures"] = ["DeepseekV3ForCausalLM"]
    model = DeepseekV3(config_from_hf(source(raw)))
    model.load_state_dict(from_transformers(reference.state_dict()))
    return reference, model


@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients_equal_transformers(case: str) -> None:
    reference, model = pair(case)
    ids = torch.randint(0, 97, (61,), generator=torch.Generator().manual_seed(1))
    logits = model.logits(model(ids, torch.arange(61), PackedAttention()))
    expected = reference(ids[None]).logits[0]
    difference = (logits - expected).abs().max().item()
    assert difference <= 2e-5, f"{case}: logits differ by {difference:.2e}"

    for scores in (logits, expected):
        torch.nn.functional.cross_entropy(scores, ids.roll(-1)).backward()
    theirs = from_transformers(
        {name: p.grad for name, p in reference.named_parameters() if p.grad is not None}
    )
    for name, parameter in model.named_parameters():
        if name.endswith("e_score_correction_bias"):
            assert parameter.grad is None, name
            continue
        assert parameter.grad is not None, name
        difference = (parameter.grad - theirs[name]).abs().max().item()
        assert difference <= 1e-5, f"{case}: gradient of {name} differs by {difference:.2e}"


@pytest.mark.parametrize("case", ["kimi k2", "groups"])
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


@pytest.mark.parametrize("case", CASES)
def test_the_latent_cache_gives_the_tokens_of_whole_sequences(case: str) -> None:
    _, model = pair(case)
    model.requires_grad_(False).eval()
    engine = Engine(
        model, EngineConfig(max_num_batched_tokens=7, block_size=4, num_blocks=64, max_num_seqs=2)
    )
    prompts = [list(range(20)), [5], [9, 9, 50, 3]]
    requests = {
        engine.add(prompt, SamplingParams(max_tokens=8, temperature=0)): prompt
        for prompt in prompts
    }
    found: dict[int, list[int]] = {request: [] for request in requests}
    while engine.has_unfinished():
        for output in engine.step():
            found[output.request_id].append(output.token_id)  # type: ignore[arg-type]
    for request, prompt in requests.items():
        ids = list(prompt)
        for _ in range(8):
            hidden = model(torch.tensor(ids), torch.arange(len(ids)), PackedAttention())
            ids.append(int(model.logits(hidden[-1:]).argmax()))
        assert found[request] == ids[len(prompt) :], f"{case}: prompt {prompt}"


def test_a_token_takes_one_latent_and_one_rotary_key_per_layer() -> None:
    config = DeepseekV3Config(
        **{k: v for k, v in SMALL.items() if k != "num_key_value_heads"}
        | {"kv_lora_rank": 512, "qk_rope_head_dim": 64, "num_hidden_layers": 61}
    )
    with torch.device("meta"):
        specs = DeepseekV3(config).kv_specs()
    assert bytes_per_token(specs, torch.bfloat16) == 61 * 576 * 2


def test_the_bias_chooses_experts_and_leaves_their_weights_alone() -> None:
    config = DeepseekV3Config(
        **{k: v for k, v in SMALL.items() if k != "num_key_value_heads"}
        | {"n_routed_experts": 4, "num_experts_per_tok": 2, "routed_scaling_factor": 2.0}
    )
    router = DeepseekV3Router(config)
    scores = torch.tensor([0.9, 0.6, 0.3, 0.1])
    with torch.no_grad():
        router.weight.zero_()
        router.weight[:, 0] = scores.logit()
        router.e_score_correction_bias.copy_(torch.tensor([-5.0, 0.0, 0.0, 5.0]))
        experts, weights = router(torch.nn.functional.one_hot(torch.tensor([0]), 32).float())
    by_expert = dict(zip(experts[0].tolist(), weights[0].tolist(), strict=True))
    assert by_expert == pytest.approx({3: 2 * 0.1 / 0.7, 1: 2 * 0.6 / 0.7}), by_expert


def test_only_the_best_groups_are_looked_into() -> None:
    """The best single expert stands alone in its group, so the group loses to two good ones."""
    config = DeepseekV3Config(
        **{k: v for k, v in SMALL.items() if k != "num_key_value_heads"}
        | {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1}
    )
    router = DeepseekV3Router(config)
    with torch.no_grad():
        router.weight.zero_()
        router.weight[:, 0] = torch.tensor([0.9, 0.1, 0.6, 0.6]).logit()
        experts, _ = router(torch.nn.functional.one_hot(torch.tensor([0]), 32).float())
    assert sorted(experts[0].tolist()) == [2, 3], experts


def test_a_folder_that_transformers_saved_gives_the_same_logits(tmp_path: Path) -> None:
    reference, _ = pair("deepseek v3")
    reference.save_pretrained(tmp_path)
    model, report = load_model(tmp_path)
    assert (report.family, report.dtype) == ("deepseek_v3", torch.float32)
    ids = torch.arange(40)
    with torch.no_grad():
        expected = reference(ids[None]).logits[0]
    difference = (model.logits(model(ids, ids, PackedAttention())) - expected).abs().max().item()
    assert difference <= 2e-5, f"{difference:.2e}"
