"""`bobot bench` as people and programs read it. The machine's limits are made up; the embedded
model runs at small sizes, and no speed is asserted.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bobot import hardware, kernels
from bobot.cli import measuring
from bobot.cli.cold_start import Start, cold_start
from bobot.cli.figures import Figure, Limit, limit_of
from bobot.errors import RequestError
from bobot.hub.names import aliases, embedded_folder
from bobot.hub.published_settings import published_settings
from bobot.kernels.limits import Limits
from bobot.weights.subject import Subject, subject_of_packed

Run = Callable[..., tuple[int, str, str]]

LIMITS = Limits(1, 40e9, {"avx512vnni_int8": 2e12, "avx512_bf16": 1e12, "portable_float32": 5e10})
SMALL = ("--prompt", "16", "--rows", "1,2", "--depth", "32", "--runs", "2", "--threads", "1")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    found = hardware.Hardware(
        cpu="made up", num_cores=8, features=(), ram_bytes=8 << 30, ram_available_bytes=4 << 30,
        disk_free_bytes=1 << 30, gpus=(), system="", python="",
    )  # fmt: skip
    monkeypatch.setattr(hardware, "detect", lambda disk=None: found)
    monkeypatch.setattr("bobot.kernels.limits.measure", lambda *sizes: LIMITS)
    monkeypatch.setattr("bobot.weights.speed.file_bytes_per_s", lambda path: 2e9)
    monkeypatch.setattr("bobot.weights.speed.disk_bytes_per_s", lambda folder: None)
    monkeypatch.setattr("bobot.weights.speed.forget_cached", lambda path: True)
    monkeypatch.setattr(measuring, "cold_start", lambda path, threads: Start(1.5, 300 << 20))
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def test_without_a_model_the_limits_stand_alone(run_bobot: Run) -> None:
    status, out, err = run_bobot("bench", "--threads", "1")
    assert (status, err) == (0, "")
    assert lines(out)[2:] == [
        "LIMIT OF THIS MACHINE MEASURED",
        "memory, read 40 GB/s",
        "disk, read in order -",
        "int8 operations, avx512vnni 2000 Gop/s",
        "bf16 operations, avx512 1000 Gop/s",
        "float32 operations, portable 50 Gop/s",
    ]


def test_a_model_gets_a_row_for_each_figure(run_bobot: Run) -> None:
    status, out, err = run_bobot("bench", "bobot", *SMALL)
    assert (status, err) == (0, "")
    found = lines(out)
    table = found[found.index("FIGURE MEASURED LIMIT OF LIMIT SET BY") + 1 :]
    assert [line.split(" tok/s")[0].rpartition(" ")[0] for line in table[3:9]] == [
        "prefill, 16 tokens",
        "decode, 1 row",
        "decode, 2 rows",
        "prefill, 16 tokens, depth 32",
        "decode, 1 row, depth 32",
        "",
    ]
    assert table[0].startswith("cold start, from disk 1.5 s 5.")
    assert table[0].endswith("% disk")
    assert table[2].startswith("memory then resident 300 MiB 10.6 MiB 3.5 % weights")
    assert max(map(len, out.splitlines())) < 80, out


@pytest.mark.skipif(
    not kernels.available or kernels.isa() == "portable", reason="no tiles without vectors"
)
def test_activations_of_8_bits_are_told(run_bobot: Run) -> None:
    words = ("bench", "bobot", *SMALL, "--only", "decode", "--activations", "int8")
    status, out, err = run_bobot(*words)
    assert (status, err) == (0, "")
    assert "activations int8" in lines(out)
    assert json.loads(run_bobot(*words, "--json")[1])["model"]["activations"] == "int8"
    assert run_bobot("bench", "bobot", *SMALL, "--activations", "int4")[0] == 2


def test_json_holds_limits_and_every_run(run_bobot: Run) -> None:
    report = json.loads(run_bobot("bench", "bobot", *SMALL, "--json")[1])
    assert set(report) == {"machine", "limits", "model", "figures", "notes"}
    assert report["limits"]["memory_bytes_per_s"] == 40e9
    assert report["limits"]["operations_per_s"] == dict(LIMITS.operations_per_s)
    assert report["machine"]["num_threads"] == 1
    assert report["model"]["family"] == "llama"
    names = [(f["name"], f["rows"], f["depth"], f["unit"]) for f in report["figures"]]
    assert names == [
        ("start_from_disk", 1, 0, "s"),
        ("start_from_cache", 1, 0, "s"),
        ("memory", 1, 0, "bytes"),
        ("prefill", 1, 0, "tokens/s"),
        ("decode", 1, 0, "tokens/s"),
        ("decode", 2, 0, "tokens/s"),
        ("prefill", 1, 32, "tokens/s"),
        ("decode", 1, 32, "tokens/s"),
    ]
    for figure in report["figures"]:
        assert figure["min"] <= figure["median"] <= figure["max"]
        assert min(figure["runs"]) > 0
        ratio = figure["median"] / figure["limit"]
        expected = ratio if figure["unit"] == "tokens/s" else 1 / ratio
        assert figure["share_of_limit"] == pytest.approx(expected)
    assert [len(figure["runs"]) for figure in report["figures"]] == [3, 3, 3, 2, 2, 2, 2, 2]


def test_a_part_alone(run_bobot: Run) -> None:
    report = json.loads(run_bobot("bench", "bobot", *SMALL, "--only", "depth", "--json")[1])
    assert [figure["depth"] for figure in report["figures"]] == [32, 32]


def test_a_start_that_fails_is_told_and_the_rest_is_measured(
    run_bobot: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, num_threads: int) -> Start:
        raise RequestError("bobot run gave no answer: {reason}", reason="no tokenizer")

    monkeypatch.setattr(measuring, "cold_start", fail)
    out = run_bobot("bench", "bobot", *SMALL, "--only", "start,prefill")[1]
    assert "bobot run gave no answer: no tokenizer" in out
    assert "prefill, 16 tokens" in out


def test_the_answer_is_indonesian_where_asked(run_bobot: Run) -> None:
    out = run_bobot("bench", "bobot", *SMALL, "--only", "decode", "--lang", "id")[1]
    assert "memori, dibaca" in out
    assert "decode, 2 baris" in out
    assert "DARI BATAS" in out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--threads", "0"), "--threads is 0; allowed: 1 to 8, the cores of this machine."),
        (("--threads", "9"), "--threads is 9; allowed: 1 to 8"),
        (("--prompt", "0"), "--prompt is 0; allowed: 1 or more."),
        (("--runs", "0"), "--runs is 0; allowed: 1 or more."),
        (("--depth", "-1"), "--depth is -1; allowed: 0 or more."),
        (("--rows", "1,x"), "--rows is '1,x'; allowed: numbers from 1 to 512"),
        (("--rows", "0"), "--rows is '0'; allowed: numbers from 1 to 512"),
        (("--only", "speed"), "--only is 'speed'; allowed: prefill, decode, depth, start"),
        (("--depth", "9999"), "tokens of context are needed; this model reads at most"),
        (("--rows", "512"), "tokens of KV cache are needed; the free memory holds"),
    ],
)
def test_what_can_not_be_measured_is_refused(
    run_bobot: Run, words: tuple[str, ...], complaint: str
) -> None:
    status, out, err = run_bobot("bench", "bobot", "--only", "depth", *words)
    assert (status, out) == (2, "")
    assert complaint in err


def test_an_unknown_model_is_not_found(run_bobot: Run) -> None:
    status, _, err = run_bobot("bench", "nobody/nothing")
    assert status == 1
    assert "nobody/nothing" in err


def test_settings_without_weights_have_no_speed(
    run_bobot: Run, tmp_path: Path, shared: Path
) -> None:
    config = (shared / "parity/llama3_short/hf/config.json").read_text(encoding="utf-8")
    (tmp_path / "config.json").write_text(config, encoding="utf-8")
    status, _, err = run_bobot("bench", str(tmp_path))
    assert status == 1
    assert "settings and no weights. Download its weights too." in err


def of_alias(name: str) -> Subject:
    settings = published_settings(aliases()[name])
    assert settings is not None
    return subject_of_packed(settings)


def test_limits_are_bytes_or_operations_whichever_takes_longer() -> None:
    subject = of_alias("llama3.1:8b")
    one = limit_of(Figure("decode", (1.0,)), subject, LIMITS, None)
    assert one is not None
    assert one.bound == "memory"
    matrices = 2 * (8030261248 - 128256 * 4096)
    cache = 17 * 32 * 8 * 128 * 2 * 2  # in the middle of a run
    assert one.value == pytest.approx(40e9 / (matrices + cache))
    prompt = limit_of(Figure("prefill", (1.0,), num_new=512), subject, LIMITS, None)
    assert prompt is not None
    assert prompt.bound == "operations"
    flop = 2 * (8030261248 - 2 * 128256 * 4096) + 32 * 2 * 32 * 256 * 513 / 2
    assert prompt.value == pytest.approx(1e12 / flop, rel=1e-3)


def test_shares_of_rates_and_of_times() -> None:
    assert Limit(50.0, "memory").share(Figure("decode", (10.0, 40.0, 30.0))) == 0.6
    assert Limit(0.5, "disk").share(Figure("start_from_disk", (2.0,))) == 0.25


def test_a_disk_that_can_not_be_measured_sets_no_limit() -> None:
    figure = Figure("start_from_disk", (2.0,))
    assert limit_of(figure, of_alias("llama3.2:1b"), LIMITS, None) is None


class OfRoom:
    """What chosen_depth asks of an engine."""

    def __init__(self, max_model_len: int, num_blocks: int = 10**6) -> None:
        self.max_model_len, self.num_blocks = max_model_len, num_blocks
        self.config = type("Config", (), {"block_size": 16})


@pytest.mark.parametrize(
    ("engine", "rate", "depth"),
    [
        (OfRoom(131072), 500.0, 4096),
        (OfRoom(4096), 500.0, 2048),
        (OfRoom(2048), 500.0, 1024),
        (OfRoom(131072, num_blocks=512), 500.0, 2048),
        (OfRoom(131072), 50.0, 2048),
        (OfRoom(1024), 500.0, 0),
        (OfRoom(131072), 1.0, 0),
    ],
)
def test_the_depth_fits_context_memory_and_patience(
    engine: OfRoom, rate: float, depth: int
) -> None:
    assert measuring.chosen_depth(512, engine, rate) == depth  # type: ignore[arg-type]


def test_a_fresh_process_is_timed_to_its_first_byte() -> None:
    start = cold_start(embedded_folder(), 1)
    assert start.first_byte_s > 0
    if Path("/proc/self/status").exists():
        assert start.resident_bytes is not None
        assert start.resident_bytes > 50 << 20, f"Python and torch take more: {start}"


def test_a_process_that_fails_gives_its_reason(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"gave no answer: .*missing"):
        cold_start(tmp_path / "missing", 1)
