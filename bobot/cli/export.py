"""`bobot export`: a model in the form that transformers or llama.cpp loads."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from bobot.cli.loading import importing
from bobot.cli.progress import progress_bar
from bobot.cli.table import bytes_text
from bobot.errors import NotFoundError
from bobot.hub.names import resolve
from bobot.messages import tr
from bobot.text import Tokenizer, load_tokenizer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = tr("example: bobot export ./Llama-3.1-8B-Instruct llama.gguf --to gguf")
    add_source(parser)
    parser.add_argument(
        "destination", metavar="DST", type=Path, help=tr("the new folder (hf) or file (gguf)")
    )
    parser.add_argument(
        "--to",
        choices=("hf", "gguf"),
        required=True,
        help=tr("hf: safetensors for transformers; gguf: one file for llama.cpp"),
    )
    parser.add_argument("--json", action="store_true", help=tr("print JSON instead of the path"))


def run(args: argparse.Namespace) -> int:
    with importing():
        from bobot.weights.export_gguf import export_gguf
        from bobot.weights.export_hf import export_hf
        from bobot.weights.source import open_model
    path = resolve(args.source)
    tokenizer = tokenizer_of(path)
    with open_model(path) as source, progress_bar(tr("writing")) as progress:
        if args.to == "gguf":
            name = path.stem if path.is_file() else path.resolve().name
            report = export_gguf(source, tokenizer, args.destination, name, progress)
        else:
            report = export_hf(source, tokenizer, args.destination, progress)
    tell_unpacked(report.unpacked)
    if args.json:
        print(json.dumps({"path": str(args.destination), **summary(report)}))
    else:
        size = bytes_text(report.num_bytes)
        line = tr("tensors: {count}, {size}", count=report.num_tensors, size=size)
        print(line, file=sys.stderr)
        print(args.destination)
    return 0


def add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="SRC", help=tr("a model: a folder, a file or a name (see bobot list)")
    )


def tokenizer_of(path: Path) -> Tokenizer | None:
    """The tokenizer beside the weights; says so where there is none."""
    try:
        return load_tokenizer(path)
    except NotFoundError:
        print(tr("no tokenizer found beside the weights: none is written"), file=sys.stderr)
        return None


def tell_unpacked(unpacked: dict[str, int]) -> None:
    for form, count in unpacked.items():
        line = tr(
            "{count} tensors of {form} were written as bf16: the new form has no such packing",
            count=count,
            form=form,
        )
        print(line, file=sys.stderr)


def summary(report: Any) -> dict[str, Any]:
    """What --json says of any report."""
    return {
        "num_tensors": report.num_tensors,
        "num_bytes": report.num_bytes,
        "unpacked": dict(report.unpacked),
    }
