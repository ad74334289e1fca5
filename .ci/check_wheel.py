"""Builds the wheel and checks that it holds every file of the package, the extension included."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE_ONLY = "bobot/kernels/csrc/"


def main() -> None:
    """Exits with the names of the files that are missing or too many."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "bobot"], capture_output=True, text=True, check=True
    )
    expected = {name for name in listed.stdout.split("\n") if name}
    with tempfile.TemporaryDirectory() as folder:
        build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, ROOT]
        subprocess.run(build, check=True)
        (wheel,) = Path(folder).glob("bobot-*.whl")
        inside = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("bobot/")}
    expected -= {name for name in expected if name.startswith(SOURCE_ONLY)}
    missing, extra = sorted(expected - inside), sorted(inside - expected)
    if missing or len(extra) != 1 or "_native" not in extra[0]:
        sys.exit(f"wheel: missing {missing}, beside the package's own files {extra}")
    sys.stdout.write(f"wheel: {len(inside)} files, none missing\n")


if __name__ == "__main__":
    main()
