"""A program that writes block files until it is killed; test_block_files.py starts it.

block_files_victim.py FOLDER SEED
"""

from __future__ import annotations

import hashlib
import random
import sys
from pathlib import Path

from bobot.engine.block_files import HEADER_BYTES, BlockFiles

IDENTITY = bytes(range(32))
BLOCK_BYTES = 100_000
MAX_BYTES = 40 * (BLOCK_BYTES + HEADER_BYTES)
NUM_HASHES = 60


def block_hash(number: int) -> bytes:
    return hashlib.sha256(b"block %d" % number).digest()


def content(number: int) -> bytes:
    return random.Random(number).randbytes(BLOCK_BYTES)


def files_in(folder: Path) -> BlockFiles:
    return BlockFiles(folder, IDENTITY, BLOCK_BYTES, MAX_BYTES)


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(folder: Path, seed: int) -> None:
    """Writes, reads back and touches blocks in an order of its own."""
    files, draw = files_in(folder), random.Random(seed)
    buffer = bytearray(BLOCK_BYTES)
    tell("ready")
    for _ in range(1_000_000):
        number = draw.randrange(NUM_HASHES)
        known = content(number)
        if not files.write(block_hash(number), memoryview(known)):
            tell(f"refused {number}")
        other = draw.randrange(NUM_HASHES)
        if files.read(block_hash(other), memoryview(buffer)) and buffer != content(other):
            tell(f"wrong {other}")
        files.touch([block_hash(draw.randrange(NUM_HASHES)) for _ in range(3)])
        tell(f"wrote {number}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
