"""Open a model's weights whatever form they were published in; the content decides, not the name.

A folder with Hugging Face's files and Meta's or Mistral's beside them is read as Hugging Face's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bobot.checkpoints.gguf import read_gguf, split_paths
from bobot.checkpoints.mapped import MappedFile
from bobot.checkpoints.meta_pth import read_pth, shard_paths
from bobot.checkpoints.openai_files import is_openai_config, numbered_files, read_numbered
from bobot.checkpoints.safetensors import read_safetensors, read_sharded
from bobot.checkpoints.stored import Checkpoint
from bobot.checkpoints.strict_json import read_json
from bobot.checkpoints.xai_ckpt import FOLDER, ckpt_folder, read_ckpt
from bobot.errors import CheckpointError, NotFoundError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
MISTRAL = "consolidated.safetensors"
GGUF_SAMPLING = {
    "general.sampling.temp": "temperature",
    "general.sampling.top_p": "top_p",
    "general.sampling.top_k": "top_k",
    "general.sampling.min_p": "min_p",
    "general.sampling.penalty_repeat": "repetition_penalty",
}
"""What a GGUF may recommend, and its name in generation_config.json."""


def open_checkpoint(path: Path | str) -> Checkpoint:
    """The checkpoint in a folder, or in one .gguf or .safetensors file.

    Only headers are read; tensors are read (or mapped) when asked for. Raises NotFoundError when
    nothing is at `path`, CheckpointError when no weights are there or they are damaged,
    UnsafeFileError when a file could run code.
    """
    path = Path(path)
    if path.is_dir():
        return _open_folder(path)
    if not path.exists():
        raise NotFoundError("{path} does not exist", path=path)
    return _open_file(path)


def _open_folder(folder: Path) -> Checkpoint:
    if _is_there(folder / INDEX) or _is_there(folder / SINGLE):
        return _open_hf(folder)
    if _is_there(folder / MISTRAL):
        return _open_mistral(folder / MISTRAL)
    if shards := shard_paths(folder):
        config = read_json(folder / "params.json")
        return Checkpoint(folder, "meta", [read_pth(shard) for shard in shards], config)
    if files := numbered_files(folder):
        config = read_json(folder / "config.json")
        return Checkpoint(folder, _hf_or_openai(config), [read_numbered(files)], config)
    if ckpt := ckpt_folder(folder):
        return read_ckpt(ckpt)
    if gguf := _the_gguf(folder):
        return _open_gguf(gguf)
    raise _nothing_found(folder)


def _open_file(path: Path) -> Checkpoint:
    file = MappedFile(path)
    if file.read(0, 4) == b"GGUF":
        return _open_gguf(path)
    if file.read(0, 4) == b"PK\3\4":
        raise CheckpointError(
            "{file} is one file of a torch checkpoint; bobot needs its folder, with params.json",
            hint="Give the folder {folder} instead.",
            file=path,
            folder=path.parent,
        )
    if path.name == MISTRAL:
        return _open_mistral(path)
    beside = path.with_name("config.json")
    config = read_json(beside) if beside.exists() else {}
    return Checkpoint(
        path,
        _hf_or_openai(config),
        [read_safetensors(path)],
        config,
        _generation_config(path.parent),
    )


def _open_hf(folder: Path) -> Checkpoint:
    config = read_json(folder / "config.json")
    if _is_there(folder / SINGLE):
        tensors = read_safetensors(folder / SINGLE)
    else:
        tensors = read_sharded(folder / INDEX)
    return Checkpoint(folder, _hf_or_openai(config), [tensors], config, _generation_config(folder))


def _hf_or_openai(config: Mapping[str, Any]) -> str:
    """Both lie in the same files; their settings tell them apart."""
    return "openai" if is_openai_config(config) else "hf"


def _open_mistral(path: Path) -> Checkpoint:
    config = read_json(path.with_name("params.json"))
    return Checkpoint(path.parent, "mistral", [read_safetensors(path)], config)


def _open_gguf(path: Path) -> Checkpoint:
    metadata, tensors = read_gguf(path)
    sampling = {ours: metadata[key] for key, ours in GGUF_SAMPLING.items() if key in metadata}
    return Checkpoint(path, "gguf", [tensors], metadata, sampling)


def _the_gguf(folder: Path) -> Path | None:
    """The one model of a folder; a set counts as one. Raises CheckpointError for a choice."""
    models = {split_paths(path)[0] for path in sorted(folder.glob("*.gguf"))}
    if len(models) > 1:
        raise CheckpointError(
            "{folder} has {count} GGUF models: {names}",
            hint="Give the file you want.",
            folder=folder,
            count=len(models),
            names=", ".join(sorted(path.name for path in models)[:8]),
        )
    return models.pop() if models else None


def _is_there(path: Path) -> bool:
    """True for a link that leads nowhere too: its target is missing, and that must be said."""
    return path.exists() or path.is_symlink()


def _generation_config(folder: Path) -> dict:
    path = folder / "generation_config.json"
    return read_json(path) if path.exists() else {}


def _nothing_found(folder: Path) -> CheckpointError:
    if list(folder.glob("pytorch_model*.bin")):
        return CheckpointError(
            "{folder} has its weights only as pytorch_model.bin, a pickle that bobot does not open",
            hint="Get the same model as safetensors, or as GGUF.",
            folder=folder,
        )
    if loose := sorted(folder.glob("*.safetensors")):
        return CheckpointError(
            "{folder} has {name}, but no {index} that says which tensor is where",
            hint="Download {index} too.",
            folder=folder,
            name=loose[0].name,
            index=INDEX,
        )
    return CheckpointError(
        "{folder} has no weights; looked for {wanted}",
        hint="Give the folder or the file that holds the weights.",
        folder=folder,
        wanted=f"{SINGLE}, {INDEX}, {MISTRAL}, consolidated.NN.pth, {FOLDER}, *.gguf",
    )
