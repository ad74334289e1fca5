"""A repository of a few small files for tests of pulls, and what a pull of it left."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from hub_server import FakeHub

from bobot.hub.cache import CacheEntry
from bobot.hub.pull import carry_out, plan_pull
from bobot.hub.remote import Hub
from bobot.hub.transfer import Meter

NAME = "org/tiny"
SHARD = "model-00002-of-00002.safetensors"
FILES = {
    "README.md": b"---\nlicense: mit\n---\n",
    "config.json": b'{"architectures": ["LlamaForCausalLM"]}',
    "tokenizer.json": b"{}",
    "model.safetensors.index.json": b'{"weight_map": {}}',
    "model-00001-of-00002.safetensors": os.urandom(300_000),
    SHARD: os.urandom(500_000),
}
UNWANTED = {
    "original/model.safetensors": b"again",
    "metal/model.bin": b"and again",
    "pytorch_model.bin": b"pickle",
    ".gitattributes": b"",
}

Pull = Callable[..., Path]


def contents(snapshot: Path) -> dict[str, bytes]:
    files = (path for path in snapshot.rglob("*") if path.is_file())
    return {path.relative_to(snapshot).as_posix(): path.read_bytes() for path in files}


def num_downloads(hub: FakeHub) -> int:
    return sum(len(hub.downloads(name)) for name in FILES if not name.endswith(".safetensors")) + (
        sum(r.host == "storage" for r in hub.requests)
    )


def pull_as(client: Hub, entry: CacheEntry) -> Path:
    planned = plan_pull(client, entry, "main", None)
    return carry_out(client, planned, Meter(1, threading.Event()), lambda: None)
