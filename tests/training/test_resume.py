"""A training run that is killed at any moment ends with the numbers of one that was left alone."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from bobot.training.saving import load_newest, save

RUN = """
import sys, torch
from pathlib import Path
from bobot.training import load_recipe, run_recipe
torch.set_num_threads(1)
recipe = Path(sys.argv[1])
run_recipe(load_recipe(recipe), recipe.parent / "data", Path(sys.argv[2]), print)
"""


def start(recipe: Path, out: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(recipe), str(out)], stdout=subprocess.DEVNULL
    )


def losses(out: Path) -> list[tuple]:
    lines = []
    for stage in ("pretrain", "sft"):
        text = (out / stage / "metrics.jsonl").read_text()
        lines += [(stage, *json.loads(line).items()) for line in text.splitlines()]
    return lines


def last_model(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "sft" / "step-20" / "model.safetensors")


def kill_after(run: subprocess.Popen, out: Path, num_lines: int) -> None:
    """SIGKILL as soon as the run has written that many lines of metrics in all."""
    deadline = time.monotonic() + 60
    while sum(p.read_text().count("\n") for p in out.glob("*/metrics.jsonl")) < num_lines:
        assert time.monotonic() < deadline, f"the run never wrote {num_lines} lines"
        with contextlib.suppress(subprocess.TimeoutExpired):
            assert run.wait(timeout=0.01) == 0
            return
    run.send_signal(signal.SIGKILL)
    run.wait()


def test_a_run_killed_twice_ends_bit_identical(tiny_recipe: Path, tmp_path: Path) -> None:
    whole = start(tiny_recipe, tmp_path / "whole")
    killed = tmp_path / "killed"
    rng = random.Random()
    moments = rng.randint(2, 9), rng.randint(14, 28)
    for num_lines in moments:
        kill_after(start(tiny_recipe, killed), killed, num_lines)
    assert start(tiny_recipe, killed).wait() == 0
    assert whole.wait() == 0
    assert losses(killed) == losses(tmp_path / "whole"), f"killed after {moments} lines"
    wanted, found = last_model(tmp_path / "whole"), last_model(killed)
    for name, tensor in wanted.items():
        assert torch.equal(tensor, found[name]), f"{name} differs; killed after {moments} lines"


def test_a_truncated_checkpoint_is_named_and_the_one_before_is_used(tmp_path: Path) -> None:
    weights = {"w": torch.arange(4.0)}
    for step in (1, 2):
        save(tmp_path, step, model=weights, optimizer=weights, state={"step": step})
    damaged = tmp_path / "step-2" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-3])
    messages: list[str] = []
    saved = load_newest(tmp_path, messages.append)
    assert saved is not None and saved.state == {"step": 1}
    assert len(messages) == 1 and "step-2" in messages[0] and "sha256" in messages[0], messages


def test_only_the_two_newest_checkpoints_stay(tmp_path: Path) -> None:
    weights = {"w": torch.zeros(1)}
    for step in (9, 10, 11):
        save(tmp_path, step, model=weights, optimizer=weights, state={"step": step})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-10", "step-11"]


def test_a_half_written_checkpoint_is_never_seen(tmp_path: Path) -> None:
    (tmp_path / "step-7.tmp").mkdir()
    assert load_newest(tmp_path, print) is None
