"""`bobot quantize`: a model with fewer bits per weight, as a folder that other programs read."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from bobot.cli.export import add_source, summary, tell_unpacked, tokenizer_of
from bobot.cli.loading import importing
from bobot.cli.progress import progress_bar
from bobot.cli.table import bytes_text
from bobot.errors import StorageError, UsageError
from bobot.hub.names import resolve
from bobot.messages import tr
from bobot.text import Tokenizer

FORMATS = ("int8", "int4", "mxfp4")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = tr("example: bobot quantize ./Llama-3.1-8B-Instruct ./llama-int4 --to int4")
    add_source(parser)
    parser.add_argument("destination", metavar="DST", type=Path, help=tr("the new folder"))
    parser.add_argument(
        "--to",
        choices=FORMATS,
        required=True,
        help=tr("bits per weight: int8 8.5, int4 4.5, mxfp4 4.25"),
    )
    parser.add_argument(
        "--method",
        choices=("rtn", "gptq"),
        help=tr("rtn: round to nearest; gptq: with calibration (default: gptq if a text is given)"),
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE",
        help=tr("a text of the kind the model will work on, some pages; 32 000 tokens are used"),
    )
    parser.add_argument("--json", action="store_true", help=tr("print JSON instead of the path"))


def run(args: argparse.Namespace) -> int:
    text = _calibration_text(args)
    with importing():
        from bobot.weights.export import check_destination
        from bobot.weights.quantize import grid_named, quantize_model
        from bobot.weights.source import open_model
    check_destination(args.destination)
    path = resolve(args.source)
    tokenizer = tokenizer_of(path)
    grid = grid_named(args.to)
    calibrated = None if text is None else _calibrate(path, tokenizer, grid, text)
    weights = None if calibrated is None else calibrated.weights
    with open_model(path) as source, progress_bar(tr("writing")) as progress:
        report = quantize_model(source, tokenizer, args.destination, grid, weights, progress)
    _tell(report, calibrated)
    if args.json:
        print(json.dumps({"path": str(args.destination), **_summary(report, calibrated)}))
    else:
        print(args.destination)
    return 0


def _calibration_text(args: argparse.Namespace) -> str | None:
    """The text to calibrate on; None for rounding to nearest."""
    method = args.method or ("gptq" if args.calibration else "rtn")
    if (method == "gptq") != (args.calibration is not None):
        raise UsageError(
            "--method {method} and --calibration do not go together; gptq needs a text, rtn none.",
            hint="Add --calibration FILE, or leave the method out.",
            method=method,
        )
    if args.calibration is None:
        return None
    try:
        return args.calibration.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(
            "{file}: can't read the calibration text: {reason}.",
            hint="Give a text file in UTF-8.",
            file=args.calibration,
            reason=getattr(error, "strerror", None) or "not UTF-8",
        ) from error


def _calibrate(path: Path, tokenizer: Tokenizer | None, grid: Any, text: str) -> Any:
    from bobot.weights.calibration import calibrate, calibration_sequences
    from bobot.weights.load import load_model
    from bobot.weights.quantize import names_to_pack
    from bobot.weights.source import open_model

    if tokenizer is None:
        raise UsageError(
            "{path} has no tokenizer: the calibration text can't be read.",
            hint="Put the tokenizer beside the weights, or use --method rtn.",
            path=path,
        )
    with open_model(path) as source:
        names = names_to_pack(source.model, source.family.name, grid)
        length = source.config.max_position_embeddings
    whole = [name for name, is_whole in names.items() if is_whole]
    sequences = calibration_sequences(tokenizer, text, length)
    model, _ = load_model(path)
    with progress_bar(tr("calibrating")) as progress:
        return calibrate(model, grid, whole, sequences, progress)


def _tell(report: Any, calibrated: Any) -> None:
    tell_unpacked(report.unpacked)
    lines = []
    if report.left:
        lines.append(
            tr(
                "{count} matrices stay as they are, their inputs make no whole groups of 32:"
                " {name}",
                count=len(report.left),
                name=report.left[0] + (" ..." if len(report.left) > 1 else ""),
            )
        )
    if calibrated is not None and calibrated.num_experts_unseen:
        lines.append(
            tr(
                "{count} expert matrices saw too few tokens and were rounded to nearest",
                count=calibrated.num_experts_unseen,
            )
        )
    if calibrated is not None and calibrated.num_unseen:
        lines.append(
            tr(
                "{count} matrices are not multiplied as such and were rounded to nearest",
                count=calibrated.num_unseen,
            )
        )
    lines.append(
        tr(
            "matrices: {count}; {size}, in bf16 it would be {before}",
            count=report.num_packed,
            size=bytes_text(report.num_bytes),
            before=bytes_text(report.num_plain_bytes),
        )
    )
    print("\n".join(lines), file=sys.stderr)


def _summary(report: Any, calibrated: Any) -> dict[str, Any]:
    found = {
        **summary(report),
        "num_packed": report.num_packed,
        "num_plain_bytes": report.num_plain_bytes,
        "left": report.left,
    }
    if calibrated is not None:
        found["num_experts_unseen"] = calibrated.num_experts_unseen
        found["num_unseen"] = calibrated.num_unseen
    return found
