"""`bobot doctor`: what this machine has, what is missing, what to do. Changes nothing.

Exit status 1 when something is missing that bobot needs; what only makes it faster or nicer is a
note. Looks for torch without importing it.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from bobot import hardware
from bobot.cli.table import bytes_text, table
from bobot.hub.names import embedded_folder, is_model
from bobot.messages import tr
from bobot.paths import UserPaths, user_paths

MIN_PYTHON = (3, 11)
LITTLE_MEMORY_BYTES = 2 << 30
LITTLE_DISK_BYTES = 2 << 30
CHECKSUMS = "SHA256SUMS"

OK, NOTE, MISSING = "ok", "note", "missing"


@dataclass(frozen=True)
class Finding:
    """One line of the table; `todo` is what to do about it, empty when nothing."""

    name: str
    status: str
    value: str
    todo: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = tr("example: bobot doctor --json")
    parser.add_argument("--json", action="store_true", help=tr("print JSON instead of a table"))


def run(args: argparse.Namespace) -> int:
    paths = user_paths()
    machine = hardware.detect(disk=paths.data)
    findings = list(_findings(machine, paths))
    if args.json:
        report = {
            "hardware": asdict(machine),
            "findings": [asdict(finding) for finding in findings],
        }
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        _print(findings)
    return int(any(finding.status == MISSING for finding in findings))


def _print(findings: list[Finding]) -> None:
    words = {OK: tr("ok"), NOTE: tr("note"), MISSING: tr("MISSING")}
    print(table([(words[finding.status], finding.name, finding.value) for finding in findings]))
    todos = [finding for finding in findings if finding.todo]
    if todos:
        print()
        print(tr("What to do:"))
    for finding in todos:
        print(f"  {finding.name}: {finding.todo}")


def _findings(machine: hardware.Hardware, paths: UserPaths) -> Iterator[Finding]:
    yield _python(machine)
    yield _torch()
    yield _kernels(machine)
    features = " ".join(machine.features) or "-"
    cores = tr("{cpu}, {count} cores", cpu=machine.cpu, count=machine.num_cores)
    yield Finding(tr("processor"), OK, f"{cores} ({features})")
    yield _memory(machine)
    yield _disk(machine)
    yield _gpu(machine)
    yield _embedded()
    yield _folders(paths)
    yield _terminal()


def _python(machine: hardware.Hardware) -> Finding:
    value = f"{machine.python}, {machine.system}"
    if sys.version_info >= MIN_PYTHON:
        return Finding("Python", OK, value)
    return Finding("Python", MISSING, value, tr("install Python 3.11 or newer"))


def _torch() -> Finding:
    try:
        return Finding("torch", OK, importlib.metadata.version("torch"))
    except importlib.metadata.PackageNotFoundError:
        return Finding(
            "torch", MISSING, tr("not installed"), tr("run: make chat (or pip install bobot)")
        )


def _kernels(machine: hardware.Hardware) -> Finding:
    from bobot import kernels

    name = tr("C++ kernels")
    if not kernels.available:
        todo = tr("build them with: make chat. Until then torch does the work, only slower.")
        return Finding(name, NOTE, tr("not built"), todo)
    return Finding(name, OK, tr("built, using {isa}", isa=kernels.isa()))


def _memory(machine: hardware.Hardware) -> Finding:
    value = tr(
        "{free} free of {total}",
        free=bytes_text(machine.ram_available_bytes),
        total=bytes_text(machine.ram_bytes),
    )
    if machine.ram_available_bytes >= LITTLE_MEMORY_BYTES:
        return Finding(tr("memory"), OK, value)
    todo = tr("the embedded model fits; close other programs before loading a larger one")
    return Finding(tr("memory"), NOTE, value, todo)


def _disk(machine: hardware.Hardware) -> Finding:
    value = tr("{free} free", free=bytes_text(machine.disk_free_bytes))
    if machine.disk_free_bytes >= LITTLE_DISK_BYTES:
        return Finding(tr("disk"), OK, value)
    return Finding(tr("disk"), NOTE, value, tr("free some space before fetching models"))


def _gpu(machine: hardware.Hardware) -> Finding:
    if not machine.gpus:
        return Finding(tr("GPU"), OK, tr("none found; bobot runs on the processor"))
    names = (f"{gpu.name} ({bytes_text(gpu.memory_bytes)})" for gpu in machine.gpus)
    return Finding(tr("GPU"), OK, ", ".join(names))


def _embedded() -> Finding:
    name, folder = tr("embedded model"), embedded_folder()
    todo = tr("install bobot again: its files are incomplete or changed")
    if not is_model(folder):
        return Finding(name, MISSING, tr("not in {folder}", folder=folder), todo)
    if not (folder / CHECKSUMS).is_file():
        return Finding(name, NOTE, tr("no {file} to compare with", file=CHECKSUMS), todo)
    if damaged := _damaged_files(folder):
        return Finding(name, MISSING, tr("wrong checksum: {files}", files=", ".join(damaged)), todo)
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    return Finding(name, OK, tr("{size}, checksums right", size=bytes_text(size)))


def _damaged_files(folder: Path) -> list[str]:
    """The names in SHA256SUMS (lines "digest  name") whose file is missing or differs."""
    lines = (folder / CHECKSUMS).read_text(encoding="utf-8").splitlines()
    pairs = (line.split(maxsplit=1) for line in lines if line)
    return [name for digest, name in pairs if _digest(folder / name) != digest]


def _digest(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _folders(paths: UserPaths) -> Finding:
    name = tr("folders")
    closed = [str(path) for path in (paths.data, paths.state) if not _is_writable(path)]
    if not closed:
        return Finding(name, OK, f"{paths.data}, {paths.state}")
    todo = tr("make them writable, or set XDG_DATA_HOME and XDG_STATE_HOME to others")
    return Finding(name, MISSING, tr("can't write: {folders}", folders=", ".join(closed)), todo)


def _is_writable(folder: Path) -> bool:
    """Whether files could be made there: asked of the nearest folder that exists."""
    place = hardware.existing_folder(folder)
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK)


def _terminal() -> Finding:
    name, kind = tr("terminal"), os.environ.get("TERM", "")
    encoding = sys.stdout.encoding or "?"
    if not sys.stdout.isatty():
        return Finding(name, OK, tr("none: output goes to a file or pipe"))
    if kind in ("", "dumb", "unknown"):
        return Finding(
            name, NOTE, kind or "?", tr("the chat is plain here; set TERM for editing and colours")
        )
    if encoding.lower().replace("-", "") != "utf8":
        todo = tr("set a UTF-8 locale, or letters outside ASCII show as ?")
        return Finding(name, NOTE, f"{kind}, {encoding}", todo)
    return Finding(name, OK, f"{kind}, {encoding}")
