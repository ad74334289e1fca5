"""What a benchmark ran on, and what that machine can do at most: both belong to every figure.

The limits are measured in this run, not taken from a data sheet: what loops of ours reach that do
nothing but read 1 GiB, or multiply and add bfloat16 or float32 in registers (kernels/limits.py).
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch  # before our kernels, so that both share its threads

from bobot import hardware
from bobot.kernels.limits import measure as limits_of_machine

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
    limits = limits_of_machine(num_threads, hardware.detect().ram_available_bytes)
    return {
        "bytes_per_s": limits.memory_bytes_per_s,
        "flop_per_s": limits.float_operations_per_s,
    }


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


def run_worker(
    script: str,
    arguments: list[str],
    num_threads: int,
    *,
    python: Sequence[str | Path] = (sys.executable,),
    job: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The JSON object that a fresh process of `python` running `script` prints last. `job` is what
    it finds at its standard input.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(num_threads), "HF_HUB_OFFLINE": "1"}
    command = [*map(str, python), script, *arguments]
    given = None if job is None else json.dumps(job)
    done = subprocess.run(command, env=environment, input=given, capture_output=True, text=True)
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
