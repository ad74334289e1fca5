"""JSON from strangers: bounded in size, no duplicate key, no NaN, no Infinity, an object at the
top.

Python's json takes all of these silently; a config with two `rope_theta` or a NaN would load and
answer nonsense.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from bobot.checkpoints.stored import shown
from bobot.errors import CheckpointError

MAX_CONFIG_BYTES = 4 << 20


class _Refused(ValueError):
    """Carries the reason out of json's hooks."""


def read_json(path: Path, max_bytes: int = MAX_CONFIG_BYTES) -> dict[str, Any]:
    """The object in the file. Raises CheckpointError with the reason."""
    try:
        with open(path, "rb", opener=_without_blocking) as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise CheckpointError(
            "{file} can't be read: {reason}", file=path, reason=error.strerror
        ) from error
    if len(data) > max_bytes:
        raise CheckpointError(
            "{file} is larger than {limit} bytes, the most bobot reads there",
            file=path,
            limit=max_bytes,
        )
    return parse_json(path, data)


def parse_json(path: Path, data: bytes) -> dict[str, Any]:
    """`data` as one JSON object; `path` is for the message only."""
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique_keys,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
    except RecursionError:
        raise CheckpointError("{file}: the JSON is nested too deeply", file=path) from None
    except ValueError as error:
        raise CheckpointError(
            "{file} is not valid JSON: {reason}",
            hint="Download it again, or correct it by hand.",
            file=path,
            reason=shown(error),
        ) from None
    if not isinstance(value, dict):
        raise CheckpointError(
            "{file}: the JSON is a {found}; an object is needed",
            file=path,
            found=type(value).__name__,
        )
    return value


def _without_blocking(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Refused(f"the key {key!r} appears twice")
        found[key] = value
    return found


def _no_constant(text: str) -> Any:
    raise _Refused(f"{text} is not a number in JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Refused(f"the number {text} is out of range")
    return value
