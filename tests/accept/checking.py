"""A list of checks that is run to its end: one line for each, "pass NAME" or "FAIL NAME" with the
end of its traceback. Imports nothing but the standard library: it runs beside any client.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

URL = sys.argv[1]
"""Of the server, without a path."""
MODEL = sys.argv[2] if len(sys.argv) > 2 else "bobot"

checks: list[Callable[[], None]] = []


def check(function: Callable[[], None]) -> Callable[[], None]:
    checks.append(function)
    return function


def run_checks() -> int:
    """The exit status."""
    failed = 0
    for one in checks:
        try:
            one()
        except Exception:  # noqa: BLE001  the others are run too
            failed += 1
            print(f"FAIL {one.__name__}\n{traceback.format_exc(limit=-3)}", flush=True)
        else:
            print(f"pass {one.__name__}", flush=True)
    return 1 if failed else 0
