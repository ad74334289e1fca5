"""Tables and quantities as text: columns as wide as their cells, numbers a person can read."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]]) -> str:
    """`rows` in aligned columns, two blanks apart; the first row is the head."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """One "name   value" line for each pair; long values wrap under themselves."""
    indent = max(len(name) for name, _ in pairs) + 2
    room = max(20, shutil.get_terminal_size().columns - indent - 1)
    lines = []
    for name, value in pairs:
        wrapped = textwrap.wrap(value, room, break_long_words=False, break_on_hyphens=False) or [""]
        lines += [name.ljust(indent) + wrapped[0], *(" " * indent + line for line in wrapped[1:])]
    return "\n".join(line.rstrip() for line in lines)


def count_text(number: int) -> str:
    """15.2M for 15 191 712: three figures and a letter."""
    for letter, unit in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if number >= unit:
            return f"{_three_figures(number / unit)}{letter}"
    return str(number)


def bytes_text(number: int) -> str:
    """7.9 GiB: three figures and a binary unit."""
    for name, unit in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if number >= unit:
            return f"{_three_figures(number / unit)} {name}"
    return f"{number} B"


def _three_figures(value: float) -> str:
    text = f"{value:.0f}" if value >= 100 else f"{value:.3g}"
    return text
