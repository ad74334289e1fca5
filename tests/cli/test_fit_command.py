"""`bobot fit` as people and programs read it; the machine and its speeds are made up."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bobot import hardware

Run = Callable[..., tuple[int, str, str]]
GIB = 1 << 30


class Speeds:
    """Every weight is read at 100 GB/s as if it had 16 bits."""

    def memory_bytes_per_s(self) -> float:
        return 100e9

    def product_s(self, *what: object) -> float:
        return 2 / 100e9

    def call_s(self, *what: object) -> float:
        return 0.0

    attention_s = activation_s = small_step_s = call_s


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    found = hardware.Hardware(
        cpu="made up", num_cores=8, features=(), ram_bytes=32 * GIB,
        ram_available_bytes=30 * GIB, disk_free_bytes=2000 * GIB, gpus=(),
        system="", python="",
    )  # fmt: skip
    monkeypatch.setattr(hardware, "detect", lambda disk: found)
    monkeypatch.setattr("bobot.weights.speed.Speeds", Speeds)
    monkeypatch.setattr("bobot.weights.speed.disk_bytes_per_s", lambda folder: 2 * GIB)
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))


def test_a_model_that_is_not_here_is_answered_offline(run_bobot: Run) -> None:
    status, out, _ = run_bobot("fit", "llama3.1:8b")
    assert status == 0
    assert out.startswith("llama3.1:8b: fits\n")
    assert "8.03B; a token uses all" in out
    assert "8192 of at most 131072 tokens; cache: 1 GiB (128 MiB per 1024 tokens)" in " ".join(
        out.split()
    )
    (row,) = (line.split() for line in out.splitlines() if line.startswith("as published"))
    assert row == "as published 16 15 GiB 16.4 GiB 3400 tok/s 6.7 tok/s fits".split()  # noqa: SIM905
    assert "Take it as published: it fits" in out


def test_what_never_fits_says_what_the_disk_would_cost(run_bobot: Run) -> None:
    status, out, _ = run_bobot("fit", "llama3.1:405b")
    assert status == 0
    assert out.startswith("llama3.1:405b: won't fit\n")
    assert "Even the smallest form (mxfp4) needs" in out
    assert "Read from this disk (2 GiB/s), each token would take" in " ".join(out.split())


def test_a_form_to_make_is_named_with_its_command(
    run_bobot: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = dataclasses.replace(
        hardware.detect(Path()), ram_bytes=12 * GIB, ram_available_bytes=11 * GIB
    )
    monkeypatch.setattr(hardware, "detect", lambda disk: machine)
    out = run_bobot("fit", "llama3.1:8b")[1]
    out = " ".join(out.split())
    assert "Take int8: as published it needs 16.4 GiB of memory, and 11 GiB are free." in out
    assert "Make it with: bobot quantize llama3.1:8b FOLDER --to int8" in out
    assert "Not packed in that form: output, embedding, norms and biases." in out


def test_json_has_verdict_reason_and_forms(run_bobot: Run) -> None:
    report = json.loads(run_bobot("fit", "gpt-oss:20b", "--json", "--context", "1000")[1])
    assert report["verdict"] == "fits"
    assert report["reason"].startswith("Take it as published")
    assert report["context"] == 1000
    assert [form["name"] for form in report["forms"]][:2] == ["as published", "bfloat16"]
    assert report["forms"][1]["verdict"] == "won't fit"
    assert report["forms"][1]["decode_tokens_per_s"] is None
    assert report["measured"]["memory_bytes_per_s"] == 100e9


def test_the_answer_is_indonesian_where_asked(run_bobot: Run) -> None:
    out = run_bobot("fit", "--lang", "id", "grok-1")[1]
    assert out.startswith("grok-1: tidak muat\n")
    assert "bentuk asli" in out


def test_files_on_the_disk_are_read(run_bobot: Run, shared: Path) -> None:
    out = run_bobot("fit", str(shared / "parity/mixtral/hf"))[1]
    assert "files on this machine" in out
    assert "experts)" in out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("llama3.1:8b", "--context", "0"), "--context is 0; allowed: 1 or more."),
        (("llama2:7b", "--context", "5000"), "this model reads at most 4096 tokens."),
    ],
)
def test_an_impossible_context_is_refused(
    run_bobot: Run, words: tuple[str, ...], complaint: str
) -> None:
    status, _, err = run_bobot("fit", *words)
    assert status == 2
    assert complaint in err


def test_an_unknown_repository_says_how_to_ask_about_it(run_bobot: Run) -> None:
    status, _, err = run_bobot("fit", "nobody/nothing")
    assert status == 1
    assert "Put its config.json into a folder" in err


def test_a_misspelt_name_gets_a_suggestion(run_bobot: Run) -> None:
    status, _, err = run_bobot("fit", "llama3.1:8")
    assert status == 1
    assert "llama3.1:8b" in err
