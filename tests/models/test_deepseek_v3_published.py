"""The published models at full size, on the meta device: every tensor of the real files by name,
shape and dtype goes through the loader, with no memory behind it; and one real-size layer runs.

Settings and index are written from the publishers' config.json files and from
../shared/parity/FAMILIES.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bobot.checkpoints.stored import Checkpoint, StoredTensor, dtype_name, num_elements
from bobot.engine.kv_cache import bytes_per_token
from bobot.layers.context import PackedAttention
from bobot.models.deepseek_v3 import DeepseekV3Layer
from bobot.models.deepseek_v3_dialects import config_from_hf
from bobot.ops.rope import attention_factor, inverse_frequencies, rotation
from bobot.quant import int4
from bobot.quant.weight import QuantWeight
from bobot.weights import source
from bobot.weights.load import load_model

FP8 = {
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "quant_method": "fp8",
    "weight_block_size": [128, 128],
}
INT4_GROUP = {
    "input_activations": None,
    "output_activations": None,
    "targets": ["Linear"],
    "weights": {
        "actorder": None,
        "block_structure": None,
        "dynamic": False,
        "group_size": 32,
        "num_bits": 4,
        "observer": "minmax",
        "observer_kwargs": {},
        "strategy": "group",
        "symmetric": True,
        "type": "int",
    },
}
INT4 = {
    "config_groups": {"group_0": INT4_GROUP},
    "format": "pack-quantized",
    "ignore": [
        "lm_head",
        "re:.*self_attn.*",
        "re:.*shared_experts.*",
        "re:.*mlp\\.(gate|up|gate_up|down)_proj.*",
    ],
    "kv_cache_scheme": None,
    "quant_method": "compressed-tensors",
    "quantization_status": "compressed",
}
COMMON = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_deepseek.DeepseekV3Config",
        "AutoModel": "modeling_deepseek.DeepseekV3Model",
        "AutoModelForCausalLM": "modeling_deepseek.DeepseekV3ForCausalLM",
    },
    "hidden_act": "silu",
    "hidden_size": 7168,
    "initializer_range": 0.02,
    "intermediate_size": 18432,
    "kv_lora_rank": 512,
    "moe_intermediate_size": 2048,
    "moe_layer_freq": 1,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 61,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-06,
    "scoring_func": "sigmoid",
    "tie_word_embeddings": False,
    "topk_method": "noaux_tc",
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "v_head_dim": 128,
}
DEEPSEEK_V3 = COMMON | {
    "bos_token_id": 0,
    "eos_token_id": 1,
    "ep_size": 1,
    "first_k_dense_replace": 3,
    "max_position_embeddings": 163840,
    "model_type": "deepseek_v3",
    "n_group": 8,
    "n_routed_experts": 256,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "num_nextn_predict_layers": 1,
    "quantization_config": FP8,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 40,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096,
        "type": "yarn",
    },
    "rope_theta": 10000,
    "routed_scaling_factor": 2.5,
    "topk_group": 4,
    "transformers_version": "4.46.3",
    "vocab_size": 129280,
}
KIMI_YARN = {
    "beta_fast": 1.0,
    "beta_slow": 1.0,
    "factor": 32.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 4096,
    "type": "yarn",
}
KIMI_K2 = COMMON | {
    "aux_loss_alpha": 0.001,
    "bos_token_id": 163584,
    "eos_token_id": 163585,
    "first_k_dense_replace": 1,
    "max_position_embeddings": 131072,
    "model_type": "kimi_k2",
    "n_group": 1,
    "n_routed_experts": 384,
    "num_attention_heads": 64,
    "num_key_value_heads": 64,
    "num_nextn_predict_layers": 0,
    "pretraining_tp": 1,
    "quantization_config": FP8,
    "rope_scaling": KIMI_YARN,
    "rope_theta": 50000.0,
    "routed_scaling_factor": 2.827,
    "seq_aux": True,
    "topk_group": 1,
    "transformers_version": "4.48.3",
    "vocab_size": 163840,
}
KIMI_0905 = KIMI_K2 | {
    "max_position_embeddings": 262144,
    "rope_scaling": {**KIMI_YARN, "factor": 64.0},
}
KIMI_THINKING = KIMI_0905 | {"rms_norm_eps": 1e-05, "quantization_config": INT4}

Entry = tuple[tuple[int, ...], torch.dtype]


def index(raw: dict[str, Any]) -> dict[str, Entry]:
    """Name -> (shape, dtype) of every tensor of the published files."""
    is_fp8 = raw["quantization_config"] is FP8
    d, n = raw["hidden_size"], raw["num_attention_heads"]
    tensors: dict[str, Entry] = {}

    def plain(name: str, *shape: int, dtype: torch.dtype = torch.bfloat16) -> None:
        tensors[name] = (shape, dtype)

    def linear(name: str, rows: int, columns: int) -> None:
        if not is_fp8:
            return plain(f"{name}.weight", rows, columns)
        plain(f"{name}.weight", rows, columns, dtype=torch.float8_e4m3fn)
        blocks = -(-rows // 128), -(-columns // 128)
        return plain(f"{name}.weight_scale_inv", *blocks, dtype=torch.float32)

    def expert(name: str, rows: int, columns: int) -> None:
        if is_fp8:
            return linear(name, rows, columns)
        plain(f"{name}.weight_packed", rows, columns // 8, dtype=torch.int32)
        plain(f"{name}.weight_scale", rows, columns // 32)
        return plain(f"{name}.weight_shape", 2, dtype=torch.int32)

    def mlp(name: str, width: int, kind: Any) -> None:
        kind(f"{name}.gate_proj", width, d)
        kind(f"{name}.up_proj", width, d)
        kind(f"{name}.down_proj", d, width)

    def layer(number: int) -> None:
        at = f"model.layers.{number}"
        plain(f"{at}.input_layernorm.weight", d)
        plain(f"{at}.post_attention_layernorm.weight", d)
        linear(f"{at}.self_attn.q_a_proj", 1536, d)
        plain(f"{at}.self_attn.q_a_layernorm.weight", 1536)
        linear(f"{at}.self_attn.q_b_proj", n * 192, 1536)
        linear(f"{at}.self_attn.kv_a_proj_with_mqa", 576, d)
        plain(f"{at}.self_attn.kv_a_layernorm.weight", 512)
        linear(f"{at}.self_attn.kv_b_proj", n * 256, 512)
        linear(f"{at}.self_attn.o_proj", d, n * 128)
        if number < raw["first_k_dense_replace"]:
            return mlp(f"{at}.mlp", 18432, linear)
        plain(f"{at}.mlp.gate.weight", raw["n_routed_experts"], d)
        plain(
            f"{at}.mlp.gate.e_score_correction_bias", raw["n_routed_experts"], dtype=torch.float32
        )
        mlp(f"{at}.mlp.shared_experts", 2048, linear)
        for e in range(raw["n_routed_experts"]):
            mlp(f"{at}.mlp.experts.{e}", 2048, expert)
        return None

    plain("model.embed_tokens.weight", raw["vocab_size"], d)
    for number in range(61 + raw["num_nextn_predict_layers"]):
        layer(number)
    if raw["num_nextn_predict_layers"]:  # guesses a second token from hidden state and embedding
        plain("model.layers.61.embed_tokens.weight", raw["vocab_size"], d)
        plain("model.layers.61.enorm.weight", d)
        plain("model.layers.61.hnorm.weight", d)
        plain("model.layers.61.eh_proj.weight", d, 2 * d)
        plain("model.layers.61.shared_head.norm.weight", d)
        plain("model.layers.61.shared_head.head.weight", raw["vocab_size"], d)
    plain("model.norm.weight", d)
    plain("lm_head.weight", raw["vocab_size"], d)
    return tensors


def without_memory(raw: dict[str, Any], entries: dict[str, Entry]) -> Checkpoint:
    """A checkpoint of those tensors on the meta device; only weight_shape has values."""

    def stored(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> StoredTensor:
        def read() -> Tensor:
            if name.endswith("weight_shape"):
                rows, words = entries[name.replace("weight_shape", "weight_packed")][0]
                return torch.tensor([rows, 8 * words], dtype=dtype)
            return torch.empty(shape, dtype=dtype, device="meta")

        num_bytes = (num_elements(shape) or 0) * dtype.itemsize
        return StoredTensor(shape, dtype_name(dtype), num_bytes, read)

    shard = {name: stored(name, *entry) for name, entry in entries.items()}
    return Checkpoint(Path("published"), "hf", [shard], raw)


PUBLISHED = {  # settings, parameters, gigabytes of all files, tensors that are not needed
    "Kimi-K2-Instruct": (KIMI_K2, 1_026_408_232_448, 1029.2, 0),
    "Kimi-K2-Thinking": (KIMI_THINKING, 1_026_408_232_448, 594.2, 0),
    "DeepSeek-V3": (DEEPSEEK_V3, 671_026_419_200, 688.6, 1564),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_tensor_has_its_place(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, num_parameters, gigabytes, num_ignored = PUBLISHED[name]
    checkpoint = without_memory(raw, index(raw))
    num_bytes = sum(info.num_bytes for info in checkpoint.tensors.values())
    assert round(num_bytes / 1e9, 1) == gigabytes, num_bytes
    monkeypatch.setattr(source, "open_checkpoint", lambda path: checkpoint)
    with source.open_model("published") as opened:
        ignored = opened.ignored()  # raises for a missing and for an unexpected name
        assert len(ignored) == num_ignored, ignored[:3]
        assert all(name.startswith("model.layers.61.") for name in ignored)
        parameters = dict(opened.model.named_parameters())
        assert sum(p.numel() for p in parameters.values()) == num_parameters
        for ours, parameter in parameters.items():
            weight = opened.sample(ours)
            assert weight.shape in (parameter.shape, parameter.shape[1:]), ours
            is_packed = ("mlp.experts." if raw is KIMI_THINKING else "_proj") in ours
            assert isinstance(weight, QuantWeight) == is_packed, ours
        specs = opened.model.kv_specs()
    assert bytes_per_token(specs, torch.bfloat16) == 61 * 576 * 2


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_whole_published_model_loads_without_memory(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, num_parameters, _, num_ignored = PUBLISHED[name]
    checkpoint = without_memory(raw, index(raw))
    monkeypatch.setattr(source, "open_checkpoint", lambda path: checkpoint)
    _, report = load_model("published", device="meta")
    assert (report.num_parameters, len(report.ignored)) == (num_parameters, num_ignored)
    assert report.dtype == torch.bfloat16


def random_int4(*shape: int) -> QuantWeight:
    """Random words and scales: weights of standard deviation 0.02 or so."""
    packed = torch.empty(*shape[:-1], shape[-1] // 8, dtype=torch.int32).random_(-(2**31), 2**31)
    scales = torch.empty(*shape[:-1], shape[-1] // 32, dtype=torch.bfloat16).uniform_(3e-3, 6e-3)
    return int4.weight_from_parts(packed, scales)


@pytest.mark.slow
@torch.no_grad()
def test_one_layer_of_kimi_k2_thinking_runs_at_real_size() -> None:
    """17 billion parameters in 9.8 GB, kept packed: a token's output is that of its experts."""
    config = config_from_hf(type("Source", (), {"config": KIMI_THINKING})())
    torch.manual_seed(0)
    with torch.device("meta"):
        layer = DeepseekV3Layer(config, 1)
    for name, parameter in list(layer.named_parameters()):
        path, _, leaf = name.rpartition(".")
        owner = layer.get_submodule(path)
        delattr(owner, leaf)
        if path == "mlp.experts":
            weight: Any = random_int4(*parameter.shape)
        else:
            dtype = torch.float32 if "bias" in leaf else torch.bfloat16
            weight = torch.nn.Parameter(torch.empty(parameter.shape, dtype=dtype))
            weight.fill_(1.0) if parameter.ndim == 1 else weight.normal_(std=0.02)
        setattr(owner, leaf, weight)
    layer.eval()
    assert layer.mlp.experts.up_proj.nbytes == 384 * 2048 * 7168 * (1 / 2 + 2 / 32)

    num_tokens = 16
    x_TD = torch.randn(num_tokens, 7168).to(torch.bfloat16)
    frequencies = inverse_frequencies(config.rope, 64)
    cos, sin = rotation(
        torch.arange(num_tokens), frequencies, x_TD.dtype, attention_factor(config.rope)
    )
    for rows in (1, num_tokens):
        out_TD = layer(x_TD[:rows], cos[:rows], sin[:rows], 0, PackedAttention())
        assert out_TD.isfinite().all()

    hidden_TD = layer.post_attention_layernorm(x_TD)
    experts_TA, weights_TA = layer.mlp.gate(hidden_TD)
    expected_D = layer.mlp.shared_experts(hidden_TD[:1])[0].float()
    for e, weight in zip(experts_TA[0].tolist(), weights_TA[0].tolist(), strict=True):
        gate, up, down = (
            getattr(layer.mlp.experts, f"{part}_proj")[e].dequantize()
            for part in ("gate", "up", "down")
        )
        x_D = hidden_TD[0].float()
        expected_D += weight * (down @ (torch.nn.functional.silu(gate @ x_D) * (up @ x_D)))
    found_D = layer.mlp(hidden_TD)[0].float()
    error = (found_D - expected_D).norm().item() / expected_D.norm().item()
    assert error < 0.01, f"relative error {error:.2e}"
