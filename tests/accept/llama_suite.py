"""llama.cpp's own tests of its server, against `bobot serve`.

    python tests/accept/llama_suite.py [--weights stories260K.gguf] [--peer LLAMA_SERVER] [FILE ...]

The source package of llama-cpp-python contains them. They start llama-server once per test; here a
shim (llama_shim.py) takes its place: it turns llama-server's flags into bobot's, or with --peer
only names the model, so that both are asked the same. The model is one of the suite's form with
random weights, or the real one; it is read with a longer context than it was trained for, as
llama-server reads it. Files of the suite that need other models, or tools that a server runs on its
machine, are not run. What is left over is listed with its reason in llama_suite_known.py.
Needs the package registry.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tarfile
import time
import xml.etree.ElementTree as Xml
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from llama_suite_known import reason_for
from serving import BUILD, ROOT, clean_environment, python_with

from bobot.checkpoints.gguf_write import write_gguf
from bobot.text.gguf_metadata import read_header

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
LEAST = {"random": 160, "real": 174}
"""How many must pass, by the weights."""
CONTEXT = 8192
SIZE, FFN, LAYERS, HEADS, KV_HEADS = 64, 172, 5, 8, 4
LIMIT_S = 120


def source() -> Path:
    """The unpacked source package, downloaded once."""
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


def random_model(llama: Path, path: Path) -> None:
    """The form of stories260K with the vocabulary of Llama 2 and random weights."""
    vocabulary = read_header(llama / "models" / "ggml-vocab-llama-spm.gguf").metadata
    metadata = {key: value for key, value in vocabulary.items() if key.startswith("tokenizer.")}
    metadata |= {
        "general.architecture": "llama",
        "llama.context_length": CONTEXT,
        "llama.embedding_length": SIZE,
        "llama.block_count": LAYERS,
        "llama.feed_forward_length": FFN,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": SIZE // HEADS,
    }
    rng = torch.Generator().manual_seed(1)
    num_kv = SIZE * KV_HEADS // HEADS
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(metadata["tokenizer.ggml.tokens"]), SIZE)
    }
    for layer in range(LAYERS):
        for name, shape in (
            ("attn_q", (SIZE, SIZE)), ("attn_k", (num_kv, SIZE)), ("attn_v", (num_kv, SIZE)),
            ("attn_output", (SIZE, SIZE)), ("ffn_gate", (FFN, SIZE)), ("ffn_up", (FFN, SIZE)),
            ("ffn_down", (SIZE, FFN)), ("attn_norm", (SIZE,)), ("ffn_norm", (SIZE,)),
        ):  # fmt: skip
            shapes[f"blk.{layer}.{name}.weight"] = shape
    shapes["output_norm.weight"] = (SIZE,)
    tensors = {
        name: torch.ones(shape)
        if len(shape) == 1
        else torch.randn(shape, generator=rng) * (1.0 if "embd" in name else 0.125)
        for name, shape in shapes.items()
    }
    write_gguf(path, metadata, tensors)


def longer(weights: Path, path: Path) -> None:
    """A copy whose metadata name a longer context."""
    data = bytearray(weights.read_bytes())
    key = b"llama.context_length" + struct.pack("<I", 4)
    place = data.index(key) + len(key)
    data[place : place + 4] = struct.pack("<I", CONTEXT)
    path.write_bytes(data)


@contextlib.contextmanager
def nursery(work: Path) -> Iterator[Path]:
    """The process from which the shim's servers are forked: they need not import all again."""
    address = work / "nursery.sock"
    address.unlink(missing_ok=True)
    home = work / "home"
    names = ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "HOME")
    environment = {**os.environ, **{name: str(home / name) for name in names}}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
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


def run_file(python: Path, tests: Path, name: str, environment: dict[str, str]) -> Counter[str]:
    """The verdict of each test of one file: passed, failed, error or skipped."""
    work = tests.parents[2]
    report = work / f"{name}.xml"
    report.unlink(missing_ok=True)
    command = [python, "-m", "pytest", "-q", "-m", "not slow", f"--timeout={LIMIT_S}"]
    command += [f"--junitxml={report}", f"unit/test_{name}.py"]
    with (work / f"{name}.log").open("w") as log:
        subprocess.run(command, cwd=tests, env=environment, stdout=log, stderr=log)
    verdicts = Counter()
    for case in Xml.parse(report).iter("testcase"):
        kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
        verdicts[f"{name}::{case.get('name')}"] = next(iter(kinds), "passed")  # type: ignore[assignment]
    return verdicts


def show(name: str, verdicts: dict[str, str]) -> None:
    counts = Counter(verdicts.values())
    print(f"{name:22} {counts['passed']:4} of {len(verdicts):4} pass", flush=True)
    for test, verdict in verdicts.items():
        if verdict in ("failure", "error"):
            print(f"    {test.split('::', 1)[1]}: {reason_for(test) or 'UNEXPECTED'}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("files", nargs="*", metavar="FILE", help=", ".join(FILES))
    parser.add_argument("--weights", type=Path, help="stories260K as GGUF")
    parser.add_argument("--peer", type=Path, help="a llama-server to be asked instead of bobot")
    parser.add_argument("--source", type=Path, help="llama.cpp's sources, if they are here already")
    args = parser.parse_args()
    python = python_with("llama-suite-python", *PACKAGES)
    llama = args.source or source()
    weights = "real" if args.weights else "random"
    who = args.peer.name if args.peer else "bobot"
    work = BUILD / f"{who}-suite-{weights}"
    work.mkdir(parents=True, exist_ok=True)
    tests, model = suite(llama, work), work / "tinyllama-2.gguf"
    longer(args.weights, model) if args.weights else random_model(llama, model)
    verdicts: dict[str, str] = {}
    shim = Path(__file__).with_name("llama_shim.py")
    environment = {**clean_environment(), "LLAMA_SERVER_BIN_PATH": str(shim)}
    environment |= {"SUITE_MODEL": str(model), "SUITE_PEER": str(args.peer or "")}
    environment["PORT"] = str(free_port())
    with nursery(work) if not args.peer else contextlib.nullcontext("") as address:
        environment["SUITE_NURSERY"] = str(address)
        for name in args.files or FILES:
            found = run_file(python, tests, name, environment)
            show(name, found)  # type: ignore[arg-type]
            verdicts |= found  # type: ignore[arg-type]
    counts = Counter(verdicts.values())
    known = sum(bool(reason_for(t)) for t, v in verdicts.items() if v in ("failure", "error"))
    print(f"{who}, {weights} weights: {counts['passed']} of {len(verdicts)} pass, {known} known")
    (work / "verdicts.json").write_text(json.dumps(verdicts, indent=1))
    is_whole = not args.files and not args.peer
    return int(is_whole and counts["passed"] < LEAST[weights])


if __name__ == "__main__":
    sys.exit(main())
