"""Clients that other people use, each in an environment of its own, against a strict server.

    python tests/accept/clients.py [--url URL] [NAME ...]

Of each client a file of checks is run, made for this: streamed and whole answers agree, tools are
called with arguments of their schema, structures are kept, errors have their class. Needs the
package registries of Python and node (20 or newer).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from scores import Score, of_checks, show
from serving import BUILD, clean_environment, node_with, python_with, serving

HERE = Path(__file__).parent
PATIENCE_S = 900


class Client(NamedTuple):
    checks: str
    """The file."""
    packages: tuple[str, ...]


CLIENTS = {
    "python": Client(
        "client_checks.py", ("openai==3.54.0", "anthropic==2.12.0", "ollama==0.6.3", "pydantic")
    ),
    "node": Client(
        "node_checks.mjs",
        ("openai@6.49.0", "@anthropic-ai/sdk@1.12.0", "ollama@0.6.4", "ai@6.0.326",
         "@ai-sdk/openai-compatible@2.0.87", "zod@4.6.7"),
    ),
    "langchain": Client(
        "langchain_checks.py",
        ("langchain-openai==1.7.3", "langchain-ollama==1.1.0", "langchain-anthropic==1.7.7"),
    ),
    "llamaindex": Client("llamaindex_checks.py", ("llama-index-llms-openai-like==0.8.1",)),
    "litellm": Client("litellm_checks.py", ("litellm==1.106.2", "mcp")),
    "llm": Client("llm_checks.py", ("llm==0.36",)),
    "agents": Client("agents_checks.py", ("openai-agents==0.24.0",)),
}  # fmt: skip


def command_of(name: str) -> list[str | Path]:
    """What runs the checks of a client, which is installed first."""
    client = CLIENTS[name]
    if client.checks.endswith(".py"):
        environment = "clients" if name == "python" else f"client-{name}"
        return [python_with(environment, *client.packages), HERE / client.checks]
    # node looks for packages beside the file.
    folder = node_with(name, *client.packages)
    return ["node", shutil.copy(HERE / client.checks, folder)]


def run_client(name: str, url: str, model: str) -> Score:
    command = [*command_of(name), url, model]
    done = subprocess.run(
        command, env=clean_environment(), capture_output=True, text=True, timeout=PATIENCE_S
    )
    (BUILD / f"client-{name}.log").write_text(done.stdout + done.stderr)
    return of_checks("clients", name, done)


def scores(
    url: str | None = None, names: list[str] | None = None, model: str = "bobot"
) -> Iterator[Score]:
    for name in names or CLIENTS:
        command_of(name)
    if url is not None:
        yield from (run_client(name, url, model) for name in names or CLIENTS)
        return
    with serving() as server:
        for name in names or CLIENTS:
            yield run_client(name, server.url, model)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(CLIENTS))
    parser.add_argument("--url", help="of a server that runs (default: one is started)")
    parser.add_argument("--model", default="bobot", help="the name that is asked for")
    args = parser.parse_args()
    return show(scores(args.url, args.names, args.model))


if __name__ == "__main__":
    sys.exit(main())
