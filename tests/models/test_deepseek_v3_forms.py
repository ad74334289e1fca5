"""Kimi K2's and DeepSeek-V3's packed files, written here by packers of our own, against
transformers with the values those packers mean; and what is refused.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_deepseek_v3 import TINY, Tensors, expected_logits, logits_of, weights
from torch import Tensor

from bobot.errors import CheckpointError, ConfigError
from bobot.models.deepseek_v3_dialects import config_from_hf
from bobot.quant.weight import QuantWeight
from bobot.weights.load import load_model

FP8 = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}
INT4: dict[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {
                "num_bits": 4,
                "type": "int",
                "symmetric": True,
                "strategy": "group",
                "group_size": 32,
            },
        }
    },
    "ignore": ["lm_head", "re:.*self_attn.*"],
}


def save(folder: Path, tensors: Tensors, config: dict[str, Any]) -> Path:
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / "model.safetensors")
    return folder


def e4m3_values() -> np.ndarray:
    """The value of each byte: sign, 4 bits of exponent (bias 7), 3 of mantissa; 0x7f is NaN."""
    values = []
    for byte in range(256):
        exponent, mantissa = byte >> 3 & 15, byte & 7
        size = (
            mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7)
        )
        values.append(np.nan if byte & 0x7F == 0x7F else -size if byte >> 7 else size)
    return np.array(values)


def pack_fp8(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(float8 values, scale of each block of 128 x 128, the weight they mean)."""
    table = e4m3_values()[:127]  # of the positive bytes; the sign is bit 7
    w = weight.double().numpy()
    scales = np.zeros((-(-w.shape[0] // 128), -(-w.shape[1] // 128)), dtype=np.float32)
    codes = np.zeros(w.shape, dtype=np.uint8)
    meaning = np.zeros(w.shape)
    for i, j in np.ndindex(*scales.shape):
        at = np.s_[128 * i : 128 * i + 128, 128 * j : 128 * j + 128]
        scales[i, j] = np.abs(w[at]).max() / 448
        nearest = np.abs(np.abs(w[at])[..., None] / scales[i, j] - table).argmin(-1)
        codes[at] = nearest | (w[at] < 0) << 7
        meaning[at] = np.sign(w[at]) * table[nearest] * scales[i, j]
    values = torch.from_numpy(codes).view(torch.float8_e4m3fn)
    return values, torch.from_numpy(scales), torch.from_numpy(meaning).float()


def pack_int4(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(words of eight values, the first lowest; a scale per 32 inputs; the weight they mean)."""
    grouped = weight.unflatten(-1, (-1, 32))
    scales = (grouped.abs().amax(-1) / 7).to(torch.bfloat16)
    q = (grouped / scales.float()[..., None]).round().clamp(-8, 7).int()
    rows = []
    for row in q.flatten(-2).tolist():
        words = [sum((row[at + k] + 8) << 4 * k for k in range(8)) for at in range(0, len(row), 8)]
        rows.append([word - (1 << 32) if word >> 31 else word for word in words])
    meaning = (q * scales.float()[..., None]).flatten(-2)
    return torch.tensor(rows, dtype=torch.int32), scales, meaning


def fp8_files() -> tuple[Tensors, Tensors]:
    """(tensors of the files, the weights they mean), as DeepSeek-V3 and Kimi K2 are published."""
    files, meaning = weights(), weights()
    for name, tensor in weights().items():
        if "_proj" in name:
            files[name], files[f"{name}_scale_inv"], meaning[name] = pack_fp8(tensor)
    return files, meaning


def int4_files() -> tuple[Tensors, Tensors]:
    """As Kimi K2 Thinking is published: routed experts only."""
    files, meaning = weights(), weights()
    for name, tensor in weights().items():
        if ".experts." in name:
            del files[name]
            packed, scales, meaning[name] = pack_int4(tensor)
            files |= {f"{name}_packed": packed, f"{name}_scale": scales}
            files[f"{name}_shape"] = torch.tensor(tensor.shape, dtype=torch.int32)
    return files, meaning


FORMS: dict[str, tuple[Callable[[], tuple[Tensors, Tensors]], dict[str, Any]]] = {
    "fp8": (fp8_files, FP8),
    "int4": (int4_files, INT4),
}


@pytest.mark.parametrize("form", FORMS)
def test_packed_files_give_the_logits_of_what_they_mean(form: str, tmp_path: Path) -> None:
    make, settings = FORMS[form]
    files, meaning = make()
    ids = torch.randint(0, 97, (50,), generator=torch.Generator().manual_seed(1))
    path = save(tmp_path, files, TINY | {"quantization_config": settings})
    model, found = logits_of(path, ids)
    difference = (found - expected_logits(meaning, ids)).abs().max().item()
    # Tiles multiply sums of FP8 numbers by the scale; the meaning has each product with it rounded.
    limit = 4e-5 if form == "fp8" else 2e-5
    assert difference <= limit, f"{form}: {difference:.2e}"
    for e in range(6):
        weight = model.model.layers[1].mlp.experts.up_proj[e]
        assert isinstance(weight, QuantWeight)
        wanted = meaning[f"model.layers.1.mlp.experts.{e}.up_proj.weight"]
        assert torch.allclose(weight.dequantize(), wanted, rtol=1e-6, atol=0), f"{form}: expert {e}"


def test_the_layer_that_guesses_ahead_is_known_and_not_loaded(tmp_path: Path) -> None:
    files, _ = fp8_files()
    ahead = {
        n.replace("layers.1.", "layers.2."): t.clone() for n, t in files.items() if "layers.1." in n
    }
    files |= ahead | {"model.layers.2.eh_proj.weight": torch.zeros(160, 320)}
    config = TINY | {"quantization_config": FP8, "num_nextn_predict_layers": 1}
    _, report = load_model(save(tmp_path, files, config), dtype="float32")
    assert len(report.ignored) == len(ahead) + 1
    save(tmp_path, files, config | {"num_nextn_predict_layers": 0})
    with pytest.raises(CheckpointError, match=r"unexpected.*model\.layers\.2\."):
        load_model(tmp_path)


def test_patterns_of_a_config_are_never_run(tmp_path: Path) -> None:
    files, _ = int4_files()
    settings = INT4 | {"ignore": ["re:(.*.*)*x$", "re:(a|a)*$", "re:["] * 50}
    path = save(tmp_path, files, TINY | {"quantization_config": settings})
    start = time.perf_counter()
    load_model(path)
    assert (seconds := time.perf_counter() - start) < 5, f"{seconds:.1f} s"


def test_settings_of_millions_of_tensors_are_refused_fast(tmp_path: Path) -> None:
    changes = {"num_hidden_layers": 60, "n_routed_experts": 3 * 5000, "quantization_config": FP8}
    path = save(tmp_path, fp8_files()[0], TINY | changes)
    start = time.perf_counter()
    with pytest.raises(CheckpointError, match="missing"):
        load_model(path)
    assert (seconds := time.perf_counter() - start) < 20, f"{seconds:.1f} s"


EXPERT = "model.layers.1.mlp.experts.2.down_proj.weight"
GATE = "model.layers.1.mlp.experts.0.gate_proj.weight"
KV_B = "model.layers.0.self_attn.kv_b_proj.weight"
BIAS = "model.layers.1.mlp.gate.e_score_correction_bias"


def without(name: str) -> Callable[[Tensors], Tensors]:
    return lambda files: {n: t for n, t in files.items() if n != name}


def with_(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Tensors], Tensors]:
    return lambda files: files | {name: change(files[name])}


def moved(name: str, to: str) -> Callable[[Tensors], Tensors]:
    return lambda files: {to if n == name else n: t for n, t in files.items()}


BAD_FILES: dict[str, tuple[str, Callable[[Tensors], Tensors], list[str]]] = {
    "one scale too few": ("fp8", with_(f"{KV_B}_scale_inv", lambda t: t[:1]), [KV_B, "[1, 1]"]),
    "scales of integers": ("fp8", with_(f"{KV_B}_scale_inv", lambda t: t.int()), [KV_B, "int32"]),
    "an expert without scales": ("fp8", without(f"{EXPERT}_scale_inv"), [EXPERT]),
    "an expert without values": ("fp8", without(EXPERT), [EXPERT]),
    "values that are not float8": ("fp8", with_(EXPERT, lambda t: t.float()), [EXPERT, "float32"]),
    "an expert of another width": (
        "fp8",
        lambda f: f | {EXPERT: f[EXPERT][:, :32]},
        ["down_proj", "[160, 32]"],
    ),
    "a bf16 expert among packed ones": (
        "fp8",
        lambda f: without(f"{EXPERT}_scale_inv")(f) | {EXPERT: f[EXPERT].bfloat16()},
        [EXPERT, "bfloat16", "scaled 128x128"],
    ),
    "no correction bias": ("fp8", without(BIAS), [BIAS, "missing"]),
    "a correction bias per other experts": ("fp8", with_(BIAS, lambda t: t[:5]), [BIAS, "[5]"]),
    "a shape that lies": (
        "int4",
        with_(f"{GATE}_shape", lambda t: torch.tensor([64, 161], dtype=torch.int32)),
        [GATE, "161"],
    ),
    "a shape of huge numbers": (
        "int4",
        with_(f"{GATE}_shape", lambda t: torch.tensor([2**62, 2**62])),
        [GATE, "64x160"],
    ),
    "no shape": ("int4", without(f"{GATE}_shape"), [f"{GATE}_shape"]),
    "words of 64 bits": ("int4", with_(f"{GATE}_packed", lambda t: t.long()), [GATE, "int64"]),
    "too few words": ("int4", with_(f"{GATE}_packed", lambda t: t[:, :16]), [GATE]),
    "words that are a vector": ("int4", with_(f"{GATE}_packed", lambda t: t.flatten()), [GATE]),
    "too few scales": ("int4", with_(f"{GATE}_scale", lambda t: t[:, :4]), [GATE, "[64, 4]"]),
    "consistent, but of another model": (
        "int4",
        lambda f: (
            f
            | {
                f"{GATE}_packed": f[f"{GATE}_packed"][:, :16],
                f"{GATE}_scale": f[f"{GATE}_scale"][:, :4],
                f"{GATE}_shape": torch.tensor([64, 128], dtype=torch.int32),
            }
        ),
        ["gate_proj", "[64, 128]"],
    ),
    "a tensor that nobody knows": ("int4", moved(f"{GATE}_shape", f"{GATE}_g_idx"), [GATE]),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_packed_files_that_do_not_fit_are_named(case: str, tmp_path: Path) -> None:
    form, damage, words = BAD_FILES[case]
    make, settings = FORMS[form]
    path = save(tmp_path, damage(make()[0]), TINY | {"quantization_config": settings})
    with pytest.raises(CheckpointError) as caught:
        load_model(path)
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"surprise": 1}, ["surprise"]),
        ({"kv_lora_rank": None}, ["kv_lora_rank", "missing"]),
        ({"scoring_func": "softmax"}, ["scoring_func", "softmax", "sigmoid"]),
        ({"topk_method": "greedy"}, ["topk_method", "greedy"]),
        ({"moe_layer_freq": 2}, ["moe_layer_freq", "2"]),
        ({"num_key_value_heads": 2}, ["num_key_value_heads", "2", "4"]),
        ({"attention_bias": True}, ["attention_bias"]),
        ({"rope_interleave": False}, ["rope_interleave"]),
        ({"n_group": 4}, ["n_group", "4", "6"]),
        ({"n_group": 6}, ["n_group", "6"]),
        ({"topk_group": 4}, ["num_experts_per_tok", "4 of 3"]),
        ({"topk_group": 1}, ["num_experts_per_tok", "3", "1 of 3"]),
        ({"qk_rope_head_dim": 15}, ["qk_rope_head_dim", "15", "even"]),
        ({"n_shared_experts": None}, ["n_shared_experts"]),
        ({"num_nextn_predict_layers": 2**19}, ["num_nextn_predict_layers", "16"]),
        ({"num_attention_heads": 2**20}, ["num_attention_heads", str(2**20), str(2**14)]),
        ({"v_head_dim": 2**20}, ["v_head_dim", str(2**20), str(2**14)]),
        ({"n_routed_experts": 2**15}, ["n_routed_experts", str(2**15), str(2**14)]),
        ({"rope_scaling": TINY["rope_scaling"] | {"beta_fast": 1e300}}, ["beta_fast", "1e+300"]),
        ({"model_type": "deepseek_v32"}, ["model_type", "deepseek_v32"]),
        ({"rope_scaling": TINY["rope_scaling"] | {"mscale": -1.0}}, ["mscale", "-1.0"]),
    ],
)
def test_a_wrong_config_is_refused(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        config_from_hf(type("Source", (), {"config": TINY | changes})())
    assert all(word in str(caught.value) for word in words), str(caught.value)
