"""The prefix cache below memory: full blocks that are worth it lie in files, and come back after
they were evicted or the process ended.

The engine's thread reads blocks back (a copy and a checksum, far less than computing them) and
hands over copies of new ones; a thread of its own writes those. When the disk is slower than the
model, blocks are dropped: they are offered again when their prompt is computed again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from queue import Full, Queue
from threading import Thread

import torch
from torch import Tensor

from bobot.engine.block_files import BlockFiles
from bobot.engine.kv_cache import KVCache
from bobot.engine.request import Chunk, Request
from bobot.engine.runner import Runner
from bobot.engine.sampling_params import SamplingParams

MIN_PROMPT_TOKENS = 256
"""Prompts from here on are kept when they are first computed, shorter ones when they come again."""
MAX_WAITING_BYTES = 256 << 20
"""Copies of blocks that wait to be written."""
STEP_BYTES = 256 << 20
"""Read between two steps, so that other sequences don't wait long: some 0.1 seconds."""
PROBE_TOKENS = 64
"""More than go through the model in the way of a single token."""

log = logging.getLogger("bobot.engine")


class DiskCache:
    """Blocks of `cache` in `files`. One thread calls it."""

    def __init__(self, files: BlockFiles, cache: KVCache) -> None:
        self.files = files
        self.cache = cache
        self.blocks_per_step = max(1, STEP_BYTES // files.block_bytes)
        self.num_dropped_blocks = 0
        self._buffer = torch.empty(files.block_bytes, dtype=torch.uint8)
        self._queued: set[bytes] = set()
        max_waiting = max(1, MAX_WAITING_BYTES // files.block_bytes)
        self._work: Queue[Callable[[], None] | None] = Queue(max_waiting)
        self._writer: Thread | None = None

    def num_found(self, block_hashes: Sequence[bytes]) -> int:
        """How many of the hashes, from the first on, have a file."""
        for number, block_hash in enumerate(block_hashes):
            if not self.files.has(block_hash):
                return number
        return len(block_hashes)

    def read(self, block_hash: bytes, block: int) -> bool:
        """Puts the stored block into `block` of the cache; False if there is no sound one."""
        is_read = self.files.read(block_hash, self._buffer.numpy().data)
        if is_read:
            self.cache.write_block(block, self._buffer)
        return is_read

    def offer(self, block_hash: bytes, block: int) -> None:
        """Has a full block of the cache written, unless it is there or the writer is behind."""
        if block_hash in self._queued or self.files.has(block_hash):
            return
        if self._work.full():
            self.num_dropped_blocks += 1
            return
        self._queued.add(block_hash)
        self._post(partial(self._write, block_hash, self.cache.read_block(block)))

    def used(self, block_hashes: Sequence[bytes]) -> None:
        """A sequence with these blocks has ended: they are the last to be evicted."""
        self._post(partial(self.files.touch, block_hashes))

    def close(self) -> None:
        """Returns when all that was handed over is written."""
        if self._writer is not None:
            self._work.put(None)
            self._writer.join()
            self._writer = None

    def _post(self, work: Callable[[], None]) -> None:
        if self._writer is None:
            self._writer = Thread(target=self._run, name="prefix cache", daemon=True)
            self._writer.start()
        try:
            self._work.put_nowait(work)
        except Full:  # a touch is forgone; offer looks before it copies
            return

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                work()
            except OSError as error:
                log.warning("%s: the prefix cache failed: %s", self.files.folder, error)

    def _write(self, block_hash: bytes, payload: Tensor) -> None:
        self.files.write(block_hash, payload.numpy().data)
        self._queued.discard(block_hash)


def open_disk_cache(folder: Path, max_bytes: int, model: str, runner: Runner) -> DiskCache:
    """The blocks that `runner` computes for the weights called `model`. Nothing may be in the cache
    yet: a probe runs through the model. Raises StorageError.
    """
    cache = runner.cache
    identity = hashlib.sha256(
        json.dumps(
            [
                model,
                sys.byteorder,
                str(cache.device.type),
                cache.block_size,
                [[str(part.dtype), *part.shape[1:]] for part in cache.stored],
                probe(runner).hex(),
            ]
        ).encode()
    ).digest()
    return DiskCache(BlockFiles(folder, identity, cache.block_bytes, max_bytes), cache)


@torch.inference_mode()
def probe(runner: Runner) -> bytes:
    """SHA-256 of what the model writes into the first blocks for a prompt that is always the same.

    It tells apart what names and versions may not: rounded or changed weights, activations of 8
    bits, other kernels, another processor's arithmetic. Not the experts that the prompt does not
    meet, nor what only happens far behind the start: those are for the name.
    """
    cache = runner.cache
    num_blocks = min(-(-PROBE_TOKENS // cache.block_size), cache.num_blocks)
    vocab_size: int = runner.model.config.vocab_size
    ids = [number * 7919 % vocab_size for number in range(num_blocks * cache.block_size)]
    request = Request(0, ids, SamplingParams(), 0, len(ids) + 1)
    sequence = request.sequences[0]
    sequence.block_table = list(range(num_blocks))
    runner.run([Chunk(sequence, len(ids))])
    digest = hashlib.sha256()
    for block in range(num_blocks):
        digest.update(cache.read_block(block).numpy().data)
    return digest.digest()
