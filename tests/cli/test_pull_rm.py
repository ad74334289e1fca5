"""`bobot pull` and `bobot rm` as people use them, against a hub on loopback."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub_server import FakeHub, Hold, etag_of, running_hub

from bobot.cli import main
from bobot.cli.download_progress import Gauge, duration_text
from bobot.hub.made import remember_source
from bobot.hub.transfer import Meter

Run = Callable[..., tuple[int, str, str]]
NAME = "org/tiny"
FILES = {
    "config.json": b'{"architectures": ["LlamaForCausalLM"]}',
    "tokenizer.json": b"{}",
    "README.md": b"---\nlicense: mit\n---\n",
    "model.safetensors": b"\x02\0\0\0\0\0\0\0{}" + os.urandom(500_000),
    "original/consolidated.00.pth": bytes(500_000),
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    for name in ("HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running_hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        running.add(NAME, FILES, licence="mit")
        yield running


@pytest.fixture
def cache(home: Path) -> Path:
    return home / "xdg_cache_home/huggingface/hub"


def test_pull_tells_its_choices_and_prints_the_folder(
    run_bobot: Run, hub: FakeHub, cache: Path
) -> None:
    status, out, err = run_bobot("pull", NAME)
    assert status == 0
    assert Path(out.strip()).parent == cache / "models--org--tiny/snapshots"
    for part in ("licence mit", "left out: 488 KiB", "files: 4", "Next: bobot chat org/tiny"):
        assert part in err
    err = run_bobot("pull", NAME, "--lang", "id")[2]
    assert "semua sudah di sini" in err


def test_pulled_model_is_listed_shown_and_removed(
    run_bobot: Run, hub: FakeHub, cache: Path
) -> None:
    report = json.loads(run_bobot("pull", NAME, "--json")[1])
    assert report["fetched_bytes"] == report["size_bytes"] > 500_000
    assert len(report["files"]) == 4
    assert NAME in run_bobot("list")[1]
    shown = json.loads(run_bobot("show", NAME, "--json")[1])
    assert shown["digest"] == report["digest"]
    assert shown["licence"] == "mit"
    status, out, err = run_bobot("rm", NAME, "--yes")
    assert (status, out) == (0, "removed; 489 KiB are free again\n")
    assert str(cache / "models--org--tiny") in err
    assert not (cache / "models--org--tiny").exists()
    assert NAME not in run_bobot("list")[1]


def test_killed_pull_goes_on_where_it_was(run_bobot: Run, hub: FakeHub, cache: Path) -> None:
    hold = Hold(after=200_000)
    hub.faults["model.safetensors"] = [hold]
    blobs = cache / "models--org--tiny/blobs"
    partial = blobs / f"{etag_of('model.safetensors', FILES['model.safetensors'])}.incomplete"
    command = [sys.executable, "-m", "bobot", "pull", NAME]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        assert hold.reached.wait(30), "the download did not start"
        deadline = time.monotonic() + 30
        while partial.stat().st_size < 200_000 and time.monotonic() < deadline:
            time.sleep(0.01)  # until another process has written what it was sent
        process.kill()
    hold.release.set()
    hub.requests.clear()
    assert run_bobot("pull", NAME)[0] == 0
    (request,) = (r for r in hub.downloads("model.safetensors") if r.host == "storage")
    assert request.range == "bytes=200000-500009"


def test_ctrl_c_ends_a_pull_at_once_though_the_server_is_silent(hub: FakeHub) -> None:
    hold = Hold(after=1000)
    hub.faults["model.safetensors"] = [hold]
    command = [sys.executable, "-m", "bobot", "pull", NAME]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert hold.reached.wait(30), "the download did not start"
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        err = process.communicate(timeout=30)[1]
    hold.release.set()
    assert process.returncode == 130
    assert "the same command goes on from there" in err
    assert "Traceback" not in err
    assert time.monotonic() - start < 10


def test_refusals_are_one_line_each(run_bobot: Run, hub: FakeHub) -> None:
    for words, status, part in (
        (["bobot"], 2, "nothing to pull"),
        (["llama3.1:8q"], 1, "Did you mean 'llama3.1:8b'"),
        (["org/absent"], 1, "does not exist"),
        ([NAME, "--revision", "../x"], 2, "must be a branch, a tag or a commit"),
        ([NAME, "--revision", "v9"], 1, "no such revision"),
        ([NAME + ":Q4_K_M"], 1, "no GGUF files"),
        ([], 2, "NAME is missing"),
    ):
        result = run_bobot("pull", *words)
        assert result[0] == status, words
        assert part in result[2].splitlines()[-1]


def test_full_disk_stops_before_the_first_byte(
    run_bobot: Run, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bobot.hub.pull.shutil.disk_usage", lambda _: FullDisk())
    status, _, err = run_bobot("pull", NAME)
    assert status == 1
    assert "free on the disk: 100 KiB" in err
    assert "HF_HOME" in err.splitlines()[-1]
    assert not [request for request in hub.requests if "/resolve/" in request.path]


class FullDisk:
    free = 100 << 10


def test_model_without_tokenizer_says_where_to_put_one(run_bobot: Run, hub: FakeHub) -> None:
    hub.add("xai-org/grok-1", {"ckpt-0/tensor00000_000": b"x", "README.md": b""})
    status, out, err = run_bobot("pull", "grok-1")
    assert status == 0
    assert f"no tokenizer: put its tokenizer.model or tokenizer.json into {out.strip()}" in err


def test_rm_asks_first(
    run_bobot: Run,
    hub: FakeHub,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_bobot("pull", NAME)
    status, _, err = run_bobot("rm", NAME)
    assert status == 2
    assert "--yes" in err
    for answer, expected in (("\n", 1), ("", 1), ("y\n", 0)):
        assert (cache / "models--org--tiny").exists()
        monkeypatch.setattr(sys, "stdin", Keyboard(answer))
        assert main(["rm", NAME]) == expected
        assert "free 489 KiB? [y/N]" in capsys.readouterr().err
    assert not (cache / "models--org--tiny").exists()


class Keyboard(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_one_of_two_quantizations_can_be_removed(run_bobot: Run, hub: FakeHub, cache: Path) -> None:
    hub.add(NAME, {f"tiny-{tag}.gguf": os.urandom(2000) for tag in ("Q4_K_M", "Q8_0")})
    run_bobot("pull", f"{NAME}:Q4_K_M")
    run_bobot("pull", f"{NAME}:Q8_0")
    assert run_bobot("rm", f"{NAME}:Q4_K_M", "--yes")[1].startswith("removed; 1.95 KiB")
    left = sorted(path.name for path in cache.rglob("*.gguf"))
    assert left == ["tiny-Q8_0.gguf"]
    assert len(list((cache / "models--org--tiny/blobs").iterdir())) == 1
    assert "Get it with" in run_bobot("rm", f"{NAME}:Q4_K_M", "--yes")[2]
    run_bobot("rm", f"{NAME}:Q8_0", "--yes")
    assert not (cache / "models--org--tiny").exists()


def test_beginnings_of_prompts_are_removed_with_their_model_or_alone(
    run_bobot: Run, home: Path
) -> None:
    folder, models = home / "xdg_cache_home/bobot/prefixes", home / "xdg_data_home/bobot/models"
    for name in ("rose", "tulip"):
        (models / name).mkdir(parents=True)
        remember_source(folder / name, models / name)
        (folder / f"{name}-0.block").write_bytes(bytes(1 << 20))
    left = ["rose-0.block", "rose.txt"]
    assert run_bobot("rm", "tulip", "--yes")[1] == "removed; 1 MiB are free again\n"
    assert sorted(path.name for path in folder.iterdir()) == left
    for words in (["rm"], ["rm", "rose", "--prefixes"]):
        status, _, err = run_bobot(*words)
        assert status == 2 and "either NAME or --prefixes" in err
    assert sorted(path.name for path in folder.iterdir()) == left
    assert run_bobot("rm", "--prefixes")[1] == "removed; 1 MiB are free again\n"
    assert list(folder.iterdir()) == [] and (models / "rose").exists()


def test_stopped_download_can_be_removed(run_bobot: Run, cache: Path) -> None:
    blobs = cache / "models--org--tiny/blobs"
    blobs.mkdir(parents=True)
    (blobs / "0.incomplete").write_bytes(bytes(1 << 20))
    assert run_bobot("rm", NAME, "--yes")[1] == "removed; 1 MiB are free again\n"


def test_rm_removes_nothing_that_is_not_its_own(run_bobot: Run, home: Path, cache: Path) -> None:
    outside = home / "mine"
    outside.mkdir()
    (outside / "config.json").write_text("{}")
    cache.mkdir(parents=True)
    (cache / "models--org--link").symlink_to(outside)
    models = home / "xdg_data_home/bobot/models"
    (models / "own").mkdir(parents=True)
    (models / "linked").symlink_to(outside)
    for name, part in (
        ("bobot", "part of bobot"),
        (str(outside), "removes models only there"),
        (str(models), "removes models only there"),
        (f"{models}/own/../..", "removes models only there"),
        ("org/link", "leads out of the cache"),
        ("org/absent", "bobot pull org/absent"),
        ("../mine", "no such"),
    ):
        status, _, err = run_bobot("rm", name, "--yes")
        assert status != 0, name
        assert part in err, name
    assert run_bobot("rm", "linked", "--yes")[0] == 0
    assert (outside / "config.json").exists()
    assert run_bobot("rm", "own", "--yes")[0] == 0
    assert [path.name for path in models.iterdir()] == []


def test_rm_leaves_what_other_repositories_share(run_bobot: Run, cache: Path) -> None:
    store = cache / "blobs" / "ab"
    store.mkdir(parents=True)
    (cache / "blobs/.huggingface-shared-blobs").write_text("1\n")
    shared = store / ("ab" * 32)
    shared.write_bytes(bytes(5000))
    for name in ("one", "two"):
        entry = cache / f"models--org--{name}"
        (entry / "blobs").mkdir(parents=True)
        (entry / "snapshots/c0").mkdir(parents=True)
        (entry / "blobs/e0").symlink_to(f"../../blobs/ab/{shared.name}")
        (entry / "snapshots/c0/model.safetensors").symlink_to("../../blobs/e0")
        (entry / "snapshots/c0/config.json").write_text("{}")
    shared.with_name(f"{shared.name}.refs").write_text(
        "models--org--one/blobs/e0\nmodels--org--two/blobs/e0\n"
    )
    assert run_bobot("rm", "org/one", "--yes")[0] == 0
    assert not (cache / "models--org--one").exists()
    assert shared.stat().st_size == 5000


def test_chat_with_an_absent_model_says_how_to_get_it(run_bobot: Run, hub: FakeHub) -> None:
    status, _, err = run_bobot("show", "llama3.1:8b")
    assert status == 1
    assert "bobot pull llama3.1:8b (15.0 GiB)" in err
    assert not hub.requests, "nothing is asked of the network"


def test_gauge_gives_speed_time_left_and_reasons() -> None:
    clock = [0.0]
    meter = Meter(200 << 20, None)  # type: ignore[arg-type]
    gauge = Gauge(meter, lambda: clock[0])
    assert gauge.pace == ""
    gauge.read()
    for second in range(1, 30):
        clock[0] = second
        meter.advance(1 << 20, received=second > 15)
        gauge.read()
        if second == 10:
            assert gauge.pace == "checking what is here, 3 min left"
    assert (gauge.percent, gauge.amount) == (14, "29 MiB of 200 MiB")
    assert gauge.pace == "1 MiB/s, 3 min left"
    clock[0] += 60
    gauge.read()
    gauge.read()
    assert gauge.pace == "waiting for data"
    meter.waiting = "HTTP 429"
    assert gauge.pace == "waiting: HTTP 429"
    assert [duration_text(s) for s in (0.2, 59, 60, 3599, 7500)] == [
        "1 s", "59 s", "1 min", "1 h 0 min", "2 h 5 min",
    ]  # fmt: skip


def test_progress_without_a_terminal_is_a_line_now_and_then(
    run_bobot: Run, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bobot.cli.download_progress.LINE_EVERY_S", 0)
    err = run_bobot("pull", NAME)[2]
    assert re.search(r"^\d+%  .* of 488 KiB", err, re.MULTILINE), err
    assert "\x1b" not in err
