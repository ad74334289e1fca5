"""`bobot pull`: a model from the Hugging Face Hub onto this machine, resumed and verified."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
import textwrap
import threading
from pathlib import Path

from bobot.cli.download_progress import watching
from bobot.cli.sanitize import sanitize
from bobot.cli.table import bytes_text
from bobot.errors import UsageError
from bobot.hub.cache import CacheEntry, huggingface_cache
from bobot.hub.digest import model_digest
from bobot.hub.names import EMBEDDED, Reference, aliases, gguf_parts, not_found, reference
from bobot.hub.needed import is_tokenizer
from bobot.hub.pull import Plan, Room, carry_out, check_room, plan_pull, room_for
from bobot.hub.remote import Hub
from bobot.hub.transfer import Meter
from bobot.messages import tr


def add_arguments(parser: argparse.ArgumentParser) -> None:
    names = textwrap.fill("  ".join(aliases()), 78, initial_indent="  ", subsequent_indent="  ")
    parser.epilog = "\n".join(
        [
            tr("It goes into the Hugging Face cache, which other programs share (HF_HOME)."),
            tr("HF_TOKEN opens what asks for an account, HF_ENDPOINT names a mirror."),
            tr("Stopped or cut off? The same command goes on where it was."),
            "",
            tr("short names:"),
            names,
            "",
            tr("example: bobot pull llama3.1:8b"),
        ]
    )
    parser.add_argument(
        "name",
        metavar="NAME",
        help=tr("a short name or ORG/NAME; of GGUF files one: ORG/NAME:Q8_0 or ORG/NAME/FILE.gguf"),
    )
    parser.add_argument(
        "--revision",
        metavar="R",
        default="main",
        help=tr("a branch, tag or commit (default: main)"),
    )
    parser.add_argument("--json", action="store_true", help=tr("print JSON instead of the path"))


def run(args: argparse.Namespace) -> int:
    wanted = _wanted(args.name, args.revision)
    entry = CacheEntry(huggingface_cache(), wanted.repository)
    stop = threading.Event()
    with contextlib.closing(Hub(os.environ, sleep=stop.wait)) as hub:
        plan = plan_pull(hub, entry, args.revision, wanted.quantization)
        room = room_for(entry.cache)
        _tell_plan(plan, room)
        check_room(plan, room)
        snapshot = _carry_out(hub, plan, stop)
    weights = next((file.name for file in plan.files if file.name.endswith(".gguf")), None)
    _tell_end(args, plan, snapshot / weights if weights else snapshot)
    return 0


def _wanted(name: str, revision: str) -> Reference:
    if name == EMBEDDED:
        raise UsageError(
            "the embedded model is part of bobot: there is nothing to pull.",
            hint="Talk to it with: bobot chat",
        )
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", revision, re.ASCII) or ".." in revision:
        raise UsageError(
            "--revision is {found!r}; it must be a branch, a tag or a commit.", found=revision
        )
    wanted = reference(name)
    if wanted is None:
        raise not_found(name, None)
    return wanted


def _tell(line: str) -> None:
    print(sanitize(line), file=sys.stderr)


def _tell_plan(plan: Plan, room: Room) -> None:
    """What will be fetched and why, before it is."""
    licence = plan.licence or tr("not stated")
    _tell(
        tr(
            "{repository}, commit {commit}, licence {licence}",
            repository=plan.entry.repository,
            commit=plan.commit[:7],
            licence=licence,
        )
    )
    if plan.quantizations:
        chosen, *others = plan.quantizations
        rest = ", ".join(others) or tr("none")
        _tell(tr("quantization {chosen}; others here: {rest}", chosen=chosen, rest=rest))
    elif plan.left_out_bytes > plan.total_bytes // 10:
        size = bytes_text(plan.left_out_bytes)
        _tell(tr("left out: {size} that repeat the weights or are not needed", size=size))
    count, total = len(plan.files), bytes_text(plan.total_bytes)
    if plan.missing_bytes or plan.absent:
        _tell(
            tr(
                "files: {count}, {total}; to fetch: {missing}; free on the disk: {free}",
                count=count,
                total=total,
                missing=bytes_text(plan.missing_bytes),
                free=bytes_text(room.free_bytes),
            )
        )
    else:
        _tell(tr("files: {count}, {total}; all are here", count=count, total=total))


def _carry_out(hub: Hub, plan: Plan, stop: threading.Event) -> Path:
    meter = Meter(plan.total_bytes, stop)
    try:
        with watching(meter) as show:
            return carry_out(hub, plan, meter, show)
    except KeyboardInterrupt:
        _tell(tr("stopped; what has arrived is kept: the same command goes on from there"))
        sys.stderr.flush()
        # Not by way of the interpreter's end: it would wait for threads that wait for a server.
        os._exit(130)


def _tell_end(args: argparse.Namespace, plan: Plan, path: Path) -> None:
    digest = model_digest(path, [path] if path.is_dir() else gguf_parts(path))
    if args.json:
        report = {
            "name": args.name,
            "repository": plan.entry.repository,
            "revision": plan.revision,
            "commit": plan.commit,
            "licence": plan.licence,
            "path": str(path),
            "files": [file.name for file in plan.files],
            "size_bytes": plan.total_bytes,
            "fetched_bytes": plan.missing_bytes,
            "digest": digest,
        }
        print(json.dumps(report, indent=2))
        return
    if not any(is_tokenizer(file.name) for file in plan.files):
        _tell(
            tr(
                "the repository has no tokenizer: put its tokenizer.model or tokenizer.json into"
                " {folder}",
                folder=path,
            )
        )
    _tell(tr("complete, every digest is right. Next: bobot chat {name}", name=args.name))
    print(path)
