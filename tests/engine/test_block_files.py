"""Blocks as files: what comes back is what was written, whatever happened to the folder."""

from __future__ import annotations

import logging
import os
import random
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from block_files_victim import (
    BLOCK_BYTES,
    IDENTITY,
    MAX_BYTES,
    NUM_HASHES,
    block_hash,
    content,
    files_in,
)

from bobot.engine import block_files
from bobot.engine.block_files import HEADER, HEADER_BYTES, BlockFiles
from bobot.errors import StorageError

VICTIM = Path(__file__).with_name("block_files_victim.py")
SIZE = 64
FILE = SIZE + HEADER_BYTES


def small(folder: Path, max_bytes: int = 1 << 20, identity: bytes = IDENTITY) -> BlockFiles:
    return BlockFiles(folder, identity, SIZE, max_bytes)


def payload(number: int) -> bytes:
    return random.Random(number).randbytes(SIZE)


def read(files: BlockFiles, number: int) -> bytes | None:
    buffer = bytearray(files.block_bytes)
    return bytes(buffer) if files.read(block_hash(number), memoryview(buffer)) else None


def write(files: BlockFiles, *numbers: int) -> None:
    for number in numbers:
        assert files.write(block_hash(number), memoryview(payload(number)))


def blocks_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.block"))


