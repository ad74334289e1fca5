"""`python -m bobot` and the `bobot` program: the outermost frame, where Ctrl-C can no longer print
a traceback.
"""

from __future__ import annotations

import sys


def main() -> int:
    """The exit status of the command line in sys.argv."""
    try:
        from bobot.cli import main as run_command_line

        return run_command_line(sys.argv[1:])
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
