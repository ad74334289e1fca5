"""LoRA adapters with random values, written as PEFT writes them, and the same change computed by
hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bobot.layers.linear import Linear

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
ATTENTION_AND_MLP = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def layers_of(model: nn.Module, *endings: str) -> dict[str, tuple[int, int]]:
    """(out, in) of the model's linear layers with such names."""
    return {
        name: (module.out_features, module.in_features)
        for name, module in model.named_modules()
        if isinstance(module, Linear) and name.endswith(endings or ATTENTION_AND_MLP)
    }


def settings_of(**changes: Any) -> dict[str, Any]:
    """What PEFT writes for a plain adapter, or most of it."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "somewhere",
        "r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.1,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "target_modules": list(ATTENTION_AND_MLP),
        "use_dora": False,
        "use_rslora": False,
        **changes,
    }


def random_matrices(
    layers: Mapping[str, tuple[int, int]], seed: int, rank: int = 4, std: float = 0.3
) -> dict[str, Tensor]:
    """A (rank, in) and B (out, rank) of each layer, under the names of the file."""
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, (rows, columns) in layers.items():
        for half, shape in (("A", (rank, columns)), ("B", (rows, rank))):
            values = torch.randn(shape, generator=draw) * std
            tensors[f"base_model.model.{name}.lora_{half}.weight"] = values
    return tensors


def write_adapter(folder: Path, tensors: Mapping[str, Tensor], **changes: Any) -> Path:
    """The folder, with these tensors and settings."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(settings_of(**changes)))
    save_file(dict(tensors), folder / TENSORS)
    return folder


def tiny_adapter(folder: Path, model: nn.Module, seed: int, *endings: str) -> Path:
    """Of rank 4 and alpha 8: a scale of 2."""
    return write_adapter(folder, random_matrices(layers_of(model, *endings), seed))


def merge(model: nn.Module, tensors: Mapping[str, Tensor], scales: Mapping[str, float]) -> None:
    """W + scale * B @ A in the place of W, added in float64."""
    for name, scale in scales.items():
        module = model.get_submodule(name)
        a, b = (tensors[f"base_model.model.{name}.lora_{half}.weight"] for half in "AB")
        weight = module.weight.double() + scale * (b.double() @ a.double())
        module.weight = nn.Parameter(weight.to(module.weight.dtype), requires_grad=False)
