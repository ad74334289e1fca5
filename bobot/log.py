"""Logging as the command line sets it up; the library itself never configures logging.

Modules write `log = logging.getLogger("bobot.<unit>")`. No prompt, completion or key is logged.
"""

from __future__ import annotations

import logging
import sys


def show_warnings(debug: bool) -> None:
    """Sends the "bobot" loggers to stderr: warnings and errors, with `debug` everything."""
    logger = logging.getLogger("bobot")
    logger.setLevel(logging.DEBUG if debug else logging.WARNING)
    if not logger.handlers:
        logger.addHandler(_StderrHandler())
    logger.propagate = True
    logger.handlers[0].setFormatter(
        logging.Formatter("%(name)s: %(message)s" if debug else "bobot: %(message)s")
    )


class _StderrHandler(logging.StreamHandler):
    """Looks sys.stderr up at each record, so that a redirected stderr is honoured."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self):  # type: ignore[override]
        return sys.stderr
