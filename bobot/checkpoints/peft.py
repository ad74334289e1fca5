"""LoRA adapters as PEFT saves them: a folder with adapter_config.json and
adapter_model.safetensors.

Every setting is accounted for: one that changes the result and is not computed here stops the load
with its name, and so does one that is not known, unless it is off. The tensors say which layers are
changed; `target_modules`, where it is a list, must agree. A regular expression there is not run:
it is a stranger's, and Python's `re` can be made to search for ever. For the same reason the keys
of `rank_pattern` and `alpha_pattern` are read as plain names. Source: peft/tuners/lora/config.py
and peft/utils/other.py (get_pattern_key), 0.21.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bobot.checkpoints.lora_tensors import LoraFile, StoredLora, paired
from bobot.checkpoints.safetensors import read_safetensors
from bobot.checkpoints.stored import shown
from bobot.checkpoints.strict_json import read_json
from bobot.errors import CheckpointError

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
ENDINGS = (".lora_A.weight", ".lora_B.weight")

MAX_ALPHA = 1e6

WITHOUT_EFFECT = frozenset(
    (
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_dropout",
        "lora_ga_config",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
    )
)
"""Of training, of the choice of layers, or details of what another setting turns on."""

READ = frozenset(("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern"))
CHOICES: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "task_type": ("CAUSAL_LM", None),
    "bias": ("none",),
    # The others begin with a change of the model's own weights, which the files do not hold.
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
}

_PLAIN_NAME = re.compile(r"\^?[\w.-]{1,256}", re.ASCII)


def read_peft(folder: Path) -> LoraFile:
    """The adapter in a folder; of its tensors only the headers are read. Raises CheckpointError."""
    config = read_json(folder / CONFIG)
    _check(folder / CONFIG, config)
    path = folder / TENSORS
    if not path.is_file():
        raise CheckpointError(
            "{folder} has no {name}.",
            hint="PEFT's save_pretrained writes it. A .bin file is not read: it could run code.",
            folder=folder,
            name=TENSORS,
        )
    pairs = paired(path, read_safetensors(path), PREFIX, ENDINGS)
    layers = {}
    for name, (a, b) in pairs.items():
        _check_target(folder / CONFIG, config, name)
        layers[name] = StoredLora(a, b, _scale(folder / CONFIG, config, name, a.shape[0]))
    return LoraFile(folder, "hf", layers)


def _check(path: Path, config: Mapping[str, Any]) -> None:
    """Refuses what would change the result."""
    for key, allowed in CHOICES.items():
        value = config.get(key, allowed[0])
        if not any(type(value) is type(choice) and value == choice for choice in allowed):
            raise _refused(path, key, value, " or ".join(map(str, allowed)))
    known = WITHOUT_EFFECT | READ | CHOICES.keys() | {"target_modules"}
    for key, value in config.items():
        is_off = value in (None, False, "", [], {})
        if key not in known and not is_off:
            raise _refused(path, key, value, "null")


def _check_target(path: Path, config: Mapping[str, Any], layer: str) -> None:
    """A list of targets names the layer, or the end of its name."""
    targets = config.get("target_modules")
    if isinstance(targets, str):
        return
    if not isinstance(targets, list) or not all(isinstance(name, str) for name in targets):
        raise _refused(path, "target_modules", targets, "a list of names, or one text")
    if not any(layer == name or layer.endswith(f".{name}") for name in targets):
        raise CheckpointError(
            "{file}: target_modules does not name {layer}, but there are matrices for it.",
            hint="Settings and tensors belong to different adapters: download them together.",
            file=path,
            layer=shown(layer),
        )


def _scale(path: Path, config: Mapping[str, Any], layer: str, rank: int) -> float:
    """alpha / rank, or alpha / sqrt(rank) where the training took that (arXiv:2312.03732)."""
    wanted = _of_layer(path, config, "rank_pattern", layer, config.get("r", 8))
    if type(wanted) is not int or wanted != rank:
        raise CheckpointError(
            "{file}: the rank of {layer} is {found} here; its matrices have {rank}.",
            hint="Settings and tensors belong to different adapters: download them together.",
            file=path,
            layer=shown(layer),
            found=shown(wanted),
            rank=rank,
        )
    alpha = _of_layer(path, config, "alpha_pattern", layer, config.get("lora_alpha", 8))
    if type(alpha) not in (int, float) or not abs(alpha) <= MAX_ALPHA:
        raise _refused(path, "lora_alpha", alpha, f"a number up to {MAX_ALPHA}")
    is_rank_stable = config.get("use_rslora", False)
    if not isinstance(is_rank_stable, bool):
        raise _refused(path, "use_rslora", is_rank_stable, "true or false")
    return alpha / (math.sqrt(rank) if is_rank_stable else rank)


def _of_layer(
    path: Path, config: Mapping[str, Any], key: str, layer: str, otherwise: object
) -> Any:
    """The value of the first pattern that is the layer's name, or the end of it; ^NAME is the whole
    name only.
    """
    patterns = config.get(key) or {}
    if not isinstance(patterns, dict):
        raise _refused(path, key, patterns, "an object")
    for pattern, value in patterns.items():
        name = pattern.replace("\\.", ".")
        if not _PLAIN_NAME.fullmatch(name):
            raise _refused(path, key, pattern, "plain names of layers")
        if layer == name.removeprefix("^") or layer.endswith(f".{name}"):
            return value
    return otherwise


def _refused(path: Path, key: str, found: object, allowed: str) -> CheckpointError:
    return CheckpointError(
        "{file}: {key} is {found}; allowed: {allowed}.",
        hint="bobot adds plain LoRA. Merge the adapter into its model with PEFT, and load that.",
        file=path,
        key=shown(key),
        found=shown(found),
        allowed=allowed,
    )
