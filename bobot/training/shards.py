"""Tokenized sources on disk: written once in bounded memory, then read by memory map.

A shard is a folder: `ids` (uint16), `said` (uint8: is this token learned when only the assistant
counts), `ends` (int64: where each document ends), for training and, with a `held_out_` prefix,
for evaluation. `shard.json` is written last and holds the digest of what it was made from.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from bobot.checkpoints.writing import atomic_file
from bobot.errors import TrainingError
from bobot.training.chatml import encode_conversation, encode_text
from bobot.training.corpus import Row

SMALLEST_DOCUMENT = 8
HELD_OUT_EVERY = 21
"""Odd, so that of sources with two languages in turn both are held out."""


@dataclass(frozen=True)
class Documents:
    """Documents side by side; document i is [ends[i - 1], ends[i])."""

    ids: np.ndarray
    said: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.ends)

    def bounds(self, index: int) -> tuple[int, int]:
        return (int(self.ends[index - 1]) if index else 0), int(self.ends[index])

    def lengths(self) -> np.ndarray:
        return np.diff(self.ends, prepend=0)


class _Writer:
    def __init__(self, folder: Path, prefix: str) -> None:
        self.ids = open(folder / f"{prefix}ids", "wb")  # noqa: SIM115
        self.said = open(folder / f"{prefix}said", "wb")  # noqa: SIM115
        self.ends_path = folder / f"{prefix}ends"
        self.ends: list[int] = []
        self.num_tokens = 0

    def add(self, ids: list[int], said: list[bool]) -> None:
        self.ids.write(np.asarray(ids, dtype=np.uint16).tobytes())
        self.said.write(np.asarray(said, dtype=np.uint8).tobytes())
        self.num_tokens += len(ids)
        self.ends.append(self.num_tokens)

    def close(self) -> None:
        self.ids.close()
        self.said.close()
        self.ends_path.write_bytes(np.asarray(self.ends, dtype=np.int64).tobytes())


def write_shard(
    folder: Path,
    rows: Iterable[Row],
    tokenizer: Tokenizer,
    *,
    max_document_tokens: int,
    held_out_documents: int,
    made_from: str,
) -> None:
    """Tokenizes the rows. Every 21st is held out until there are enough; long documents are cut."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "shard.json").unlink(missing_ok=True)
    train, held_out = _Writer(folder, ""), _Writer(folder, "held_out_")
    for index, row in enumerate(rows):
        if "messages" in row:
            ids, said = encode_conversation(tokenizer, row["messages"])
        else:
            ids, said = encode_text(tokenizer, row["text"])
        keep_out = index % HELD_OUT_EVERY == 0 and len(held_out.ends) < held_out_documents
        writer = held_out if keep_out else train
        for start in range(0, len(ids), max_document_tokens):
            piece = slice(start, start + max_document_tokens)
            if len(ids[piece]) >= SMALLEST_DOCUMENT and any(said[piece]):
                writer.add(ids[piece], said[piece])
    train.close()
    held_out.close()
    facts = {"made_from": made_from, "tokens": train.num_tokens, "documents": len(train.ends)}
    with atomic_file(folder / "shard.json") as file:
        file.write(json.dumps(facts).encode())


def is_current(folder: Path, made_from: str) -> bool:
    """Whether a finished shard made from exactly this lies in the folder."""
    try:
        return json.loads((folder / "shard.json").read_text())["made_from"] == made_from
    except (OSError, ValueError, KeyError):
        return False


def read_shard(folder: Path, *, held_out: bool = False) -> Documents:
    prefix = "held_out_" if held_out else ""
    ends = np.fromfile(folder / f"{prefix}ends", dtype=np.int64)
    if not len(ends):
        raise TrainingError(
            "{folder} has no documents.", hint="Give the source more rows.", folder=folder
        )
    return Documents(
        ids=np.memmap(folder / f"{prefix}ids", dtype=np.uint16, mode="r"),
        said=np.memmap(folder / f"{prefix}said", dtype=np.uint8, mode="r"),
        ends=ends,
    )
