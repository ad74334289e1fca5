"""The first layout of gpt-oss, as it lies under `original/` of its repositories: a config.json in
OpenAI's own words, and safetensors in one file or several, with an index or without.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bobot.checkpoints.safetensors import read_safetensors
from bobot.checkpoints.stored import StoredTensor, shown
from bobot.errors import CheckpointError

CONFIG_KEYS = frozenset({"num_experts", "experts_per_token", "rope_ntk_alpha"})
"""Settings under names that no config of Hugging Face has together."""

_NUMBERED = re.compile(r"model--(\d{5})-of-(\d{5})\.safetensors")


def is_openai_config(config: Mapping[str, Any]) -> bool:
    return "architectures" not in config and config.keys() >= CONFIG_KEYS


def numbered_files(folder: Path) -> list[Path]:
    """The files model--00001-of-00007.safetensors and on, which may come without an index.

    Raises CheckpointError where one of the set is missing.
    """
    matches = [match for path in folder.iterdir() if (match := _NUMBERED.fullmatch(path.name))]
    totals = {int(match[2]) for match in matches}
    if matches and totals != {len(matches)}:
        raise CheckpointError(
            "{folder}: {found} files {name} are there; their names announce {total}",
            hint="Download the model again; files that are complete are kept.",
            folder=folder,
            found=len(matches),
            name="model--NNNNN-of-NNNNN.safetensors",
            total=" and ".join(str(total) for total in sorted(totals)),
        )
    return sorted(folder / match[0] for match in matches)


def read_numbered(paths: list[Path]) -> dict[str, StoredTensor]:
    """The tensors of all files; a name may stand in one of them only."""
    tensors: dict[str, StoredTensor] = {}
    for path in paths:
        found = read_safetensors(path)
        if twice := sorted(tensors.keys() & found.keys()):
            raise CheckpointError(
                "{file}: tensor {name} is in an earlier file of the set too",
                file=path,
                name=shown(twice[0]),
            )
        tensors |= found
    return tensors
