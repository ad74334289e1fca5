"""gpt-oss's compatibility test: OpenAI's Agents SDK for node over chat/completions and responses,
30 cases each. An answer passes where it has reasoning in its place and a call of the right tool
with arguments of its schema.

    python tests/accept/gpt_oss_suite.py FOLDER [-k TRIES]

FOLDER is compatibility-test of github.com/openai/gpt-oss, as at commit 7b583341fe16; it is not part
of this project. What it asks of weights (to reason, and to choose the tool) is done by
thinking_server.py: a pass tells of the server's shapes and of its forced calls, not of a model.
Needs node 20 and the registry of npm.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from scores import Score, show
from serving import BUILD, environment_with_bobot

PROVIDERS = """export const PROVIDERS = {{ bobot: {{
  apiBaseUrl: "{url}/v1", apiKey: "none", apiType: ["responses", "chat"], modelName: "thinker",
  providerDetails: {{}},
}} }};
"""


def installed(source: Path) -> Path:
    """A copy of the suite with its packages."""
    folder = BUILD / "gpt-oss"
    if not (folder / "node_modules" / "tsx").exists():
        shutil.copytree(source, folder, dirs_exist_ok=True)
        for words in (["ci"], ["install", "tsx@4.20.6"]):
            command = ["npm", *words, "--silent", "--no-audit", "--no-fund"]
            subprocess.run(command, check=True, cwd=folder)
    return folder


@contextlib.contextmanager
def thinking() -> Iterator[str]:
    """The address of the server."""
    home = BUILD / "thinker"
    home.mkdir(parents=True, exist_ok=True)
    environment = environment_with_bobot(home)
    command = [sys.executable, Path(__file__).with_name("thinking_server.py"), home]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("ready "), line
        try:
            yield line.split()[1]
        finally:
            process.terminate()


def scores(source: Path, tries: int = 1) -> Iterator[Score]:
    folder = installed(source)
    for old in folder.glob("analysis_*.json"):
        old.unlink()
    with thinking() as url:
        (folder / "providers.ts").write_text(PROVIDERS.format(url=url))
        command = ["npx", "tsx", "index.ts", "--provider", "bobot", "-k", str(tries)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    (BUILD / "gpt-oss.log").write_text(done.stdout + done.stderr)
    (analysis,) = folder.glob("analysis_*.json")
    found = json.loads(analysis.read_text())
    num_cases = 2 * len((folder / "cases.jsonl").read_text().split("\n{"))
    passed = round(found["passHatK"] * found["totalTasks"])
    yield Score("gpt-oss", f"tool calls, pass^{tries}", passed, num_cases)
    for api, number in sorted(found["totalByApiType"].items()):
        good = number - found["invalidByApiType"].get(api, 0)
        yield Score("gpt-oss", f"shape of {api}", good, number)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, help="compatibility-test of openai/gpt-oss")
    parser.add_argument("-k", dest="tries", type=int, default=1, help="tries of each case")
    args = parser.parse_args()
    return show(scores(args.folder, args.tries))


if __name__ == "__main__":
    sys.exit(main())
