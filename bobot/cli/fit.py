"""`bobot fit`: will a model run here, in which form, and how fast. Loads no weights."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import textwrap
from typing import TYPE_CHECKING, Any

from bobot import hardware
from bobot.cli.arguments import add_model
from bobot.cli.loading import importing, waiting
from bobot.cli.table import bytes_text, count_text, facts, table
from bobot.errors import NotFoundError, UsageError
from bobot.hub.names import EMBEDDED, reference, resolve
from bobot.hub.published_settings import published_settings
from bobot.messages import tr
from bobot.paths import user_paths

if TYPE_CHECKING:
    from bobot.weights.fit import FitReport, FormFit
    from bobot.weights.subject import Subject

QUANTIZED = ("int8", "int4", "mxfp4")
"""Forms that `bobot quantize` makes."""
BUSY_LOAD = 0.5
"""Programs that want the processor, per core, from which on speeds are measured too low."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was measured of this machine."""

    memory_bytes_per_s: float
    disk_bytes_per_s: float | None
    load_average: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "\n".join(
        [
            tr("A folder with config.json alone is enough; a model with a short name needs none."),
            tr("Speeds are measured for a moment on this machine; memory is counted to the byte."),
            "",
            tr("example: bobot fit llama3.1:8b --context 32768"),
        ]
    )
    add_model(parser)
    parser.add_argument(
        "--context",
        type=int,
        metavar="N",
        help=tr("tokens of conversation to count with (default: the model's, at most 8192)"),
    )
    parser.add_argument("--json", action="store_true", help=tr("print JSON instead of a table"))


def run(args: argparse.Namespace) -> int:
    if args.context is not None and args.context < 1:
        raise UsageError("--context is {found}; allowed: 1 or more.", found=args.context)
    machine = hardware.detect(disk=user_paths().data)
    load_average = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    with importing(), waiting(tr("measuring this machine ...")):
        from bobot.weights.fit import estimate
        from bobot.weights.speed import Speeds, disk_bytes_per_s

        subject = _subject(args.model)
        _check_context(args.context, subject.config.max_position_embeddings)
        speeds = Speeds()
        report = estimate(subject, machine, speeds, args.context)
        measured = Measured(
            speeds.memory_bytes_per_s(),
            disk_bytes_per_s(hardware.existing_folder(user_paths().data))
            if report.choice is None
            else None,
            load_average,
        )
    name = args.model or EMBEDDED
    if args.json:
        print(json.dumps(_as_json(name, report, machine, measured), indent=2, ensure_ascii=False))
    else:
        _print(name, report, machine, measured)
    return 0


def _subject(name: str | None) -> Subject:
    """The model in files, by its settings alone, or by what bobot knows of its name."""
    from bobot.weights.subject import subject_of, subject_of_packed

    try:
        return subject_of(resolve(name))
    except NotFoundError:
        wanted = reference(name or "")
        if wanted is None:
            raise
    settings = published_settings(wanted.repository) if wanted.quantization is None else None
    if settings is None:
        raise NotFoundError(
            "{name} is not on this machine, and bobot does not know its settings.",
            hint="Put its config.json into a folder and name that: bobot fit FOLDER",
            name=name,
        )
    return subject_of_packed(settings)


def _check_context(context: int | None, limit: int) -> None:
    if context is not None and context > limit:
        raise UsageError(
            "--context is {found}; this model reads at most {limit} tokens.",
            found=context,
            limit=limit,
        )


def _as_json(
    name: str, report: FitReport, machine: hardware.Hardware, measured: Measured
) -> dict[str, Any]:
    return {
        "name": name,
        "verdict": report.verdict,
        "reason": " ".join(_reasons(report, machine, measured)),
        **dataclasses.asdict(report),
        "machine": dataclasses.asdict(machine),
        "measured": dataclasses.asdict(measured),
    }


