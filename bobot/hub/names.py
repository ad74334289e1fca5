"""The name a user typed -> the folder or file of a model on this machine. Never downloads, never
loads.

In this order: nothing or "bobot" is the embedded model; an existing path is itself; a short name
of aliases.toml stands for its repository; a repository id is looked for in bobot's own folder,
then in the Hugging Face cache, which is read in place. What follows an id chooses one of its GGUF
files: ORG/NAME:Q4_K_M or ORG/NAME/FILE.gguf.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from bobot.errors import NotFoundError
from bobot.hub.cache import CacheEntry, huggingface_cache
from bobot.hub.needed import GROK_FOLDER, quantizations
from bobot.paths import user_paths

EMBEDDED = "bobot"
HOSTED = ("openai", "anthropic", "gemini", "xai")
MODEL_FILES = ("config.json", "params.json")
_PAGE = re.compile(r"(https?://)?(huggingface\.co|hf\.co)/")
_REFERENCE = re.compile(
    r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::([\w.-]+)|/([\w./-]+\.gguf))?", re.ASCII
)
_LATER_PART = re.compile(r"-(?!0*1-)\d+-of-\d+\.gguf$")
_STORED = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)


class Reference(NamedTuple):
    """A repository, and which of its GGUF models (a tag or a file name; None: the usual one)."""

    repository: str
    quantization: str | None = None


@cache
def _short_names() -> dict[str, dict[str, Any]]:
    text = Path(__file__).with_name("aliases.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)["aliases"]


def aliases() -> dict[str, str]:
    """Short name -> Hugging Face repository id."""
    return {name: entry["repository"] for name, entry in _short_names().items()}


def reference(name: str) -> Reference | None:
    """What a short name, a repository id or the address of a repository's page stands for."""
    if name in aliases():
        return Reference(aliases()[name])
    match = _REFERENCE.fullmatch(_PAGE.sub("", name, count=1).rstrip("/"))
    return Reference(match[1], match[2] or match[3]) if match else None


def embedded_folder() -> Path:
    """Where the embedded model is packed, whether or not it is there."""
    return Path(__file__).resolve().parents[1] / "assets"


def is_model(path: Path) -> bool:
    """Whether `path` looks like a model: a weight file, or a folder with a config or GGUF files."""
    # os.path, since a prompt is asked too: Path.is_file raises for a text too long to be a name.
    if os.path.isfile(path):
        return path.suffix in (".gguf", ".safetensors")
    return has_settings(path) or bool(ggufs(path))


def has_settings(folder: Path) -> bool:
    """Whether `folder` is a model by itself: by its config, or as xAI's checkpoint without one."""
    return (
        any(os.path.isfile(folder / name) for name in MODEL_FILES)
        or os.path.isdir(folder / GROK_FOLDER)
        or os.path.isfile(folder / "tensor00000_000")  # the inside of GROK_FOLDER
    )


def names_model(name: str, environ: Mapping[str, str] | None = None) -> bool:
    """Whether `name` stands for a model by the rules above, so that it is hardly a prompt."""
    return (
        name == EMBEDDED
        or name in aliases()
        or is_model(Path(name))
        or ((found := reference(name)) is not None and _stored(found, environ) is not None)
    )


def resolve(name: str | Path | None, environ: Mapping[str, str] | None = None) -> Path:
    """The folder or file of model `name`; raises NotFoundError that says how to get it."""
    if name is None or name == EMBEDDED:
        return _embedded()
    path = Path(name).expanduser()
    if os.path.exists(path):
        return _in_folder(path)
    name = str(name)
    found = reference(name)
    if stored := _stored(found or Reference(name), environ):
        return stored
    raise not_found(name, found)


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


def gguf_parts(path: Path) -> list[Path]:
    """The files of a GGUF model: NAME-00001-of-00003.gguf and its siblings, else the one file."""
    match = re.fullmatch(r"(.*-)0*1(-of-\d+\.gguf)", path.name)
    if match is None:
        return [path]
    begin, end = match.groups()
    files = path.parent.iterdir()
    return sorted(file for file in files if file.name.startswith(begin) and file.name.endswith(end))


def repository_ggufs(folder: Path) -> dict[str, Path]:
    """The GGUF models of a repository's folder, one folder deeper too: tag -> first file."""
    names = [
        file.relative_to(folder).as_posix()
        for pattern in ("*.gguf", "*/*.gguf")
        for file in folder.glob(pattern)
    ]
    return {tag: folder / files[0] for tag, files in quantizations(names).items()}


def _in_folder(path: Path) -> Path:
    """`path` itself, or the one GGUF file of a folder that has nothing else."""
    if path.is_file() or has_settings(path):
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
    return next((path for path in revisions if is_model(path) or repository_ggufs(path)), None)


def repository_folder(repository: str, environ: Mapping[str, str] | None = None) -> Path | None:
    """Where `repository` lies: bobot's model folder, or its snapshot in the Hugging Face cache."""
    if not _STORED.fullmatch(repository):
        return None
    own = user_paths(environ).models / repository
    if is_model(own):
        return own
    return snapshot(CacheEntry(huggingface_cache(environ), repository).folder)


def _stored(wanted: Reference, environ: Mapping[str, str] | None) -> Path | None:
    """The folder or GGUF file on this machine that `wanted` stands for."""
    folder = repository_folder(wanted.repository, environ)
    if folder is None or (wanted.quantization is None and has_settings(folder)):
        return folder
    models = repository_ggufs(folder)
    if wanted.quantization is not None:
        return gguf_called(wanted.quantization, models, folder)
    if len(models) == 1:
        return next(iter(models.values()))
    raise NotFoundError(
        "{folder} holds {count} GGUF models.",
        hint="Name one of them: {names}",
        folder=folder,
        count=len(models),
        names=", ".join(f"{wanted.repository}:{tag}" for tag in models),
    )


def gguf_called(quantization: str, models: Mapping[str, Path], folder: Path) -> Path | None:
    """The model of repository_ggufs(folder) that a tag or a file name stands for."""
    for tag, path in models.items():
        if quantization.lower() == tag.lower() or folder / quantization == path:
            return path
    return None


def not_found(name: str, found: Reference | None) -> NotFoundError:
    """The error for a name that leads to nothing on this machine, with the way to get it."""
    host, colon, _ = name.partition(":")
    if colon and host in HOSTED:
        return NotFoundError(
            "{name} runs on its owner's computers; this needs a model on your disk.",
            hint="bobot chat and bobot run talk with it.",
            name=name,
        )
    if name in aliases():
        return NotFoundError(
            "{name} ({repository}) is not on this machine.",
            hint="Get it with: bobot pull {name} ({size:,.1f} GiB)",
            name=name,
            repository=aliases()[name],
            size=_short_names()[name]["gigabytes"] * 1e9 / (1 << 30),
        )
    if found is not None:
        return NotFoundError(
            "{name} is not on this machine.", hint="Get it with: bobot pull {name}", name=name
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
