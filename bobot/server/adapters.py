"""LoRA adapters as models of their own name: opened on top of the model that they change, which
they share with its other adapters, step by step.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from bobot.chat.service import LocalService
from bobot.checkpoints.lora_tensors import LoraFile
from bobot.checkpoints.peft import CONFIG, TENSORS
from bobot.errors import UsageError
from bobot.hub.digest import model_digest
from bobot.server.models import Opened, Source
from bobot.weights.adapters import adapter_bytes, check_adapter, load_adapter, open_adapter

_ASKED = re.compile(r"(?:([^=]+):)?([\w.-]{1,128})=(.+)", re.ASCII)


def adapter_sources(asked: Iterable[str], models: Sequence[Source]) -> list[Source]:
    """What `--adapter [MODEL:]NAME=PATH` asks for; without MODEL an adapter of the first model.

    Raises UsageError, and what the headers of the files are refused for: CheckpointError for an
    adapter that does not fit its model, loaded or not.
    """
    by_name = {model.name: model for model in models}
    found: list[Source] = []
    for words in asked:
        match = _ASKED.fullmatch(words)
        if match is None:
            raise UsageError(
                "--adapter is {found!r}; it takes NAME=PATH or MODEL:NAME=PATH.",
                hint="NAME is of letters, digits, '_', '-' and '.'.",
                found=words,
            )
        model, name, path = match.groups()
        parent = models[0] if model is None else by_name.get(model)
        if parent is None or _is_elsewhere(parent):
            raise UsageError(
                "--adapter {name}: no model {found} of this machine is served; there are:"
                " {allowed}.",
                name=name,
                found=model or models[0].name,
                allowed=", ".join(m.name for m in models if not _is_elsewhere(m)) or "none",
            )
        if name in by_name:
            raise UsageError("--adapter: two models would be called {name}.", name=name)
        found.append(_source(name, Path(path), parent))
        by_name[name] = found[-1]
    return found


def _is_elsewhere(model: Source) -> bool:
    return model.facts.is_hosted or bool(model.facts.routes_to)


def _source(name: str, path: Path, parent: Source) -> Source:
    file = open_adapter(path)
    assert parent.facts.path is not None, "a model of this machine"
    check_adapter(file, Path(parent.facts.path))
    parts = _parts(file)
    facts = replace(
        parent.facts,
        created_s=int(parts[-1].stat().st_mtime),
        size_bytes=sum(part.stat().st_size for part in parts),
        digest=model_digest(parts[0], parts),
        parent=parent.name,
    )

    async def open_it(base: Opened) -> Opened:
        service = base.model
        assert isinstance(service, LocalService), "a model of this machine"
        adapted = await asyncio.to_thread(_adapted, service, name, path)
        return Opened(adapted, base.tokenizer, adapted.prompt_ids)

    return Source(name, facts, lambda: adapter_bytes(file), open_it)


def _adapted(service: LocalService, name: str, path: Path) -> LocalService:
    model = service.model
    return service.adapted(name, load_adapter(open_adapter(path), model.model, model.report.family))


def _parts(file: LoraFile) -> list[Path]:
    return [file.path / CONFIG, file.path / TENSORS] if file.path.is_dir() else [file.path]
