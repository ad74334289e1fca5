"""The name a user typed -> the folder or file of a model on this machine. Never downloads, never
loads.

In this order: nothing or "bobot" is the embedded model; an existing path is itself; a short name
of aliases.toml stands for its repository; a repository id is looked for in bobot's own folder,
then in the Hugging Face cache, which is read in place.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from bobot.errors import NotFoundError
from bobot.paths import user_paths

EMBEDDED = "bobot"
HOSTED = ("openai", "anthropic", "gemini", "xai")
MODEL_FILES = ("config.json", "params.json")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_LATER_PART = re.compile(r"-(?!0*1-)\d+-of-\d+\.gguf$")
_STORED = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)


@cache
def aliases() -> dict[str, str]:
    """Short name -> Hugging Face repository id."""
    text = Path(__file__).with_name("aliases.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)["aliases"]


def embedded_folder() -> Path:
    """Where the embedded model is packed, whether or not it is there."""
    return Path(__file__).resolve().parents[1] / "assets"


def is_model(path: Path) -> bool:
    """Whether `path` looks like a model: a weight file, or a folder with a config or GGUF files."""
    # os.path, since a prompt is asked too: Path.is_file raises for a text too long to be a name.
    if os.path.isfile(path):
        return path.suffix in (".gguf", ".safetensors")
    return any(os.path.isfile(path / name) for name in MODEL_FILES) or bool(ggufs(path))


def names_model(name: str, environ: Mapping[str, str] | None = None) -> bool:
    """Whether `name` stands for a model by the rules above, so that it is hardly a prompt."""
    return (
        name == EMBEDDED
        or name in aliases()
        or is_model(Path(name))
        or (_REPOSITORY.fullmatch(name) is not None and _stored(name, environ) is not None)
    )


def resolve(name: str | Path | None, environ: Mapping[str, str] | None = None) -> Path:
    """The folder or file of model `name`; raises NotFoundError that says how to get it."""
    if name is None or name == EMBEDDED:
        return _embedded()
    path = Path(name).expanduser()
    if os.path.exists(path):
        return _in_folder(path)
    name = str(name)
    repository = aliases().get(name, name)
    if stored := _stored(repository, environ):
        return _in_folder(stored)
    raise _not_found(name, repository)


def _embedded() -> Path:
    folder = embedded_folder()
    if not is_model(folder):
        raise NotFoundError(
            "the embedded model is missing: {folder} holds no model.",
            hint="Install bobot again, or name a model folder: bobot chat FOLDER",
            folder=folder,
        )
    return _in_folder(folder)


def ggufs(folder: Path) -> list[Path]:
    """The GGUF models of a folder, sorted; a model in several files is its first file."""
    files = sorted(folder.glob("*.gguf")) if os.path.isdir(folder) else []
    return [file for file in files if not _LATER_PART.search(file.name)]


def _in_folder(path: Path) -> Path:
    """`path` itself, or the one GGUF file of a folder that has nothing else."""
    if path.is_file() or any((path / name).is_file() for name in MODEL_FILES):
        return path
    found = ggufs(path)
    if len(found) == 1:
        return found[0]
    if found:
        raise NotFoundError(
            "{folder} holds {count} GGUF models.",
            hint="Name one of them: {names}",
            folder=path,
            count=len(found),
            names=", ".join(str(file) for file in found),
        )
    raise NotFoundError(
        "{folder} is no model folder: it has no config.json, params.json or .gguf file.",
        hint="Name the folder that the model's publisher ships.",
        folder=path,
    )


def huggingface_cache(environ: Mapping[str, str] | None = None) -> Path:
    """The folder of models--ORG--NAME entries: HF_HUB_CACHE, HF_HOME/hub, or
    ~/.cache/huggingface/hub.
    """
    environ = os.environ if environ is None else environ
    if folder := environ.get("HF_HUB_CACHE"):
        return Path(folder).expanduser()
    if folder := environ.get("HF_HOME"):
        return Path(folder).expanduser() / "hub"
    home = Path(environ.get("HOME") or os.path.expanduser("~"))
    return Path(environ.get("XDG_CACHE_HOME") or home / ".cache") / "huggingface" / "hub"


def snapshot(entry: Path) -> Path | None:
    """The newest complete-looking snapshot of one cache entry: that of refs/main, else the last
    made.
    """
    folder = entry / "snapshots"
    if not folder.is_dir():
        return None
    main = entry / "refs" / "main"
    revisions = [folder / main.read_text(encoding="utf-8").strip()] if main.is_file() else []
    revisions += sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    return next((path for path in revisions if is_model(path)), None)


def _stored(repository: str, environ: Mapping[str, str] | None) -> Path | None:
    """Where `repository` lies in bobot's model folder or in the Hugging Face cache."""
    if not _STORED.fullmatch(repository):
        return None
    own = user_paths(environ).models / repository
    if is_model(own):
        return own
    return snapshot(huggingface_cache(environ) / f"models--{repository.replace('/', '--')}")


def _not_found(name: str, repository: str) -> NotFoundError:
    host, colon, _ = name.partition(":")
    if colon and host in HOSTED:
        return NotFoundError(
            "{name} runs on its owner's computers; this version runs models on your disk only.",
            hint="Name a model folder, or leave the name out for the embedded model.",
            name=name,
        )
    if _REPOSITORY.fullmatch(repository):
        return NotFoundError(
            "{name} is not on this machine, and this version of bobot does not download.",
            hint="Fetch it with: hf download {repository} --local-dir {folder}"
            " and then: bobot chat {folder}",
            name=name,
            repository=repository,
            folder=repository.split("/")[1],
        )
    close = difflib.get_close_matches(name, [EMBEDDED, *aliases()], n=1)
    if close:
        return NotFoundError(
            "no model {name!r}: no such folder or file, and no such short name.",
            hint="Did you mean {close!r}?",
            name=name,
            close=close[0],
        )
    return NotFoundError(
        "no model {name!r}: no such folder or file, and no such short name.",
        hint="bobot list shows what is here.",
        name=name,
    )
