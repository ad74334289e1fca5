"""An answer as a person reads it where no tools are run: reasoning and text, calls quoted as JSON.

Not for programs: they take the deltas of LocalModel.answer as they are.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable
from dataclasses import replace
from typing import Any

from bobot.text.parts import PartDelta, parts_of


def readable(deltas: Generator[PartDelta, None, None]) -> Generator[PartDelta, None, None]:
    """`deltas` of kind reasoning and text; the texts add up to what is shown and kept.

    A blank line parts one text from the next; each call stands as a block of JSON, once it is
    complete.
    """
    last = None
    try:
        for delta in _quoting(deltas):
            if delta.kind == "text" and delta.text:
                if last not in (None, delta.part):
                    delta = replace(delta, text=f"\n\n{delta.text}")
                last = delta.part
            yield delta
    finally:
        deltas.close()


def from_pieces(pieces: Any) -> Generator[PartDelta, None, None]:
    """The pieces of LocalModel.generate as deltas of one text."""
    try:
        for piece in pieces:
            yield PartDelta(part=0, kind="text", text=str(piece), finish_reason=piece.finish_reason)
    finally:
        pieces.close()


def _quoting(deltas: Iterable[PartDelta]) -> Generator[PartDelta, None, None]:
    call: list[PartDelta] = []
    for delta in deltas:
        if call and delta.part != call[0].part:
            yield _quoted(call)
            call = []
        if delta.kind == "tool_call":
            call.append(delta)
        else:
            yield delta
    if call:
        yield _quoted(call)


def _quoted(call: list[PartDelta]) -> PartDelta:
    [part] = parts_of(call)
    name = json.dumps(part.name, ensure_ascii=False)
    return PartDelta(
        part=call[0].part,
        kind="text",
        text=f'```json\n{{"name": {name}, "arguments": {part.text or "{}"}}}\n```',
        num_tokens=part.num_tokens,
        finish_reason=call[-1].finish_reason,
    )
