"""`bobot rm`: a model off this machine, after showing what goes and asking; or the beginnings of
prompts that bobot serve has kept.
"""

from __future__ import annotations

import argparse
import sys

from bobot.cli.table import bytes_text
from bobot.errors import UsageError
from bobot.hub.made import forget_missing, forget_prefixes
from bobot.hub.removal import Removal, plan_removal, remove
from bobot.messages import tr


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = tr("example: bobot rm llama3.1:8b")
    parser.add_argument("name", metavar="NAME", nargs="?", help=tr("a name as bobot list shows it"))
    parser.add_argument(
        "--prefixes",
        action="store_true",
        help=tr(
            "the beginnings of prompts that bobot serve has kept (see --prefix-cache there), in the"
            " place of a model; those of a model go with it"
        ),
    )
    parser.add_argument("--yes", action="store_true", help=tr("do not ask"))


def run(args: argparse.Namespace) -> int:
    if args.prefixes == (args.name is not None):
        raise UsageError("bobot rm takes either NAME or --prefixes.")
    if args.prefixes:
        return _told(forget_prefixes())
    removal = plan_removal(args.name)
    for path in removal.paths:
        print(path, file=sys.stderr)
    if not args.yes and not _confirmed(removal):
        print(tr("nothing was removed"), file=sys.stderr)
        return 1
    remove(removal)
    return _told(removal.size_bytes + forget_missing())


def _told(freed_bytes: int) -> int:
    print(tr("removed; {size} are free again", size=bytes_text(freed_bytes)))
    return 0


def _confirmed(removal: Removal) -> bool:
    if not sys.stdin.isatty():
        raise UsageError(
            "bobot rm asks before it removes, and there is no terminal to answer from.",
            hint="Give --yes to remove without the question.",
        )
    question = tr("remove this and free {size}? [y/N] ", size=bytes_text(removal.size_bytes))
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes", "ya")
