"""Facts about a machine, read from a copy of the system's files so that every machine can be
played.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bobot import hardware

CPUINFO = """processor\t: 0
model name\t: Test CPU 9000
flags\t\t: fpu avx2 fma f16c avx512f avx512_vnni avx512_bf16 amx_int8

processor\t: 1
model name\t: Another
flags\t\t: fpu
"""
MEMINFO = "MemTotal:       8388608 kB\nMemFree:  10 kB\nMemAvailable:   4194304 kB\n"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system with two processors and 8 GiB, no limits, no GPU."""
    for name, text in (("proc/cpuinfo", CPUINFO), ("proc/meminfo", MEMINFO)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "sys/fs/cgroup/memory").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu").mkdir()
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(hardware.shutil, "which", lambda name: None)
    return tmp_path


def test_processor_and_memory_are_read(root: Path) -> None:
    machine = hardware.detect(root, root)
    assert machine.cpu == "Test CPU 9000"
    assert machine.features == (
        "avx2", "fma", "f16c", "avx512f", "avx512vnni", "avx512bf16", "amx_int8",
    )  # fmt: skip
    assert (machine.ram_bytes, machine.ram_available_bytes) == (8 << 30, 4 << 30)
    assert machine.num_cores == 8
    assert machine.gpus == ()
    assert machine.disk_free_bytes > 0


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 8), ("250000 100000", 3), ("50000 100000", 1), ("9900000 100000", 8), ("x", 8)],
)
def test_cores_are_cut_to_the_quota(root: Path, quota: str, cores: int) -> None:
    (root / "sys/fs/cgroup/cpu.max").write_text(quota)
    assert hardware.detect(root, root).num_cores == cores


def test_old_control_groups_count_too(root: Path) -> None:
    (root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us").write_text("200000\n")
    (root / "sys/fs/cgroup/cpu/cpu.cfs_period_us").write_text("100000\n")
    (root / "sys/fs/cgroup/memory/memory.limit_in_bytes").write_text(str(2 << 30))
    (root / "sys/fs/cgroup/memory/memory.usage_in_bytes").write_text(str(1 << 30))
    machine = hardware.detect(root, root)
    assert machine.num_cores == 2
    assert (machine.ram_bytes, machine.ram_available_bytes) == (2 << 30, 1 << 30)


@pytest.mark.parametrize(
    ("limit", "total", "available"),
    [
        ("max", 8 << 30, 4 << 30),
        (str(1 << 30), 1 << 30, 1 << 29),
        (str(64 << 30), 8 << 30, 4 << 30),
    ],
)
def test_memory_is_cut_to_the_limit(root: Path, limit: str, total: int, available: int) -> None:
    (root / "sys/fs/cgroup/memory.max").write_text(limit)
    (root / "sys/fs/cgroup/memory.current").write_text(str(1 << 29))
    machine = hardware.detect(root, root)
    assert (machine.ram_bytes, machine.ram_available_bytes) == (total, available)


def test_gpus_are_parsed_and_odd_lines_skipped() -> None:
    text = "NVIDIA H200, 143771, 143200\nA, B, 24564, 24000\nGB10, [N/A], [N/A]\nno devices\n"
    assert hardware._parse_nvidia(text) == (
        hardware.Gpu("NVIDIA H200", 143771 << 20, 143200 << 20),
        hardware.Gpu("A, B", 24564 << 20, 24000 << 20),
    )


def test_this_machine_has_cores_and_memory() -> None:
    machine = hardware.detect(Path("/nonexistent/folder"))
    assert machine.num_cores >= 1
    assert 0 < machine.ram_available_bytes <= machine.ram_bytes
