"""What a benchmark ran on, and what that machine can do at most: both belong to every figure.

The limits are what torch reaches in this run, not a data sheet: read bandwidth over 1 GiB, and the
better of float32 and bfloat16 matrix products. A kernel better than torch's can pass 100 %.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]


def describe(num_threads: int) -> dict[str, Any]:
    """Processor, memory, versions, commit and load: what a reader needs to run it again."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=9"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    total_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _cpu_name(),
        "isa": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "num_threads": num_threads,
        "memory_gib": round(total_bytes / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load_average": round(os.getloadavg()[0], 2),
        "commit": commit or "unknown",
    }


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def measure_limits(num_threads: int) -> dict[str, float]:
    """Bytes read per second and floating-point operations per second, best of several tries."""
    torch.set_num_threads(num_threads)
    numbers = torch.ones(2**28)
    vector = torch.ones(2**14)
    reads = [
        numbers.nbytes / _best_s(lambda: numbers.sum()),
        numbers.nbytes / _best_s(lambda: numbers.view(2**14, 2**14) @ vector),
    ]
    products = []
    for dtype in (torch.float32, torch.bfloat16):
        square = torch.randn(1536, 1536).to(dtype)
        products.append(2 * 1536**3 / _best_s(lambda square=square: square @ square))
    return {"bytes_per_s": max(reads), "flop_per_s": max(products)}


def _best_s(work: Callable[[], object], tries: int = 5) -> float:
    times = []
    for _ in range(tries + 1):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def peak_memory_bytes() -> dict[str, int]:
    """Of this process: its peak, file-mapped weights included, and what is its own alone now.

    Read from /proc: getrusage would count the parent's peak too, across fork and exec.
    """
    fields = {}
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        fields[name] = value.split()
    return {
        "peak_bytes": int(fields["VmHWM"][0]) * 1024,
        "anonymous_bytes": int(fields["RssAnon"][0]) * 1024,
    }


def run_worker(script: str, arguments: list[str], num_threads: int) -> dict[str, Any]:
    """The JSON object that a fresh Python process running `script` prints last."""
    environment = os.environ | {"OMP_NUM_THREADS": str(num_threads), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def summary(values: list[float]) -> dict[str, Any]:
    """Median, smallest and largest of the runs, and the runs themselves."""
    return {"median": median(values), "min": min(values), "max": max(values), "runs": values}


def table(rows: list[list[str]]) -> str:
    """Rows as Markdown; the first is the head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])