def _print(name: str, report: FitReport, machine: hardware.Hardware, measured: Measured) -> None:
    print(f"{name}: {_verdicts()[report.verdict]}\n")
    print(facts(_facts(report, machine, measured)) + "\n")
    print(table([_head(), *(_row(form) for form in report.forms)]) + "\n")
    for sentence in [
        *_reasons(report, machine, measured),
        *_notes(name, report, machine, measured),
    ]:
        print(textwrap.fill(sentence, shutil.get_terminal_size().columns - 1))


def _verdicts() -> dict[str, str]:
    return {
        "fits": tr("fits"),
        "may be slow": tr("may be slow"),
        "won't fit": tr("won't fit"),
    }


def _facts(
    report: FitReport, machine: hardware.Hardware, measured: Measured
) -> list[tuple[str, str]]:
    total, active = (count_text(n) for n in (report.num_parameters, report.num_active_parameters))
    origins = {
        "files": tr("files on this machine"),
        "settings": tr("its settings alone, without weights"),
        "packed settings": tr(
            "not on this machine; download: {size}", size=bytes_text(report.download_bytes)
        ),
    }
    if report.num_experts:
        parameters = tr(
            "{total}; a token uses {active} ({chosen} of {experts} experts)",
            total=total,
            active=active,
            chosen=report.num_active_experts,
            experts=report.num_experts,
        )
    else:
        parameters = tr("{total}; a token uses all", total=total)
    cache = tr(
        "{context} of at most {limit} tokens; cache: {total} ({each} per 1024 tokens)",
        context=report.context,
        limit=report.max_context,
        total=bytes_text(report.published.kv_bytes),
        each=bytes_text(report.kv_bytes_per_1024_tokens),
    )
    memory = tr(
        "{free} free of {total}, read at {speed}/s",
        free=bytes_text(machine.ram_available_bytes),
        total=bytes_text(machine.ram_bytes),
        speed=bytes_text(round(measured.memory_bytes_per_s)),
    )
    return [
        (tr("model"), f"{report.family}, {origins[report.origin]}"),
        (tr("parameters"), parameters),
        (tr("context"), cache),
        (tr("memory"), memory),
        (tr("disk"), tr("{free} free", free=bytes_text(machine.disk_free_bytes))),
        *((tr("GPU"), _gpu(gpu, report)) for gpu in machine.gpus),
    ]


def _gpu(gpu: hardware.Gpu, report: FitReport) -> str:
    fitting = [form.name for form in report.forms if form.memory_bytes <= gpu.free_bytes]
    return tr(
        "{name}, {free} free of {total}; room for: {forms}",
        name=gpu.name,
        free=bytes_text(gpu.free_bytes),
        total=bytes_text(gpu.memory_bytes),
        forms=", ".join(_name(form) for form in fitting) or tr("no form"),
    )


def _name(name: str) -> str:
    return tr("as published") if name == "as published" else name


def _head() -> tuple[str, ...]:
    return (
        tr("FORM"), tr("BITS"), tr("WEIGHTS"), tr("MEMORY"), tr("PROMPT"), tr("ANSWER"), "",
    )  # fmt: skip


def _row(form: FormFit) -> tuple[str, ...]:
    return (
        _name(form.name),
        f"{form.bits_per_weight:.3g}",
        bytes_text(form.weight_bytes),
        bytes_text(form.memory_bytes),
        _speed(form.prefill_tokens_per_s),
        _speed(form.decode_tokens_per_s),
        _verdicts()[form.verdict],
    )


def _speed(tokens_per_s: float | None) -> str:
    return "-" if tokens_per_s is None else f"{_two_figures(tokens_per_s)} tok/s"


def _two_figures(value: float) -> str:
    """1.3, 37, 420, 4000: what is measured for a moment is not known better."""
    return f"{value:.2g}" if value < 100 else f"{float(f'{value:.2g}'):.0f}"


