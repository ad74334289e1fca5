"""Every malformed file raises our error, fast, in bounded memory, and nothing in it runs."""

from __future__ import annotations

import pickle
import random
import resource
import time
from pathlib import Path

import pytest
from hostile_pickles import PICKLES
from malformed import CASES
from malformed_case import Case
from malformed_torch import in_zip

from bobot.checkpoints import open_checkpoint
from bobot.errors import BobotError, UnsafeFileError

MAX_SECONDS = 3
MAX_GROWTH_KIB = 300 << 10


def read_everything(path: Path) -> None:
    with open_checkpoint(path) as checkpoint:
        for name, info in checkpoint.tensors.items():
            checkpoint.read(name, info.shape)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_malformed_file_raises_our_error_fast_and_runs_nothing(case: Case, tmp_path: Path):
    path = case.make(tmp_path)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    with pytest.raises(case.error) as caught:
        read_everything(path)
    seconds = time.perf_counter() - start
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    message = str(caught.value)
    assert case.words in message or any(word in message for word in case.words.split("|"))
    assert "\n" not in message and "\x1b" not in message and len(message) < 1000
    assert not (tmp_path / "canary").exists(), "the file ran code"
    assert seconds < MAX_SECONDS, f"{seconds:.1f} s"
    assert growth < MAX_GROWTH_KIB, f"{growth} KiB more memory"


@pytest.mark.parametrize("name", ["os.system", "builtins.exec", "nested calls", "INST"])
def test_the_canary_notices_a_pickle_that_runs(name: str, tmp_path: Path):
    pickle.loads(PICKLES[name](tmp_path))
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("os.system", "os.system"),
        ("builtins.eval", "builtins.eval"),
        ("torch.load", "torch.load"),
        ("dotted name of a torch module", "torch.serialization.os.system"),
        ("call through the memo", "os.system"),
        ("call inside a shape", "os.system"),
        ("INST", "os.system"),
        ("NEWOBJ", "subprocess.Popen"),
    ],
)
def test_the_error_names_the_file_and_what_it_would_call(name: str, named: str, tmp_path: Path):
    with pytest.raises(UnsafeFileError) as caught:
        open_checkpoint(in_zip(PICKLES[name])(tmp_path))
    assert named in str(caught.value) and "consolidated.00.pth" in str(caught.value)


def test_no_byte_cut_off_a_good_file_goes_unnoticed(tmp_path: Path, good_files: dict[str, bytes]):
    for name, data in good_files.items():
        path = tmp_path / name
        padding = 32 if path.suffix == ".gguf" else 0
        for keep in range(0, len(data) - padding, max(1, len(data) // 60)):
            path.write_bytes(data[:keep])
            with pytest.raises(BobotError):
                read_everything(path if path.suffix != ".pth" else tmp_path)
        path.unlink()


def test_a_file_with_changed_bytes_is_refused_or_read_but_never_crashes(
    tmp_path: Path, good_files: dict[str, bytes]
):
    generator = random.Random(5)
    refused = 0
    for name, data in good_files.items():
        path = tmp_path / name
        for _ in range(300):
            changed = bytearray(data)
            for _ in range(generator.randint(1, 3)):
                changed[generator.randrange(len(data))] = generator.choice((0, 1, 0x7F, 0x80, 0xFF))
            path.write_bytes(changed)
            try:
                read_everything(path if path.suffix != ".pth" else tmp_path)
            except BobotError:
                refused += 1
        path.unlink()
    assert refused > 300, f"only {refused} of 900 changed files were refused"
