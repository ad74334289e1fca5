"""The models that this machine can serve: where they lie, what they are, how they are opened."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from bobot import __version__, gateway
from bobot.chat.local import LocalModel, load
from bobot.chat.service import LocalService, ServiceLimits
from bobot.engine import EngineConfig
from bobot.errors import BobotError, NotFoundError, RequestError, StorageError
from bobot.hub import removal as removals
from bobot.hub.cache import CacheEntry, huggingface_cache
from bobot.hub.digest import model_digest
from bobot.hub.made import forget_missing
from bobot.hub.manifest import describe
from bobot.hub.names import EMBEDDED, gguf_parts, not_found, reference, resolve
from bobot.hub.pull import Plan, carry_out, check_room, plan_pull, room_for
from bobot.hub.remote import Hub
from bobot.hub.store import models as stored_models
from bobot.hub.transfer import Meter
from bobot.paths import user_paths
from bobot.quant.tiles import Activations
from bobot.server.models import Facts, Opened, Source
from bobot.text import load_tokenizer, with_template
from bobot.text.gguf_metadata import read_header
from bobot.weights.subject import subject_of

log = logging.getLogger("bobot.server")


class Pull:
    """One download: planned when it is made, carried out in a thread of its own."""

    def __init__(self, hub: Hub, plan: Plan, stop: threading.Event) -> None:
        self.digest = plan.commit
        self.meter = Meter(plan.total_bytes, stop)
        self._hub = hub
        self._plan = plan
        self._stop = stop

    def carry_out(self) -> None:
        """Raises DownloadError, StorageError; RequestError after stop()."""
        with contextlib.closing(self._hub):
            carry_out(self._hub, self._plan, self.meter, self._watch)

    def stop(self) -> None:
        self._stop.set()

    def _watch(self) -> None:
        if self._stop.is_set():
            raise RequestError("The download was stopped.")


@dataclass(frozen=True)
class Library:
    """Opens models as `bobot serve` was told to."""

    engine_config: EngineConfig = field(default_factory=EngineConfig)
    limits: ServiceLimits = field(default_factory=ServiceLimits)
    max_prefix_bytes: int = 0
    """Of the prefix cache on the disk; 0: none."""
    activations: Activations = None
    """See chat.local.load."""
    chat_template: str | None = None
    """In the place of the models' own."""

    def sources(self, names: Iterable[str]) -> list[Source]:
        """Those named, or without a name the embedded model, all others on this machine, and the
        hosted ones for which the environment has a key. Raises NotFoundError.
        """
        names = list(names)
        if names:
            return [self.source(name) for name in names]
        found = []
        for name, path in stored_models():
            try:
                found.append(self._source(name, path))
            except BobotError as error:
                log.warning("%s is not served: %s", name, error)
        return [*found, *map(_hosted, gateway.model_names())]

    def source(self, name: str) -> Source:
        """A model of this machine, or HOST:MODEL of a hosted one. Raises NotFoundError,
        CheckpointError for damaged files, GatewayError for a host without its key.
        """
        if gateway.is_hosted(name):
            return _hosted(name)
        path = resolve(name)
        is_path = os.path.exists(name) and name != EMBEDDED
        shown = (path.stem if path.is_file() else path.resolve().name) if is_path else name
        return self._source(shown, path)

    def template(self, facts: Facts) -> str | None:
        """The chat template of a model, read without its weights."""
        if facts.path is None:
            return None
        try:
            tokenizer = load_tokenizer(Path(facts.path))
        except NotFoundError:
            return None
        return tokenizer.published_template or tokenizer.chat_template

    def plan(self, name: str) -> Pull:
        """What a download of `name` will do, after one look at the Hub. Raises NotFoundError,
        DownloadError, StorageError.
        """
        wanted = reference(name)
        if wanted is None:
            raise not_found(name, None)
        stop = threading.Event()
        hub = Hub(os.environ, sleep=stop.wait)
        try:
            entry = CacheEntry(huggingface_cache(), wanted.repository)
            plan = plan_pull(hub, entry, "main", wanted.quantization)
            check_room(plan, room_for(entry.cache))
        except BaseException:
            hub.close()
            raise
        return Pull(hub, plan, stop)

    def plan_removal(self, name: str) -> removals.Removal:
        """Raises UsageError for what is not bobot's to remove."""
        return removals.plan_removal(name)

    def remove(self, removal: removals.Removal) -> None:
        """Deletes the files. Raises StorageError."""
        removals.remove(removal)
        forget_missing()

    def _source(self, name: str, path: Path) -> Source:
        manifest = describe(name, path, read_header)
        facts = Facts(
            created_s=int(path.stat().st_mtime),
            context=manifest.context,
            num_parameters=manifest.num_parameters,
            size_bytes=manifest.size_bytes,
            form=manifest.dtype,
            family=manifest.architecture,
            licence=manifest.licence,
            digest=model_digest(path, [path] if path.is_dir() else gguf_parts(path)),
            path=str(path),
        )

        async def open_it() -> Opened:
            return await asyncio.to_thread(self._open, name, path, facts.digest)

        return Source(name, facts, lambda: memory_bytes(path), open_it)

    def _open(self, name: str, path: Path, digest: str | None) -> Opened:
        model = load(path, engine_config=self.engine_config, activations=self.activations)
        model.name = name
        if self.chat_template is not None:
            model.tokenizer = with_template(model.need_tokenizer(), self.chat_template)
        if self.max_prefix_bytes:
            self._keep_prefixes(model, path, digest or _stamp(path))
        service = LocalService(model, self.limits)
        return Opened(
            service,
            model.tokenizer,
            service.prompt_ids,
            lambda: dataclasses.asdict(service.stats()),
            model.engine.config.max_num_seqs,
        )

    def _keep_prefixes(self, model: LocalModel, path: Path, weights: str) -> None:
        """A model answers without a prefix cache on the disk where it can't have one."""
        try:
            model.engine.keep_prefixes(
                user_paths().prefixes, self.max_prefix_bytes, f"{weights} bobot {__version__}", path
            )
        except StorageError as error:
            log.warning("%s: no prefix cache on the disk: %s", model.name, error)


def _stamp(path: Path) -> str:
    """Which files a model is made of, where reading them all would take long."""
    is_folder = path.is_dir()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if is_folder else gguf_parts(path)
    found = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return json.dumps(found)


def _hosted(name: str) -> Source:
    """Nothing is sent before a request comes; it takes no memory here."""
    checked = gateway.open_model(name)

    async def open_it() -> Opened:
        return Opened(gateway.open_model(name))

    owner = name.partition(":")[0]
    facts = Facts(context=checked.max_model_len, owner=owner, is_hosted=True)
    return Source(name, facts, lambda: 0, open_it)


def memory_bytes(path: Path) -> int:
    """What a model takes in memory: its weights as published, and the cache of one context."""
    subject = subject_of(path)
    specs = subject.model.kv_specs()  # type: ignore[operator]
    token_bytes = sum(spec.cached_per_token for spec in specs) * subject.published.dtype.itemsize
    return subject.published.num_bytes + token_bytes * subject.config.max_position_embeddings
