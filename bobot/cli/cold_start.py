"""A fresh `bobot run`, timed from its start to the first byte of the answer.

Python, torch and bobot are in the page cache, since this process has just loaded them: only the
model's files can be cold. Not measured: the first start after a boot, downloads.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bobot.errors import RequestError

PROMPT = "Halo"
MAX_TOKENS = 16
"""More than one, so that the process is still there when its memory is looked at."""


@dataclass(frozen=True)
class Start:
    first_byte_s: float
    resident_bytes: int | None
    """The most memory the process held until then, mapped files included; None where the system
    does not tell."""


def cold_start(model: Path, num_threads: int) -> Start:
    """Of `bobot run` with a model. RequestError if no answer comes."""
    command = [sys.executable, "-m", "bobot", "run", "--raw", "--temperature=0"]
    return first_byte(
        [*command, f"--max-tokens={MAX_TOKENS}", f"--model={model}", PROMPT], num_threads
    )


def first_byte(command: Sequence[str], num_threads: int) -> Start:
    """Starts a process, waits for its first byte on standard output, ends it. RequestError with its
    complaint if none comes.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(num_threads)}
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        with subprocess.Popen(  # noqa: S603  our own programs
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
        ) as process:
            assert process.stdout is not None
            is_there = bool(os.read(process.stdout.fileno(), 1))
            elapsed_s = time.perf_counter() - start
            resident_bytes = _peak_bytes(process.pid)
            if is_there:
                process.kill()
            process.communicate()
        if not is_there:
            errors.seek(0)
            reason = errors.read().decode(errors="replace").strip().removeprefix("bobot: ")
            raise RequestError("bobot run gave no answer: {reason}", reason=reason)
    return Start(elapsed_s, resident_bytes)


def _peak_bytes(pid: int) -> int | None:
    """VmHWM of Linux. A process that has ended has none."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return None
    sizes = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(sizes[0]) << 10 if sizes else None
