"""Facts about this machine: processor, memory, disk, GPUs. Read from the system, never guessed.

Inside a container the limits of its control group count, not those of the host. No torch: a GPU is
found through nvidia-smi. Not measured here: speeds.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

FEATURES = {
    "avx2": "avx2",
    "fma": "fma",
    "f16c": "f16c",
    "avx512f": "avx512f",
    "avx512_vnni": "avx512vnni",
    "avx512_bf16": "avx512bf16",
    "avx_vnni": "avxvnni",
    "amx_tile": "amx_tile",
    "amx_int8": "amx_int8",
    "amx_bf16": "amx_bf16",
    "asimd": "neon",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "bf16": "bf16",
}
"""The kernel's flag names in /proc/cpuinfo (x86, then Arm) and ours."""


@dataclass(frozen=True)
class Gpu:
    name: str
    memory_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Hardware:
    """One machine as bobot may use it."""

    cpu: str
    num_cores: int
    """Cores this process may use: affinity and control-group quota, rounded up."""
    features: tuple[str, ...]
    ram_bytes: int
    ram_available_bytes: int
    disk_free_bytes: int
    gpus: tuple[Gpu, ...]
    system: str
    python: str


def detect(disk: Path = Path("."), root: Path = Path("/")) -> Hardware:
    """The facts now; `disk` is a path on the disk that is asked about, `root` holds proc/ and
    sys/.
    """
    cpu, features = _cpu(root)
    total, available = _memory(root)
    return Hardware(
        cpu=cpu,
        num_cores=_num_cores(root),
        features=features,
        ram_bytes=total,
        ram_available_bytes=available,
        disk_free_bytes=shutil.disk_usage(existing_folder(disk)).free,
        gpus=_nvidia_gpus(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
    )


def existing_folder(path: Path) -> Path:
    """`path`, or the nearest folder above it that exists: on whose disk it will lie."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if place.exists())


def _read(path: Path) -> str:
    """The file's text, or "" where this system has no such file."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _fields(text: str) -> dict[str, str]:
    """{"model name": "..."} from the first block of "key : value" lines."""
    pairs = (line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _cpu(root: Path) -> tuple[str, tuple[str, ...]]:
    fields = _fields(_read(root / "proc/cpuinfo"))
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    features = tuple(ours for flag, ours in FEATURES.items() if flag in flags)
    return fields.get("model name") or platform.processor() or platform.machine(), features


def _num_cores(root: Path) -> int:
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    quota = _cpu_quota(root)
    return max(1, min(cores, -(-quota[0] // quota[1]))) if quota else cores


def _cpu_quota(root: Path) -> tuple[int, int] | None:
    """(quota, period) in microseconds of the control group, None where there is no limit."""
    parts = _read(root / "sys/fs/cgroup/cpu.max").split()
    if not parts:
        folder = root / "sys/fs/cgroup/cpu"
        parts = [_read(folder / name).strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
    if len(parts) == 2 and all(part.isdigit() for part in parts) and int(parts[1]) > 0:
        return int(parts[0]), int(parts[1])
    return None


def _memory(root: Path) -> tuple[int, int]:
    """(total, available) bytes: the machine's, cut to the control group's limit."""
    fields = _fields(_read(root / "proc/meminfo"))
    if fields:
        total, available = (
            int(fields.get(name, "0 kB").split()[0]) * 1024 for name in ("MemTotal", "MemAvailable")
        )
    else:
        page = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
        total = available = page * (os.sysconf("SC_PHYS_PAGES") if page else 0)
    for limit_name, used_name in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        limit = _read(root / "sys/fs/cgroup" / limit_name).strip()
        if limit.isdigit() and int(limit) < total:
            used = _read(root / "sys/fs/cgroup" / used_name).strip()
            total = int(limit)
            available = min(available, total - int(used) if used.isdigit() else total)
    return total, max(0, available)


def _nvidia_gpus() -> tuple[Gpu, ...]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = "--query-gpu=name,memory.total,memory.free"
    try:
        answer = subprocess.run(  # noqa: S603  fixed arguments
            [program, query, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return _parse_nvidia(answer.stdout) if answer.returncode == 0 else ()


def _parse_nvidia(text: str) -> tuple[Gpu, ...]:
    """One Gpu for each line "NVIDIA H200, 143771, 143200" (MiB)."""
    rows = (line.rsplit(",", 2) for line in text.splitlines() if line.count(",") >= 2)
    return tuple(
        Gpu(name.strip(), int(total) << 20, int(free) << 20)
        for name, total, free in rows
        if total.strip().isdigit() and free.strip().isdigit()
    )
