"""A `bobot serve` of this checkout for the scripts beside this file: started, asked, ended.

The scripts are not part of `make test`. What they install goes into build/accept, at run time.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "accept"


class Running(NamedTuple):
    url: str
    process: subprocess.Popen[str]
    log: Path


@contextlib.contextmanager
def serving(*words: str, name: str = "server") -> Iterator[Running]:
    """The server with folders of its own, on a free port; it has to end with status 0."""
    home = BUILD / name
    home.mkdir(parents=True, exist_ok=True)
    environment = environment_with_bobot(home)
    log = home / "log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "bobot", "serve", "--port", "0", *words],
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            text=True,
        )
    told = ""
    assert process.stdout is not None
    for line in process.stdout:
        told += line
        if "ready" in line:
            break
    match = re.search(r"http://[^ ]*:(\d+)", told)
    assert match and "ready" in told, told + log.read_text()
    try:
        yield Running(f"http://127.0.0.1:{match[1]}", process, log)
    finally:
        process.terminate()
        status = process.wait(120)
        process.stdout.close()
    assert status == 0, f"the server ended with {status}: {log.read_text()[-2000:]}"


def environment_with_bobot(home: Path) -> dict[str, str]:
    """This one with the folders of `home` for all that bobot keeps, and this checkout's bobot."""
    names = ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "HOME")
    folders = {name: str(home / name) for name in names}
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, **folders, "PYTHONPATH": path}


def clean_environment() -> dict[str, str]:
    """This one, without packages of another Python."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def python_with(name: str, *packages: str, beside: str | None = None) -> Path:
    """The Python of an environment in build/accept that has these packages, and those that lie in
    the folder `beside`.
    """
    folder = BUILD / name
    python = folder / "bin" / "python"
    done = folder / "installed.txt"
    wanted = "\n".join(packages)
    if not done.exists() or done.read_text() != wanted:
        venv.create(folder, with_pip=True, clear=True)
        if beside is not None:
            (packages_folder,) = folder.glob("lib/python*/site-packages")
            (packages_folder / "beside.pth").write_text(beside)
        command = [_installer(), "pip", "install", "--quiet", "--python", python, *packages]
        subprocess.run(command, check=True, env=clean_environment())
        done.write_text(wanted)
    return python


def node_with(name: str, *packages: str) -> Path:
    """A folder in build/accept with these packages of npm."""
    folder = BUILD / name
    done = folder / "installed.txt"
    wanted = "\n".join(packages)
    if not done.exists() or done.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "package.json").write_text('{"private": true, "type": "module"}')
        command = ["npm", "install", "--silent", "--no-audit", "--no-fund", *packages]
        subprocess.run(command, check=True, cwd=folder)
        done.write_text(wanted)
    return folder


def _installer() -> Path:
    """uv, which finds versions that fit in seconds where pip needs minutes."""
    folder = BUILD / "uv"
    uv = folder / "bin" / "uv"
    if not uv.exists():
        venv.create(folder, with_pip=True, clear=True)
        command = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "uv==0.13.9"]
        subprocess.run(command, check=True, env=clean_environment())
    return uv
