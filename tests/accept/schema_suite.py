"""schemathesis with OpenAI's own description of its API: no answer may be 5xx, and each must be as
the description says.

    python tests/accept/schema_suite.py --spec openapi.yaml [--url URL] [--fuzz NUMBER [--seed N]]

The description is not part of this project: openapi.yaml of github.com/openai/openai-openapi, tried
as at commit f85dbe223d40, whose sha256 begins with db5d7478feae10b4. openai_spec.py says what of it
is asked for. Needs the registry of Python.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from openai_spec import cut
from scores import Score, show
from serving import BUILD, clean_environment, python_with, serving

PACKAGES = ("schemathesis==4.32.5",)
TO_JSON = "import json, sys, yaml; json.dump(yaml.load(open(sys.argv[1]), yaml.CSafeLoader), "
TO_JSON += "open(sys.argv[2], 'w'), default=str)"
CHECKS = "not_a_server_error,response_schema_conformance"
SERVER = ("--any-model", "--context", "128")


def stored_response(url: str) -> str:
    body = {"model": "bobot", "input": "Say hello.", "max_output_tokens": 5}
    request = urllib.request.Request(
        f"{url}/v1/responses", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["id"]


def run_schemathesis(python: Path, spec: Path, url: str, fuzz: int, seed: int, log: Path) -> str:
    """The whole output of a run; it is written to `log` as it comes."""
    ids = (stored_response(url), stored_response(url))
    whole = BUILD / "openai-whole.json"
    subprocess.run([python, "-c", TO_JSON, spec, whole], check=True, env=clean_environment())
    small = BUILD / "openai-cut.json"
    small.write_text(json.dumps(cut(json.loads(whole.read_text()), ids)))
    phases = "fuzzing" if fuzz else "examples,coverage"
    command = [python.with_name("st"), "run", small, "--url", f"{url}/v1", "--phases", phases]
    command += ["--checks", CHECKS, "--continue-on-failure", "--seed", str(seed), "--no-color"]
    command += ["--request-timeout", "120", "--warnings", "off", "--workers", "2"]
    if fuzz:
        command += ["--max-examples", str(fuzz), "--no-shrink", "--suppress-health-check", "all"]
    with log.open("w") as file:
        subprocess.run(
            command, cwd=BUILD, env=clean_environment(), stdout=file, stderr=subprocess.STDOUT
        )
    return log.read_text()


def counts_of(output: str) -> tuple[int, int]:
    """(test cases, those of them that failed) in a run's summary."""
    found = re.search(r"(\d+) generated(?:, (\d+) found)?", output)
    assert found, output[-3000:]
    return int(found[1]), int(found[2] or 0)


def scores(spec: Path, url: str | None = None, fuzz: int = 0, seed: int = 1) -> Iterator[Score]:
    python = python_with("schemathesis", *PACKAGES)
    log = BUILD / f"schemathesis{'-fuzzing' if fuzz else ''}.log"
    if url is not None:
        output = run_schemathesis(python, spec, url, fuzz, seed, log)
    else:
        with serving(*SERVER, name="schema") as server:
            output = run_schemathesis(python, spec, server.url, fuzz, seed, log)
    number, bad = counts_of(output)
    part = f"fuzzing, seed {seed}" if fuzz else "examples, coverage"
    yield Score("schemathesis", part, number - bad, number, note=f"log: {log}" if bad else "")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--spec", type=Path, required=True, help="openapi.yaml")
    parser.add_argument("--url", help="of a server that runs (default: one is started)")
    parser.add_argument("--fuzz", type=int, default=0, help="bodies of each operation, instead")
    parser.add_argument("--seed", type=int, default=1, help="of what is made up")
    args = parser.parse_args()
    return show(scores(args.spec, args.url, args.fuzz, args.seed))


if __name__ == "__main__":
    sys.exit(main())
