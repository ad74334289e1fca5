"""llama.cpp's own tests of its server, against `bobot serve`.

    python tests/accept/llama_suite.py [--weights stories260K.gguf [--random]]
        [--peer LLAMA_SERVER] [FILE ...]

The source package of llama-cpp-python contains them. They start llama-server once per test; here a
shim (llama_shim.py) takes its place: it turns llama-server's flags into bobot's, or with --peer
only names the model, so that both are asked the same. The model is the real one, read with a longer
context than it was trained for, as llama-server reads it; or one of its form with random weights
and either its vocabulary, on which some tests count, or Llama 2's, for which no file is needed.
Files of the suite that need other models, or tools that a server runs on its
machine, are not run. What is left over is listed with its reason in llama_suite_known.py.
Needs the package registry.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import socket
import subprocess
import sys
import tarfile
import time
import xml.etree.ElementTree as Xml
from collections.abc import Iterator
from pathlib import Path

from llama_suite_known import reason_for
from llama_suite_model import longer, random_model
from scores import Score, show
from serving import BUILD, clean_environment, environment_with_bobot, python_with

PACKAGE = "llama_cpp_python"
VERSION = "0.3.36"
DIGEST = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
PACKAGES = (
    "aiohttp~=3.9", "pytest~=8.3.3", "pytest-timeout", "filelock~=3.16", "openai~=2.14.0",
    "requests~=2.32.3", "wget~=3.2", "prometheus-client~=0.20.0",
)  # fmt: skip
FILES = (
    "basic", "chat_completion", "compat_anthropic", "compat_gcp", "compat_oai_responses",
    "completion", "ctx_shift", "ignore_eos", "kv_keep_only_active", "metrics", "proxy", "security",
    "sleep", "speculative", "template", "tokenize", "tool_call",
)  # fmt: skip
CHANGES = (
    ("conftest.py", "ServerPreset.load_all()", "pass"),
    ("utils.py", "dict(response.headers)", "response.headers"),
)
"""File, what stands there, what is put in its place: nothing is downloaded, and names of headers
have no case."""
WEIGHTS = {"real": "real weights", "random": "random weights", "llama2": "another vocabulary"}
LEAST = {"real": 182, "random": 178, "llama2": 168}
"""How many of all must pass."""
LIMIT_S = 120


def source() -> Path:
    """llama.cpp's sources in the unpacked package, downloaded once."""
    folder = BUILD / f"{PACKAGE}-{VERSION}"
    if not folder.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        wanted = BUILD / "llama-suite.txt"
        wanted.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{DIGEST}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--no-binary", ":all:", "--require-hashes", "--dest", BUILD, "-r", wanted]
        subprocess.run(command, check=True, env=clean_environment())
        with tarfile.open(f"{folder}.tar.gz") as archive:
            archive.extractall(BUILD, filter="data")
    return folder / "vendor" / "llama.cpp"


def suite(llama: Path, work: Path) -> Path:
    """A copy of the tests beside the chat templates that they read, with CHANGES."""
    tests = work / "tools" / "server" / "tests"
    shutil.rmtree(tests, ignore_errors=True)
    shutil.copytree(llama / "tools" / "server" / "tests", tests)
    models = work / "models"
    if not models.exists():
        models.symlink_to(llama / "models")
    for file, there, instead in CHANGES:
        text = (tests / file).read_text()
        assert there in text, f"{file} has no {there}"
        (tests / file).write_text(text.replace(there, instead))
    return tests


@contextlib.contextmanager
def nursery(work: Path) -> Iterator[Path]:
    """The process from which the shim's servers are forked: they need not import all again."""
    address = work / "nursery.sock"
    address.unlink(missing_ok=True)
    environment = environment_with_bobot(work / "home")
    script = Path(__file__).with_name("llama_nursery.py")
    process = subprocess.Popen([sys.executable, script, address], env=environment)
    try:
        for _ in range(1200):
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as line:
                line.connect(str(address))
                break
            assert process.poll() is None, "the nursery ended"
            time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def free_port() -> int:
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        return line.getsockname()[1]


