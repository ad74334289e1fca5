"""`bobot keys`: the keys of `bobot serve`. A key is shown when it is made and never again."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time

from bobot.cli.table import table
from bobot.errors import UsageError
from bobot.messages import tr
from bobot.paths import user_paths

SCOPES = ("use", "manage", "observe")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = tr(
        "Scopes: use asks models, manage downloads and removes them, observe reads\n"
        "/metrics. A revoked key is refused at once, by running servers too.\n"
        "\n"
        "examples:\n"
        "  bobot keys\n"
        "  bobot keys make laptop --scope use --requests-per-minute 60\n"
        "  bobot keys revoke laptop"
    )
    parser.add_argument(
        "action",
        nargs="?",
        default="list",
        choices=("list", "make", "revoke"),
        metavar="ACTION",
        help=tr("list (default), make or revoke"),
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help=tr("name of the key"))
    parser.add_argument(
        "--scope",
        action="append",
        choices=SCOPES,
        metavar="SCOPE",
        help=tr("what the key allows: use, manage, observe (default: all); may be repeated"),
    )
    parser.add_argument(
        "--requests-per-minute", type=int, metavar="N", help=tr("limit of requests")
    )
    parser.add_argument("--tokens-per-minute", type=int, metavar="N", help=tr("limit of tokens"))
    parser.add_argument("--json", action="store_true", help=tr("print JSON instead of a table"))


def run(args: argparse.Namespace) -> int:
    from bobot.server.keys import KeyStore

    _check(args)
    store = KeyStore.open(user_paths().data / "server.db")
    try:
        if args.action == "make":
            scopes = tuple(args.scope or SCOPES)
            limits = args.requests_per_minute, args.tokens_per_minute
            print(store.make(args.name, scopes, *limits))
        elif args.action == "revoke":
            store.revoke(args.name)
        else:
            print(_listed(store.all(), as_json=args.json))
    finally:
        store.close()
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.action != "list" and not (args.name or "").strip():
        raise UsageError(
            "{action} needs the name of the key.",
            hint="Example: bobot keys make laptop",
            action=args.action,
        )
    for option in ("requests_per_minute", "tokens_per_minute"):
        value = getattr(args, option)
        if value is not None and value < 1:
            raise UsageError(
                "{option} is {found}; allowed: 1 or more.",
                option="--" + option.replace("_", "-"),
                found=value,
            )


def _listed(found: list, *, as_json: bool) -> str:
    if as_json:
        rows = [{**dataclasses.asdict(key), **dataclasses.asdict(used)} for key, used in found]
        return json.dumps(rows, indent=2)
    head = [tr("name"), tr("key"), tr("scopes"), tr("made"), tr("requests"), tr("tokens"), ""]
    rows = [
        [
            key.name,
            key.shown,
            " ".join(key.scopes),
            time.strftime("%Y-%m-%d", time.localtime(key.created_s)),
            str(used.requests),
            str(used.prompt_tokens + used.completion_tokens),
            tr("revoked") if key.revoked_s else "",
        ]
        for key, used in found
    ]
    return table([head, *rows]) if rows else tr("no keys yet: bobot keys make NAME")
