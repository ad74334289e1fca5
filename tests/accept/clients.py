"""The Python clients of OpenAI, Anthropic and Ollama against a strict server: what users write.

    python tests/accept/clients.py

The checks are in client_checks.py, which runs in an environment that has the clients. Needs the
package registry.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from serving import clean_environment, python_with, serving

CLIENTS = ("openai==3.54.0", "anthropic==2.12.0", "ollama==0.6.3", "pydantic")


def main() -> int:
    python = python_with("clients", *CLIENTS)
    checks = Path(__file__).with_name("client_checks.py")
    with serving() as server:
        command = [python, checks, server.url]
        return subprocess.run(command, env=clean_environment()).returncode


if __name__ == "__main__":
    sys.exit(main())
