"""`bobot serve` and llama-server on the same GGUF file, started, asked and ended by benchmarks.

llama-server comes from the sources inside llama-cpp-python's package; `llama_server` builds it once
(ten minutes or more on two cores) into build/llama-server.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from engines import LLAMA_CPP
from machine import ROOT

BUILD = ROOT / "build" / "llama-server"
STARTS_IN_S = 120


def llama_server(given: Path | None) -> Path:
    """The program: the given one, or ours, built now if it is not there."""
    program = given or BUILD / "build" / "bin" / "llama-server"
    if not program.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        download = ["pip", "download", "--no-deps", "--no-binary", ":all:", LLAMA_CPP]
        subprocess.run([sys.executable, "-m", *download], cwd=BUILD, check=True)
        (archive,) = BUILD.glob("llama_cpp_python-*.tar.gz")
        with tarfile.open(archive) as packed:
            packed.extractall(BUILD, filter="data")
        sources = BUILD / archive.name.removesuffix(".tar.gz") / "vendor" / "llama.cpp"
        settings = ["-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DBUILD_SHARED_LIBS=OFF"]
        settings += ["-DLLAMA_CURL=OFF", "-DLLAMA_OPENSSL=OFF"]
        folder = BUILD / "build"
        subprocess.run(["cmake", "-S", sources, "-B", folder, *settings], check=True)
        build = ["cmake", "--build", folder, "--target", "llama-server", "--parallel"]
        subprocess.run(build, check=True)
    return program


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def bobot_command(model: Path, port: int, context: int) -> list[str]:
    words = [sys.executable, "-m", "bobot", "serve", str(model), "--port", str(port)]
    return [*words, "--context", str(context)]


def llama_command(program: Path, model: Path, port: int, context: int, slots: int) -> list[str]:
    """`context` tokens for each of `slots` conversations."""
    return [
        *(str(program), "--model", str(model), "--host", "127.0.0.1", "--port", str(port)),
        *("--parallel", str(slots), "--ctx-size", str(slots * context), "--no-webui"),
    ]


@contextlib.contextmanager
def running(command: list[str], port: int, threads: int, home: Path) -> Iterator[str]:
    """The address of a server that answers /health; it is ended afterwards. Its folders lie in
    `home`, so that a second start finds what the first one left.
    """
    home.mkdir(parents=True, exist_ok=True)
    names = ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME")
    environment = os.environ | {name: str(home / name) for name in names}
    environment |= {"OMP_NUM_THREADS": str(threads), "LLAMA_ARG_THREADS": str(threads)}
    url = f"http://127.0.0.1:{port}"
    with (home / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        _wait(url, process, home / "log")
        yield url
    finally:
        process.terminate()
        process.wait(60)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    ends = time.monotonic() + STARTS_IN_S
    while time.monotonic() < ends and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health") as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    process.kill()
    sys.exit(f"the server did not start: {log.read_text()[-2000:]}")