def run_file(python: Path, tests: Path, name: str, environment: dict[str, str]) -> dict[str, str]:
    """FILE::TEST -> passed, failure, error or skipped."""
    work = tests.parents[2]
    report = work / f"{name}.xml"
    report.unlink(missing_ok=True)
    command = [python, "-m", "pytest", "-q", "-m", "not slow", f"--timeout={LIMIT_S}"]
    command += [f"--junitxml={report}", f"unit/test_{name}.py"]
    with (work / f"{name}.log").open("w") as log:
        subprocess.run(command, cwd=tests, env=environment, stdout=log, stderr=log)
    verdicts: dict[str, str] = {}
    for case in Xml.parse(report).iter("testcase"):
        kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
        verdicts[f"{name}::{case.get('name')}"] = next(iter(kinds), "passed")
    return verdicts


def verdicts_of(
    work: Path, weights: Path | None, is_random: bool, peer: Path | None, files: tuple[str, ...]
) -> Iterator[tuple[str, dict[str, str]]]:
    """The verdicts of each file; all come into verdicts.json, too."""
    python, llama = python_with("llama-suite-python", *PACKAGES), source()
    work.mkdir(parents=True, exist_ok=True)
    tests, model = suite(llama, work), work / "tinyllama-2.gguf"
    if weights and not is_random:
        longer(weights, model)
    else:
        random_model(weights or llama / "models" / "ggml-vocab-llama-spm.gguf", model)
    shim = Path(__file__).with_name("llama_shim.py")
    environment = {**clean_environment(), "LLAMA_SERVER_BIN_PATH": str(shim)}
    environment |= {"SUITE_MODEL": str(model), "SUITE_PEER": str(peer or "")}
    environment["PORT"] = str(free_port())
    verdicts: dict[str, str] = {}
    with nursery(work) if not peer else contextlib.nullcontext("") as address:
        environment["SUITE_NURSERY"] = str(address)
        for name in files:
            found = run_file(python, tests, name, environment)
            verdicts |= found
            (work / "verdicts.json").write_text(json.dumps(verdicts, indent=1))
            yield name, found


def scores(
    weights: Path | None = None,
    *,
    is_random: bool = False,
    peer: Path | None = None,
    files: tuple[str, ...] = FILES,
) -> Iterator[Score]:
    """One of each file, in which only the known tests may fail, and one of all."""
    kind = ("random" if is_random else "real") if weights else "llama2"
    who = peer.name if peer else "bobot"
    title = f"llama.cpp's, {WEIGHTS[kind]}" + (f", {who}" if peer else "")
    work = BUILD / f"{who}-suite-{kind}"
    passed = total = 0
    for name, verdicts in verdicts_of(work, weights, is_random, peer, files):
        bad = [test for test, verdict in verdicts.items() if verdict in ("failure", "error")]
        good = sum(verdict == "passed" for verdict in verdicts.values())
        surprises = [test.split("::", 1)[1] for test in bad if not reason_for(test)]
        least = 0 if peer else good + len(surprises)
        yield Score(title, name, good, len(verdicts), least, "" if peer else ", ".join(surprises))
        passed, total = passed + good, total + len(verdicts)
    yield Score(title, "all", passed, total, LEAST[kind] if files == FILES else 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("files", nargs="*", metavar="FILE", help=", ".join(FILES))
    parser.add_argument("--weights", type=Path, help="stories260K as GGUF")
    parser.add_argument("--random", action="store_true", help="only its vocabulary is taken")
    parser.add_argument("--peer", type=Path, help="a llama-server to be asked instead of bobot")
    args = parser.parse_args()
    files = tuple(args.files) or FILES
    found = scores(args.weights, is_random=args.random, peer=args.peer, files=files)
    return show(found)


if __name__ == "__main__":
    sys.exit(main())
