"""What this machine can do at most: bytes read from memory and operations of each kind per second.

Measured by C++ loops that do nothing else (csrc/limits.h), with random data and all threads at
once: other programs, a hot processor or neighbours on the same host make them smaller, so measure
before and after what is to be compared with them and take the `larger`. Not here: disks.

    limits = measure(num_threads=2, free_bytes=8 << 30)
    limits.memory_bytes_per_s, limits.operations_per_s["avx512_float32"]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bobot.kernels import _extension

READ_BYTES = 1 << 30
"""More than any cache holds; some virtual machines claim caches of hundreds of MiB."""
LEAST_BYTES_PER_THREAD = 8 << 20
FREE_SHARE = 4
"""One part in so many of the free memory is taken at most to measure its speed."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Limits:
    """The names of operations are instruction set and type: amx_bf16, avx512vnni_int8,
    avx2_float32. A multiply-add counts as two operations.
    """

    num_threads: int
    memory_bytes_per_s: float
    operations_per_s: Mapping[str, float]

    @property
    def precise_operations_per_s(self) -> float:
        """The fastest kind that does not round what it multiplies to 8 bits: what a model whose
        activations are not rounded can reach at most.
        """
        rates = self.operations_per_s.items()
        return max(rate for name, rate in rates if not name.endswith("_int8"))

    @property
    def float_operations_per_s(self) -> float:
        """The fastest kind on bfloat16 or float32."""
        rates = self.operations_per_s.items()
        return max(rate for name, rate in rates if name.endswith(("_bf16", "_float32")))

    def larger(self, other: Limits) -> Limits:
        """The larger of two measurements of each limit."""
        operations = {
            name: max(rate, other.operations_per_s[name])
            for name, rate in self.operations_per_s.items()
        }
        memory = max(self.memory_bytes_per_s, other.memory_bytes_per_s)
        return Limits(self.num_threads, memory, operations)


def measure(num_threads: int, free_bytes: int, progress: Progress | None = None) -> Limits:
    """All limits, in two to five seconds; `progress(done, total)` counts them.

    free_bytes: memory that is free. Raises NotFoundError where the C++ extension is not built.
    """
    native = _extension()
    names = native.operations()
    tell = progress or (lambda done, total: None)
    wanted_bytes = min(READ_BYTES, free_bytes // FREE_SHARE)
    num_bytes = max(wanted_bytes, num_threads * LEAST_BYTES_PER_THREAD)
    tell(0, len(names) + 1)
    memory = native.read_bytes_per_s(num_bytes, num_threads)
    rates = {}
    for done, name in enumerate(names, start=1):
        tell(done, len(names) + 1)
        rates[name] = native.operations_per_s(name, num_threads)
    return Limits(num_threads, memory, rates)
