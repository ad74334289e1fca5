"""The model that a question is about, laid out without memory: from its files, from its settings
file alone, or from the settings that bobot packs of models it has a short name for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from torch import Tensor, nn

from bobot.checkpoints.openai_files import is_openai_config
from bobot.errors import CheckpointError
from bobot.hub.manifest import read_json
from bobot.hub.published_settings import PublishedSettings
from bobot.models.registry import Family, family_of
from bobot.weights.forms import Form, form_of_files, published_form
from bobot.weights.source import build_on_meta, open_model

Origin = Literal["files", "settings", "packed settings"]

WEIGHTS = ("*.safetensors", "*.gguf", "*.pth", "tensor?????_???", "ckpt-0")
LLAMA_2_VOCABULARY = 32000
"""What Meta's params.json of Llama 2 calls -1: its tensors would tell."""


@dataclass(frozen=True)
class Subject:
    """A model and the form it is published in."""

    origin: Origin
    family: Family
    config: Any
    model: nn.Module
    """On the meta device."""
    published: Form
    download_bytes: int
    """What its files take on a disk, 0 where they are on one already."""


@dataclass(frozen=True)
class _Settings:
    """A checkpoint of which only the settings are known; see models.config.TensorSource."""

    config: Mapping[str, Any]
    num_shards: int = 1
    tensors: Mapping[str, Any] = field(default_factory=dict)

    def read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        raise CheckpointError(
            "{name} is not there: only the settings of the model are.",
            hint="Download its weights too.",
            name=name,
        )


def subject_of(path: Path) -> Subject:
    """The model in a folder or file; settings alone are enough.

    Raises ConfigError, CheckpointError.
    """
    if path.suffix == ".json" and path.is_file():
        path = path.parent
    if path.is_dir() and not any(found for pattern in WEIGHTS for found in path.glob(pattern)):
        return _of_settings("settings", *_read_settings(path))
    with open_model(path) as source:
        form = form_of_files("as published", source)
        return Subject("files", source.family, source.config, source.model, form, 0)


def subject_of_packed(settings: PublishedSettings) -> Subject:
    """A model that is not on this machine."""
    return _of_settings(
        "packed settings", settings.dialect, settings.config, settings.download_bytes
    )


def _read_settings(folder: Path) -> tuple[str, Mapping[str, Any]]:
    """(dialect, settings): whose words they are is seen from the words."""
    if not (folder / "config.json").is_file():
        config = read_json(folder / "params.json")
        return ("mistral" if "hidden_dim" in config else "meta"), config
    config = read_json(folder / "config.json")
    if is_openai_config(config):
        return "openai", config
    return ("xai" if config.get("model_type") == "grok-1" else "hf"), config


def _of_settings(
    origin: Origin, dialect: str, config: Mapping[str, Any], download_bytes: int | None = None
) -> Subject:
    tensors = {}
    if dialect in ("meta", "mistral"):  # these ask their tensors; the output is rarely tied
        tensors["output.weight"] = SimpleNamespace(shape=(LLAMA_2_VOCABULARY,))
    settings = _Settings(config, tensors=tensors)
    family = family_of(settings, dialect)
    model_config = family.dialects[dialect].config(settings)
    model = build_on_meta(family, model_config)
    form = published_form("as published", model, family, dialect, config)
    return Subject(origin, family, model_config, model, form, download_bytes or form.num_bytes)
