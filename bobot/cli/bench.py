"""`bobot bench`: the limits of this machine, and what a model reaches of them."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bobot import hardware
from bobot.cli.arguments import add_activations
from bobot.cli.figures import Figure, Limit, as_json, limit_of
from bobot.cli.loading import importing, waiting
from bobot.cli.measuring import PARTS, Plan, engine_figures, start_figures
from bobot.cli.table import bytes_text, count_text, facts, table
from bobot.errors import NotFoundError, RequestError, UsageError
from bobot.hub.names import resolve
from bobot.messages import tr
from bobot.paths import user_paths

if TYPE_CHECKING:
    from bobot.kernels.limits import Limits
    from bobot.weights.subject import Subject

ROWS, RUNS = "1,8,32", 5
MAX_ROWS = 512
BUSY_LOAD = 0.5
"""Programs that want the processor, per core, from which on speeds are measured too low."""


@dataclasses.dataclass(frozen=True)
class Report:
    """All that is printed. Without a model: no subject, no figures."""

    machine: hardware.Hardware
    load_average: float
    isa: str
    limits: Limits
    disk_bytes_per_s: float | None
    name: str | None = None
    subject: Subject | None = None
    figures: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = ()
    activations: str | None = None

    def rows(self) -> Iterator[tuple[Figure, Limit | None]]:
        for figure in self.figures:
            assert self.subject is not None
            yield figure, limit_of(figure, self.subject, self.limits, self.disk_bytes_per_s)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "\n".join(
        [
            tr("A limit is what this machine could do at most, measured before and after the"),
            tr("model: weights and cache read once by the speed of its memory, or the operations"),
            tr("by those of its fastest instructions, whichever takes longer. Takes a minute or"),
            tr("two; close other programs first."),
            "",
            tr("example: bobot bench llama3.2:1b --rows 1,8"),
        ]
    )
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help=tr(
            "a folder or file, a Hugging Face id already downloaded, or a short name"
            " (default: none, the limits alone)"
        ),
    )
    parser.add_argument(
        "--prompt", type=int, metavar="N", help=tr("tokens of a prompt (default: 512)")
    )
    parser.add_argument(
        "--rows", default=ROWS, metavar="N,N", help=tr("answers side by side (default: 1,8,32)")
    )
    parser.add_argument(
        "--depth",
        type=int,
        metavar="N",
        help=tr("tokens of long context; 0 leaves it out (default: 4096, or what fits)"),
    )
    parser.add_argument(
        "--only",
        metavar="PART,PART",
        help=tr("of prefill, decode, depth and start only these"),
    )
    parser.add_argument(
        "--runs", type=int, default=RUNS, metavar="N", help=tr("runs of each figure (default: 5)")
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help=tr("threads (default: as for an answer)")
    )
    add_activations(parser)
    parser.add_argument("--json", action="store_true", help=tr("print JSON instead of a table"))


def run(args: argparse.Namespace) -> int:
    path = None if args.model is None else resolve(args.model)
    machine = hardware.detect(disk=path or user_paths().data)
    plan = _plan(args)
    _check_count("--threads", args.threads, machine.num_cores)
    load_average = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    with importing(), waiting(tr("measuring this machine ...")):
        import torch  # first, so that our threads are torch's

        from bobot import kernels
        from bobot.kernels.limits import measure
        from bobot.weights.speed import disk_bytes_per_s, file_bytes_per_s

        torch.set_num_threads(args.threads or torch.get_num_threads())
        num_threads = torch.get_num_threads()
        limits = measure(num_threads, machine.ram_available_bytes)
        if path is None:
            disk = disk_bytes_per_s(hardware.existing_folder(user_paths().data))
        else:
            disk = file_bytes_per_s(path)
    report = Report(machine, load_average, kernels.isa(), limits, disk)
    if path is not None:
        report = _with_model(report, str(args.model), path, plan)
        with waiting(tr("measuring this machine ...")):
            again = measure(num_threads, hardware.detect().ram_available_bytes)
        report = dataclasses.replace(report, limits=limits.larger(again))
    if args.json:
        print(json.dumps(_as_json(report), indent=2, ensure_ascii=False))
    else:
        _print(report)
    return 0


def _plan(args: argparse.Namespace) -> Plan:
    """The options, checked as far as possible without the model."""
    _check_count("--prompt", args.prompt)
    _check_count("--runs", args.runs)
    if args.depth is not None and args.depth < 0:
        raise UsageError("--depth is {found}; allowed: 0 or more.", found=args.depth)
    rows = [int(word) if word.strip().isdecimal() else 0 for word in args.rows.split(",")]
    if not all(1 <= count <= MAX_ROWS for count in rows):
        raise UsageError(
            "--rows is {found!r}; allowed: numbers from 1 to {limit}, with commas between.",
            hint="Example: --rows 1,8,32",
            found=args.rows,
            limit=MAX_ROWS,
        )
    parts = PARTS if args.only is None else tuple(args.only.split(","))
    if not set(parts) <= set(PARTS):
        raise UsageError(
            "--only is {found!r}; allowed: {allowed}, with commas between.",
            found=args.only,
            allowed=", ".join(PARTS),
        )
    return Plan(args.prompt, tuple(rows), args.depth, args.runs, parts, args.activations)


def _check_count(option: str, count: int | None, limit: int | None = None) -> None:
    if count is None or 1 <= count <= (limit or count):
        return
    if limit is None:
        raise UsageError("{option} is {found}; allowed: 1 or more.", option=option, found=count)
    raise UsageError(
        "{option} is {found}; allowed: 1 to {limit}, the cores of this machine.",
        option=option,
        found=count,
        limit=limit,
    )


def _with_model(report: Report, name: str, path: Path, plan: Plan) -> Report:
    from bobot.weights.subject import subject_of

    figures, notes = [], []
    subject = subject_of(path)
    if subject.origin != "files":
        raise NotFoundError(
            "{name} has settings and no weights.", hint="Download its weights too.", name=name
        )
    if "start" in plan.parts:
        try:
            figures += start_figures(path, report.limits.num_threads)
        except RequestError as error:
            notes.append(error.render(tr.translate))
    if plan.parts != ("start",):
        figures += engine_figures(path, plan)
    return dataclasses.replace(
        report,
        name=name,
        subject=subject,
        figures=tuple(figures),
        notes=tuple(notes),
        activations=plan.activations,
    )


def _as_json(report: Report) -> dict[str, Any]:
    limits, subject = report.limits, report.subject
    found: dict[str, Any] = {
        "machine": {
            **dataclasses.asdict(report.machine),
            "num_threads": limits.num_threads,
            "isa": report.isa,
            "load_average": report.load_average,
        },
        "limits": {
            "memory_bytes_per_s": limits.memory_bytes_per_s,
            "disk_bytes_per_s": report.disk_bytes_per_s,
            "operations_per_s": dict(limits.operations_per_s),
        },
    }
    if subject is not None:
        found["model"] = {
            "name": report.name,
            "family": subject.family.name,
            "storage": subject.published.main_storage,
            "num_parameters": _num_parameters(subject),
            "weight_bytes": subject.published.num_bytes,
            "activations": report.activations,
        }
        found["figures"] = [as_json(figure, limit) for figure, limit in report.rows()]
        found["notes"] = list(report.notes)
    return found


def _num_parameters(subject: Subject) -> int:
    return sum(stored.part.numel for stored in subject.published.weights)


def _print(report: Report) -> None:
    machine, limits = report.machine, report.limits
    pairs = [
        (
            tr("machine"),
            tr(
                "{cpu}, threads: {count}, kernels: {isa}",
                cpu=machine.cpu,
                count=limits.num_threads,
                isa=report.isa,
            ),
        )
    ]
    if (subject := report.subject) is not None:
        parameters = count_text(_num_parameters(subject))
        size = bytes_text(subject.published.num_bytes)
        value = f"{report.name}: {subject.family.name}, {parameters}, "
        pairs.append((tr("model"), value + f"{subject.published.main_storage}, {size}"))
        if report.activations is not None:
            pairs.append((tr("activations"), report.activations))
    print(facts(pairs) + "\n")
    print(table([(tr("LIMIT OF THIS MACHINE"), tr("MEASURED")), *_limit_rows(report)]))
    if report.figures:
        head = (tr("FIGURE"), tr("MEASURED"), tr("LIMIT"), tr("OF LIMIT"), tr("SET BY"))
        print("\n" + table([head, *(_figure_row(*row) for row in report.rows())]))
    for sentence in _notes(report):
        print("\n" + textwrap.fill(sentence, shutil.get_terminal_size().columns - 1))


def _limit_rows(report: Report) -> Iterator[tuple[str, str]]:
    limits, disk = report.limits, report.disk_bytes_per_s
    yield tr("memory, read"), _rate(limits.memory_bytes_per_s, "GB/s")
    yield tr("disk, read in order"), _rate(disk, "GB/s") if disk else "-"
    for name, rate in limits.operations_per_s.items():
        isa, kind = name.split("_")
        yield tr("{kind} operations, {isa}", kind=kind, isa=isa), _rate(rate, "Gop/s")


def _rate(per_s: float, unit: str) -> str:
    return f"{_figures(per_s / 1e9)} {unit}"


def _figures(value: float) -> str:
    """Three figures: 0.812, 47.2, 1530."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _figure_row(figure: Figure, limit: Limit | None) -> tuple[str, ...]:
    measured = _quantity(figure, figure.median)
    if limit is None:
        return figure.title, measured, "-", "-", "-"
    bounds = {
        "memory": tr("memory"),
        "operations": tr("operations"),
        "disk": tr("disk"),
        "weights": tr("weights"),
    }
    share = 100 * limit.share(figure)
    percent = f"{share:.0f} %" if share >= 10 else f"{share:.1f} %"
    return figure.title, measured, _quantity(figure, limit.value), percent, bounds[limit.bound]


def _quantity(figure: Figure, value: float) -> str:
    if figure.name == "memory":
        return bytes_text(round(value))
    if figure.is_rate:
        return f"{_figures(value)} tok/s"
    return f"{_figures(value)} s" if value >= 0.1 else f"{_figures(1000 * value)} ms"


def _notes(report: Report) -> Iterator[str]:
    if report.figures:
        yield tr("Medians; --json has every run.")
    yield from report.notes
    if report.load_average > BUSY_LOAD * report.machine.num_cores:
        yield tr(
            "The processor is busy (load {load} on {cores} cores): left alone it is faster.",
            load=f"{report.load_average:.1f}",
            cores=report.machine.num_cores,
        )
