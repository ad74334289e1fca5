"""The commands that print tables: for people, as JSON, with nothing there, with damage."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bobot.cli import doctor
from bobot.cli.table import bytes_text, count_text, facts, table
from bobot.hub.made import remember_source
from bobot.paths import user_paths

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of the packed model, with its checksums."""
    folder = tmp_path / "assets"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama", "max_position_embeddings": 512}')
    digest = hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
    (folder / "SHA256SUMS").write_text(f"{digest}  config.json\n")
    for place in ("bobot.hub.names", "bobot.hub.store", "bobot.cli.doctor"):
        monkeypatch.setattr(f"{place}.embedded_folder", lambda: folder)
    return folder


def test_list_shows_models_and_damage_side_by_side(
    run_bobot: Run, embedded: Path, home: Path
) -> None:
    broken = home / "xdg_data_home/bobot/models/broken"
    broken.mkdir(parents=True)
    (broken / "config.json").write_text("{")
    status, out, err = run_bobot("list")
    assert status == 0
    assert out.splitlines()[0].split() == [
        "NAME", "PARAMETERS", "TYPE", "SIZE", "CACHE", "CONTEXT", "LICENCE",
    ]  # fmt: skip
    assert out.splitlines()[1].split() == ["bobot", "-", "-", "0", "B", "-", "512", "-"]
    assert err.startswith("bobot: broken: ")
    entries = json.loads(run_bobot("list", "--json")[1])
    assert [entry["name"] for entry in entries] == ["bobot", "broken"]
    assert "config.json" in entries[1]["error"]


def test_list_and_show_tell_what_the_cache_of_a_model_takes(
    run_bobot: Run, embedded: Path, home: Path
) -> None:
    made = user_paths().tiles / "made.safetensors"
    made.parent.mkdir(parents=True)
    made.write_bytes(bytes(3000))
    remember_source(made, embedded)
    assert "2.93 KiB" in run_bobot("list")[1].splitlines()[1]
    assert json.loads(run_bobot("list", "--json")[1])[0]["cache_bytes"] == 3000
    assert "2.93 KiB of tiles" in run_bobot("show")[1]
    assert json.loads(run_bobot("show", "--json")[1])["cache_bytes"] == 3000


def test_list_with_nothing_says_where_models_go(
    run_bobot: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bobot.hub.store.embedded_folder", lambda: home / "none")
    status, out, err = run_bobot("list")
    assert (status, out) == (0, "")
    assert "models" in err
    assert run_bobot("list", "--json")[1] == "[]\n"


def test_show_tells_what_a_model_is(run_bobot: Run, shared: Path) -> None:
    folder = str(shared / "weights" / "stories260K")
    out = run_bobot("show", folder)[1]
    for part in ("stories260K", "LlamaForCausalLM", "260K (260,032)", "512 tokens", "float32"):
        assert part in out
    assert json.loads(run_bobot("show", folder, "--json")[1])["num_parameters"] == 260_032


def test_show_of_nothing_is_the_embedded_model(run_bobot: Run, embedded: Path) -> None:
    assert json.loads(run_bobot("show", "--json")[1])["name"] == "bobot"


def test_doctor_finds_nothing_missing_here(run_bobot: Run, embedded: Path) -> None:
    status, out, err = run_bobot("doctor")
    assert (status, err) == (0, "")
    for part in ("Python", "torch", "C++ kernels", "memory", "checksums right", "terminal"):
        assert part in out
    report = json.loads(run_bobot("doctor", "--json")[1])
    assert report["hardware"]["num_cores"] >= 1
    assert {finding["status"] for finding in report["findings"]} <= {"ok", "note"}


def test_doctor_names_a_changed_file_and_fails(run_bobot: Run, embedded: Path) -> None:
    (embedded / "config.json").write_text("{}")
    status, out, _ = run_bobot("doctor")
    assert status == 1
    assert "wrong checksum: config.json" in out
    assert "install bobot again" in out


def test_doctor_names_what_is_missing(
    run_bobot: Run, embedded: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> str:
        raise doctor.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.importlib.metadata, "version", absent)
    monkeypatch.setattr("bobot.kernels.available", False)
    (home / "xdg_data_home").write_text("a file in the way")
    status, out, _ = run_bobot("doctor", "--lang", "id")
    assert status == 1
    for part in ("TIDAK ADA", "make chat", "XDG_DATA_HOME"):
        assert part in out


def test_tables_line_up_and_long_values_wrap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    assert table([("A", "B"), ("long", "x")]) == "A     B\nlong  x"
    assert facts([("a", "one two three four five six"), ("bb", "")]) == (
        "a   one two three four five\n    six\nbb"
    )


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (999, "999"), (15_191_712, "15.2M"), (8_030_261_248, "8.03B")]
)
def test_counts_are_short(number: int, text: str) -> None:
    assert count_text(number) == text


@pytest.mark.parametrize(
    ("number", "text"), [(5, "5 B"), (1 << 20, "1 MiB"), (8482560, "8.09 MiB")]
)
def test_sizes_are_short(number: int, text: str) -> None:
    assert bytes_text(number) == text
