"""`bobot serve` in a process of its own, on a real port, with the embedded model. Not a test."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx2


class Server:
    """`bobot serve` in a process; `lines` is what it said until it was ready."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.errors = folder / "stderr"
        names = ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "HOME")
        environment = {**os.environ, **{name: str(folder / name) for name in names}}
        environment |= {"LANG": "C.UTF-8", "OMP_NUM_THREADS": "1", "HF_HOME": str(folder / "hf")}
        environment.pop("BOBOT_API_KEY", None)
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bobot", "serve", "--port", "0", *words],
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                text=True,
            )
        self.lines: list[str] = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if "ready" in line:
                break
        told = "".join(self.lines)
        match = re.search(r"http://[^ ]*:(\d+)", told)
        assert match and "ready" in told, told + self.errors.read_text()
        self.port = int(match[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def ask(self, path: str, body: object = None, **options) -> httpx2.Response:
        with httpx2.Client(base_url=self.url, timeout=30) as client:
            method = "GET" if body is None else "POST"
            return client.request(method, path, json=body, **options)

    def metric(self, name: str, key: str = "") -> float:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        text = self.ask("/metrics", headers=headers).text
        return sum(float(v) for v in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.M))

    def end(self, sig: int = signal.SIGTERM) -> int:
        self.process.send_signal(sig)
        return self.process.wait(60)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
