"""How fast this machine is now: memory, disk, and the operations that a model's speed is made of.

Each operation is the one that the engine calls, timed for some milliseconds on weights of the right
form and width. So a faster kernel, another machine or a busy one shows in the figure, and nothing
has to be assumed about the efficiency of a path. The values are made up: time depends on the
number of bytes, not on what they say. Where an operation is fast its weights fill SCRATCH_BYTES, so
that they come from memory and not from a cache; servers with larger caches will look too good.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from bobot.ops.attention import AttentionSpec
from bobot.ops.linear import linear
from bobot.ops.span_attention import Span, SpanAttention
from bobot.quant.tiles import tile_layout, weight_from_tiles
from bobot.quant.weight import QuantWeight, Weight

SCRATCH_BYTES = 128 << 20
DISK_BYTES = 128 << 20
FILE_BYTES = 512 << 20
ORDINARY_BYTE = 0x3C
"""Repeated: bfloat16 0.011, float16 1.06, float32 0.011, float8 1.5."""
FEW_ROWS = 64
SHORT_S = 0.02
"""An operation that takes longer is not repeated on more weights."""
_TRIES = 5


class Speeds:
    """Times of this machine in seconds, each measured once, when it is first asked for."""

    def __init__(self) -> None:
        self._times: dict[tuple[object, ...], float] = {}
        self._scratch: Tensor | None = None

    def memory_bytes_per_s(self) -> float:
        """Reading a large array, all threads."""
        numbers = self._bytes().view(torch.float32)
        time_s = self._once(("memory",), lambda: _time(lambda: numbers.sum()))
        return numbers.nbytes / time_s

    def product_s(self, sample: Weight, num_rows: int, dtype: torch.dtype) -> float:
        """A product of `num_rows` tokens with weights stored like `sample`, per weight."""
        if sample.ndim == 3:
            sample = sample[0]
        key = (_kind(sample), num_rows, dtype)
        return self._once(key, lambda: self._product_s(sample, num_rows, dtype))

    def call_s(self, sample: Weight, dtype: torch.dtype) -> float:
        """What a product of one token costs beside the time of its weights."""
        per_weight = self.product_s(sample, 1, dtype)
        matrix = self._weight_like(sample[0] if sample.ndim == 3 else sample, FEW_ROWS)
        x_1D = torch.ones(1, matrix.shape[-1], dtype=dtype)

        def calls() -> None:
            for _ in range(20):
                linear(x_1D, matrix)

        time_s = self._once((_kind(sample), "call", dtype), lambda: _time(calls) / 20)
        return max(0.0, time_s - per_weight * matrix.numel())

    def attention_s(
        self,
        spec: AttentionSpec,
        num_queries: int,
        num_keys: int,
        dtype: torch.dtype,
        has_sinks: bool,
    ) -> float:
        """Attention of one layer: the last `num_queries` of `num_keys` tokens."""
        key = (spec, num_queries, num_keys, dtype, has_sinks)
        return self._once(key, lambda: self._attention_s(*key))

    def activation_s(self, dtype: torch.dtype) -> float:
        """One step between products on a prompt's activations, per element: into fresh memory,
        as there.
        """
        x_TF = torch.ones(512, 4096, dtype=dtype)
        time_s = self._once(("activation", dtype), lambda: _time(lambda: F.silu(x_TF) * x_TF))
        return time_s / x_TF.numel()

    def small_step_s(self) -> float:
        """A product so small that only the call counts."""
        weight, x = torch.ones(64, 64), torch.ones(1, 64)

        def steps() -> None:
            for _ in range(50):
                linear(x, weight)

        return self._once(("small step",), lambda: _time(steps) / 50)

    def _once(self, key: tuple[object, ...], measure: Callable[[], float]) -> float:
        if key not in self._times:
            with torch.inference_mode():
                self._times[key] = measure()
        return self._times[key]

    def _product_s(self, sample: Weight, num_rows: int, dtype: torch.dtype) -> float:
        """Measured on some of the scratch bytes, and where that is short, on more."""
        columns = sample.shape[-1]
        x_RD = torch.ones(num_rows, columns, dtype=dtype)
        per_row = sample.nbytes / sample.shape[0]
        time_s = 0.0
        for share in (64, 8, 1):
            rows = max(512, int(SCRATCH_BYTES / share / per_row) // 512 * 512)
            weight = self._weight_like(sample, rows)
            time_s = _time(lambda weight=weight: linear(x_RD, weight)) / (rows * columns)
            if time_s * rows * columns > SHORT_S:
                break
        return time_s

    def _attention_s(
        self,
        spec: AttentionSpec,
        num_queries: int,
        num_keys: int,
        dtype: torch.dtype,
        has_sinks: bool,
    ) -> float:
        """Of one token over several caches in turn, as the layers' caches follow each other."""
        shape = (num_keys, spec.num_kv_heads, spec.head_dim)
        count = 1
        if num_queries == 1:
            count = max(1, min(8, SCRATCH_BYTES // (2 * num_keys * shape[1] * shape[2] * 2)))
        caches = []
        for _ in range(count):
            keys = torch.full(shape, 0.01, dtype=dtype)
            if spec.v_is_k_prefix:
                values = keys[..., : spec.v_head_dim]
            else:
                values = torch.full((*shape[:2], spec.v_head_dim), 0.01, dtype=dtype)
            caches.append((keys, values))
        queries = torch.ones(num_queries, spec.num_heads, spec.head_dim, dtype=dtype)
        sinks = torch.zeros(spec.num_heads) if has_sinks else None
        first = num_keys - num_queries
        attend = SpanAttention([Span(slice(0, num_queries), first, [0], num_keys, queries.device)])

        def layers() -> None:
            for keys, values in caches:
                attend(queries, keys, values, spec, sinks)

        return _time(layers) / count

    def _weight_like(self, sample: Weight, rows: int) -> Weight:
        """A matrix of `rows` rows stored like `sample`, over the scratch bytes."""
        if isinstance(sample, Tensor):
            return self._tensor_like(sample, rows, 0)[0]
        start, parts = 0, {}
        for name, part in sample.parts.items():
            per_entry = sample.format.rows_per_entry.get(name, 1)
            length = (
                -(-rows // per_entry) if per_entry < 2 or name == "scales" else rows // per_entry
            )
            parts[name], start = self._tensor_like(part, length, start)
        weight = QuantWeight(sample.format, parts, (rows, *sample.shape[1:]))
        layout = tile_layout(weight)
        if layout is None:
            return weight
        return weight_from_tiles(layout, self._bytes()[: layout.num_bytes])

    def _tensor_like(self, part: Tensor, rows: int, start: int) -> tuple[Tensor, int]:
        """A tensor with that many rows, laid out by rows or by columns as `part` is, and where the
        next can start.
        """
        shape = (rows, *part.shape[1:])
        stop = start + rows * (part.numel() // part.shape[0]) * part.element_size()
        if stop > SCRATCH_BYTES:
            start, stop = 0, stop - start
        flat = self._bytes()[start:stop].view(part.dtype)
        is_by_columns = part.ndim == 2 and part.stride(-1) != 1 and part.shape[-1] > 1
        tensor = flat.view(shape[1], shape[0]).t() if is_by_columns else flat.view(shape)
        return tensor, stop + -stop % 64

    def _bytes(self) -> Tensor:
        """Memory that holds an ordinary number in every format."""
        if self._scratch is None:
            # In small pages, as mapped files are: large ones are read 10 to 20 % faster.
            # Tiles take up to 4 % more than the rows they are made of, and whole pages.
            memory = mmap.mmap(-1, SCRATCH_BYTES * 9 // 8)
            if hasattr(mmap, "MADV_NOHUGEPAGE"):
                memory.madvise(mmap.MADV_NOHUGEPAGE)
            self._scratch = torch.frombuffer(memory, dtype=torch.uint8).fill_(ORDINARY_BYTE)
        return self._scratch


def _kind(sample: Weight) -> object:
    return sample.format.name if isinstance(sample, QuantWeight) else sample.dtype


def _time(operation: Callable[[], object]) -> float:
    """The median of a few tries after one that warms up, fewer where it takes long."""
    times = []
    for attempt in range(_TRIES + 1):
        start = time.perf_counter()
        operation()
        times.append(time.perf_counter() - start)
        if attempt and sum(times) > 10 * SHORT_S:
            break
    return median(times[1:])


def disk_bytes_per_s(folder: Path) -> float | None:
    """Reading a new file of `folder`'s disk past the page cache; None where that can't be measured:
    no permission, no room, or no way to empty the cache of one file.
    """
    if not hasattr(os, "posix_fadvise"):
        return None
    chunk = os.urandom(1 << 20)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            for _ in range(DISK_BYTES >> 20):
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            start = time.perf_counter()
            while file.read(4 << 20):
                pass
            return DISK_BYTES / (time.perf_counter() - start)
    except OSError:
        return None


def file_bytes_per_s(path: Path) -> float | None:
    """Reading a file of the disk, or the largest of a folder, in order and past the page cache: the
    better of two tries. None where that can't be measured: no such way on this system or disk.

    At most FILE_BYTES of it; the page cache is left as it is.
    """
    if path.is_dir():
        path = max((f for f in path.iterdir() if f.is_file()), key=lambda f: f.stat().st_size)
    if not hasattr(os, "O_DIRECT"):
        return None
    try:
        return max(_direct_bytes_per_s(path) for _ in range(2))
    except OSError:  # a file system in memory has no direct reading
        return None


def _direct_bytes_per_s(path: Path) -> float:
    buffer = mmap.mmap(-1, 8 << 20)  # direct reading wants memory that begins with a page
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        done, start = 0, time.perf_counter()
        while done < FILE_BYTES and (count := os.preadv(descriptor, [buffer], done)):
            done += count
            if count % mmap.PAGESIZE:  # the end of the file
                break
        return done / (time.perf_counter() - start)
    finally:
        os.close(descriptor)


def forget_cached(path: Path) -> bool:
    """Takes a file, or the files of a folder, out of the page cache, so that the next to read them
    reads the disk. Pages that a process has mapped stay. False where the system knows no way.
    """
    if not hasattr(os, "posix_fadvise"):
        return False
    for file in [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]:
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True