def _reasons(report: FitReport, machine: hardware.Hardware, measured: Measured) -> list[str]:
    """Which form to take and why; or why none runs."""
    published, chosen = report.published, report.chosen
    if chosen is None:
        return _refusal(report, machine, measured)
    if chosen is published:
        if chosen.verdict == "fits":
            return [tr("Take it as published: it fits, and a narrower form would lose quality.")]
        reason = tr("Take it as published: no narrower form is much faster here.")
    elif published.verdict == "won't fit":
        reason = tr(
            "Take {form}: as published it needs {needed} of memory, and {free} are free.",
            form=chosen.name,
            needed=bytes_text(published.memory_bytes),
            free=bytes_text(machine.ram_available_bytes),
        )
    else:
        reason = tr(
            "Take {form}: {fast} instead of {slow} tokens per second as published.",
            form=chosen.name,
            fast=_two_figures(chosen.decode_tokens_per_s or 0.0),
            slow=_two_figures(published.decode_tokens_per_s or 0.0),
        )
    if chosen.memory_bytes <= machine.ram_available_bytes:
        return [reason]
    close = tr(
        "Close other programs first: it needs {needed}, {free} are free.",
        needed=bytes_text(chosen.memory_bytes),
        free=bytes_text(machine.ram_available_bytes),
    )
    return [reason, close]


def _refusal(report: FitReport, machine: hardware.Hardware, measured: Measured) -> list[str]:
    from bobot.weights.fit import streaming_s

    smallest = min(report.forms, key=lambda form: form.memory_bytes)
    needed = {"form": _name(smallest.name), "needed": bytes_text(smallest.memory_bytes)}
    if smallest.memory_bytes <= machine.ram_bytes:
        return [
            tr(
                "The disk is too small: {form} takes {size}, {free} are free.",
                form=_name(smallest.name),
                size=bytes_text(smallest.weight_bytes),
                free=bytes_text(machine.disk_free_bytes),
            )
        ]
    sentences = [
        tr(
            "Even the smallest form ({form}) needs {needed} of memory; this machine has {total}.",
            **needed,
            total=bytes_text(machine.ram_bytes),
        )
    ]
    if measured.disk_bytes_per_s:
        seconds = streaming_s(smallest, machine.ram_available_bytes, measured.disk_bytes_per_s)
        sentences.append(
            tr(
                "Read from this disk ({speed}/s), each token would take {seconds} s; this version"
                " does not do that.",
                speed=bytes_text(round(measured.disk_bytes_per_s)),
                seconds=_two_figures(seconds),
            )
        )
    return sentences


def _way_to(form: FormFit, name: str) -> str:
    """How to get a form that its publisher does not ship."""
    if form.name in QUANTIZED:
        return tr(
            "Make it with: bobot quantize {name} FOLDER --to {form}", name=name, form=form.name
        )
    return tr("Get it as a GGUF file: bobot pull ORG/NAME:{form}", form=form.name)


def _notes(
    name: str, report: FitReport, machine: hardware.Hardware, measured: Measured
) -> list[str]:
    notes = []
    form = report.chosen
    if form is not None and form is not report.published:
        notes.append(_way_to(form, name))
    if form is not None and form.plain:
        notes.append(tr("Not packed in that form: {roles}.", roles=_roles(form)))
    if form is not None and measured.load_average > BUSY_LOAD * machine.num_cores:
        notes.append(
            tr(
                "The processor is busy (load {load} on {cores} cores): left alone it is faster.",
                load=f"{measured.load_average:.1f}",
                cores=machine.num_cores,
            )
        )
    if machine.gpus and form is not None:
        notes.append(tr("Speeds are those of the processor, not of the GPU."))
    return notes


def _roles(form: FormFit) -> str:
    words = {
        "experts": tr("experts"),
        "matrices": tr("attention and other matrices"),
        "routers": tr("routers"),
        "output": tr("output"),
        "embedding": tr("embedding"),
        "norms and biases": tr("norms and biases"),
    }
    return ", ".join(words[role] for role in form.plain)
