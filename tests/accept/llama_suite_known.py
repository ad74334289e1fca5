"""Tests of llama.cpp's suite that bobot does not pass, and why."""

from __future__ import annotations

from fnmatch import fnmatchcase

KNOWN: dict[str, str] = {}
"""Pattern of FILE::TEST -> reason."""


def reason_for(test: str) -> str:
    """Empty where the failure is a surprise."""
    found = (why for pattern, why in KNOWN.items() if fnmatchcase(test, pattern))
    return next(found, "")