def test_blocks_come_back_and_only_their_owner_can_read_them(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "prefixes"
    files = small(folder)
    write(files, *range(5))
    again = small(folder)
    assert [read(again, number) for number in range(5)] == [payload(n) for n in range(5)]
    assert read(again, 5) is None and not again.has(block_hash(5))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert again.num_bytes == 5 * FILE == sum(path.stat().st_size for path in blocks_in(folder))


def test_folder_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    small(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def cut(path: Path) -> None:
    os.truncate(path, FILE - 1)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def longer(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


def torn(path: Path) -> None:
    """The length is there and the end is not: what a power cut leaves."""
    content = path.read_bytes()
    path.write_bytes(content[:-20] + bytes(20))


def other_version(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:7] + b"\x02" + content[8:])


def no_header(path: Path) -> None:
    path.write_bytes(random.Random(1).randbytes(FILE))


def another_text(path: Path) -> None:
    shutil.copyfile(path.parent / f"{IDENTITY[:8].hex()}-{block_hash(1).hex()}.block", path)


def another_model(path: Path) -> None:
    """Even one whose name begins alike."""
    files = small(path.parent, identity=IDENTITY[:31] + b"\xff")
    write(files, 0)
    assert files.path_of(block_hash(0)) == path


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def link(path: Path) -> None:
    target = path.with_name("target")
    path.rename(target)
    path.symlink_to(target)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES = [cut, empty, longer, torn, other_version, no_header]
DAMAGES += [another_text, another_model, folder_instead, link, pipe]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_what_is_not_the_block_that_was_written_is_removed_and_told(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    files = small(tmp_path)
    write(files, 0, 1)
    damage(files.path_of(block_hash(0)))
    with caplog.at_level(logging.WARNING):
        assert read(files, 0) is None
    assert "no block of the prefix cache" in caplog.text, caplog.text
    assert read(files, 1) == payload(1)
    if damage is not folder_instead:  # which is not ours to empty
        assert not os.path.lexists(files.path_of(block_hash(0)))
        write(files, 0)
        assert read(files, 0) == payload(0)


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    files = small(tmp_path)
    write(files, 0)
    path = files.path_of(block_hash(0))
    sound = path.read_bytes()
    for bit in range(8 * FILE):
        damaged = bytearray(sound)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert read(files, 0) is None, f"bit {bit} of {8 * FILE}"
    path.write_bytes(sound)
    assert read(files, 0) == payload(0)


def test_header_names_model_and_text(tmp_path: Path) -> None:
    files = small(tmp_path)
    write(files, 3)
    head = files.path_of(block_hash(3)).read_bytes()
    magic, identity, name, num_bytes = HEADER.unpack(head[: HEADER.size])
    assert (magic[:7], identity, name, num_bytes) == (b"bobotKV", IDENTITY, block_hash(3), SIZE)


def test_bound_is_kept_and_the_least_recently_used_go_first(tmp_path: Path) -> None:
    files = small(tmp_path, 20 * FILE)
    write(files, *range(20))
    for number in range(20):  # one after the other, whatever the clock of the disk can tell apart
        os.utime(files.path_of(block_hash(number)), ns=(number, number))
    files.touch([block_hash(0), block_hash(1)])
    write(files, 20)
    assert read(files, 20) == payload(20)
    left = {n for n in range(20) if files.has(block_hash(n))}
    assert {0, 1} <= left and 2 not in left, left
    assert left - {0, 1} == set(range(min(left - {0, 1}), 20)), "the oldest have gone"
    for number in range(21, 200):
        write(files, number)
        assert sum(path.stat().st_size for path in blocks_in(tmp_path)) <= 20 * FILE
    assert len(blocks_in(tmp_path)) >= 17


def test_end_of_a_prefix_goes_before_its_beginning(tmp_path: Path) -> None:
    files = small(tmp_path, 20 * FILE)
    write(files, *range(20))
    files.touch([block_hash(number) for number in range(20)])
    write(files, 20, 21, 22)
    left = [number for number in range(20) if files.has(block_hash(number))]
    assert left == list(range(len(left))) and 15 <= len(left) < 20, left


def test_lower_bound_is_met_at_once_and_shared_by_models(tmp_path: Path) -> None:
    write(small(tmp_path), *range(10))
    write(small(tmp_path, identity=bytes(32)), *range(10))
    files = small(tmp_path, 8 * FILE)
    assert len(blocks_in(tmp_path)) <= 8 and files.num_bytes <= 8 * FILE
    tiny = small(tmp_path, FILE - 1)
    assert not tiny.write(block_hash(0), memoryview(payload(0)))
    assert not blocks_in(tmp_path)


def test_disk_keeps_some_room_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = small(tmp_path)
    write(files, *range(10))
    nearly = shutil._ntuple_diskusage(1, 1, block_files.ROOM_BYTES - 5 * FILE)  # type: ignore[attr-defined]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: nearly)
    assert len(blocks_in(tmp_path)) == 10
    files = small(tmp_path)
    assert len(blocks_in(tmp_path)) == 4, "and a sixteenth more"
    full = shutil._ntuple_diskusage(1, 1, 0)  # type: ignore[attr-defined]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    assert not small(tmp_path).write(block_hash(0), memoryview(payload(0)))


def test_deleted_folder_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = small(tmp_path / "prefixes")
    write(files, 0)
    shutil.rmtree(tmp_path / "prefixes")
    assert read(files, 0) is None
    with caplog.at_level(logging.WARNING):
        kept = [files.write(block_hash(n), memoryview(payload(n))) for n in range(3)]
    assert kept == [False, True, True] and caplog.text.count("was not kept") == 1
    assert read(files, 2) == payload(2)


def test_place_that_can_not_be_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(StorageError, match="file"):
        small(tmp_path / "file")


def start(folder: Path, *seeds: int) -> list[subprocess.Popen[str]]:
    """A victim for each seed, when their imports are done."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(VICTIM), str(folder)]
    victims = [
        subprocess.Popen([*command, str(seed)], stdout=subprocess.PIPE, text=True, env=environ)
        for seed in seeds
    ]
    for victim in victims:
        assert victim.stdout is not None
        assert victim.stdout.readline() == "ready\n"
    return victims


def killed(victim: subprocess.Popen[str]) -> list[str]:
    victim.kill()
    out, _ = victim.communicate()
    return [line for line in out.split("\n")[:-1] if line]


def check(folder: Path, lines: list[str], caplog: pytest.LogCaptureFixture) -> int:
    """Every block that is there is whole: how many. None was ever anything else."""
    files = files_in(folder)
    buffer = bytearray(BLOCK_BYTES)
    found = 0
    with caplog.at_level(logging.WARNING):
        for number in range(NUM_HASHES):
            if files.read(block_hash(number), memoryview(buffer)):
                assert buffer == content(number), f"block {number} is another"
                found += 1
    assert caplog.text == "" and not [line for line in lines if not line.startswith("wrote")]
    return found


@pytest.mark.parametrize("seed", range(3))
def test_killed_while_writing(tmp_path: Path, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    (victim,) = start(tmp_path, seed)
    time.sleep(random.Random(seed).uniform(0.0, 0.4))
    lines = killed(victim)
    assert check(tmp_path, lines, caplog) <= 40
    partial = list(tmp_path.glob("*.partial"))
    assert len(partial) <= 1
    for path in partial:
        os.utime(path, (1, 1))
    files_in(tmp_path)
    assert not list(tmp_path.glob("*.partial")), "what a killed process left stays for ever"


def test_three_processes_share_a_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    victims = start(tmp_path, 0, 1, 2)
    most = 0
    for victim in victims:
        assert victim.stdout is not None
        for _ in range(80):
            victim.stdout.readline()
            most = max(most, _total(tmp_path))
    lines = [line for victim in victims for line in killed(victim)]
    assert check(tmp_path, lines, caplog) > 20
    # Each of them may write a sixteenth of the bound before it looks at the folder again.
    assert most <= MAX_BYTES * (1 + 3 / 16), most / MAX_BYTES


def _total(folder: Path) -> int:
    total = 0
    for path in folder.glob("*.block"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue  # evicted since it was listed
    return total
