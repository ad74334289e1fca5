"""`bobot list`: the models on this machine."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from bobot.cli.table import bytes_text, count_text, table
from bobot.errors import BobotError
from bobot.hub.made import made_bytes
from bobot.hub.manifest import Manifest
from bobot.hub.store import manifests
from bobot.messages import tr
from bobot.paths import user_paths


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = tr("example: bobot list --json")
    parser.add_argument("--json", action="store_true", help=tr("print JSON instead of a table"))


def run(args: argparse.Namespace) -> int:
    from bobot.text.gguf_metadata import read_header

    readable, damaged = manifests(read_header)
    if args.json:
        print(json.dumps(_as_json(readable, damaged), indent=2))
        return 0
    if readable:
        head = [tr("NAME"), tr("PARAMETERS"), tr("TYPE"), tr("SIZE"), tr("CACHE")]
        print(table([(*head, tr("CONTEXT"), tr("LICENCE")), *map(_row, readable)]))
    for name, error in damaged:
        print(f"bobot: {name}: {error.render(tr.translate)}", file=sys.stderr)
    if not readable:
        folder = user_paths().models
        print(
            tr(
                "no models here yet; get one with bobot pull NAME, or put folders into {folder}",
                folder=folder,
            ),
            file=sys.stderr,
        )
    return 0


def _row(manifest: Manifest) -> tuple[str, ...]:
    number = manifest.num_parameters
    return (
        manifest.name,
        count_text(number) if number else "-",
        str(manifest.dtype or "-"),
        bytes_text(manifest.size_bytes),
        _cache_text(manifest),
        str(manifest.context or "-"),
        manifest.licence or "-",
    )


def _cache_text(manifest: Manifest) -> str:
    cached = made_bytes(Path(manifest.path))
    return bytes_text(cached) if cached else "-"


def _as_json(
    readable: list[Manifest], damaged: list[tuple[str, BobotError]]
) -> list[dict[str, object]]:
    entries: list[dict[str, object]] = [
        {**dataclasses.asdict(manifest), "cache_bytes": made_bytes(Path(manifest.path))}
        for manifest in readable
    ]
    return entries + [{"name": name, "error": str(error)} for name, error in damaged]
