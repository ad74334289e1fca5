"""The tests of OpenAI's and Anthropic's Python clients, against a lenient server.

    python tests/accept/sdk_suites.py [URL]

Their source packages contain the tests; both obey TEST_API_BASE_URL. They were written for a mock
that takes everything, hence --lenient --any-model. What is left over is known: the first file also
tests stored chat completions, and test_models deletes models, which bobot refuses. Needs the
package registry.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from scores import Score, show
from serving import BUILD, clean_environment, python_with, serving

OPENAI, ANTHROPIC = "3.54.0", "2.12.0"
TOOLS = (
    "pytest", "pytest-asyncio", "pytest-xdist", "respx", "dirty-equals", "nest_asyncio",
    "time-machine", "inline-snapshot", "rich", "aiohttp", "httpx-aiohttp", "http-snapshot",
)  # fmt: skip


class Suite(NamedTuple):
    package: str
    version: str
    base: str
    """Of the address."""
    files: tuple[str, ...]
    least: tuple[int, ...]
    """Of each file, how many must pass."""


SUITES = (
    Suite(
        "openai",
        OPENAI,
        "/v1",
        ("chat/test_completions.py", "test_completions.py", "test_embeddings.py",
         "test_models.py"),
        (75, 40, 20, 40),
    ),
    Suite("anthropic", ANTHROPIC, "", ("test_messages.py", "test_models.py"), (65, 45)),
)  # fmt: skip


def source_of(python: Path, suite: Suite) -> Path:
    folder = BUILD / f"{suite.package}-{suite.version}"
    if not folder.exists():
        wanted = f"{suite.package}=={suite.version}"
        command = [python, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--no-binary", ":all:", "--dest", BUILD, wanted]
        subprocess.run(command, check=True, env=clean_environment())
        with tarfile.open(f"{folder}.tar.gz") as archive:
            archive.extractall(BUILD, filter="data")
    return folder


def run_file(python: Path, folder: Path, url: str, file: str) -> tuple[int, int]:
    """(passed, all) of one file."""
    command = [python, "-m", "pytest", "-n", "0", "-q", f"tests/api_resources/{file}"]
    environment = {**clean_environment(), "TEST_API_BASE_URL": url}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    last = done.stdout.strip().splitlines()[-1]
    counts = {
        kind: int(number) for number, kind in re.findall(r"(\d+) (passed|failed|error)", last)
    }
    (BUILD / f"{folder.name}-{file.replace('/', '-')}.log").write_text(done.stdout)
    return counts.get("passed", 0), sum(counts.values())


def scores(url: str | None = None) -> Iterator[Score]:
    packages = [f"{suite.package}=={suite.version}" for suite in SUITES]
    python = python_with("sdk", *packages, *TOOLS)
    if url is not None:
        yield from _scores(python, url)
        return
    with serving("--lenient", "--any-model") as server:
        yield from _scores(python, server.url)


def _scores(python: Path, url: str) -> Iterator[Score]:
    for suite in SUITES:
        folder = source_of(python, suite)
        for file, least in zip(suite.files, suite.least, strict=True):
            passed, number = run_file(python, folder, url + suite.base, file)
            yield Score(f"{suite.package} {suite.version}", file, passed, number, least)


def main() -> int:
    return show(scores(sys.argv[1] if len(sys.argv) > 1 else None))


if __name__ == "__main__":
    sys.exit(main())
