"""Forks a `bobot serve` for each shim that asks, from a process that has imported all it needs.

    python tests/accept/llama_nursery.py SOCKET

A shim sends its standard output and the words of the command; it gets the number of the process
and, when that has ended, its status.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import traceback

from bobot import cli
from bobot.chat import engine_loop, service  # noqa: F401  imported for those that are forked
from bobot.cli import serve  # noqa: F401
from bobot.server import app, library, listen  # noqa: F401
from bobot.text import answer_parser, chat_template, constraints  # noqa: F401


def born(words: list[str], output: int, sockets: list[socket.socket]) -> int:
    """The number of a new process that runs `bobot WORDS`."""
    number = os.fork()
    if number:
        return number
    status = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for one in sockets:
            one.close()
        os.dup2(output, 1)
        os.dup2(output, 2)
        status = cli.main(words)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001  told, then this process ends
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def main() -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(sys.argv[1])
    listener.listen()
    lines: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([listener], [], [], 0.02)
        if ready:
            line, _ = listener.accept()
            data, outputs, _, _ = socket.recv_fds(line, 1 << 16, 1)
            if not data:
                line.close()
                continue
            number = born(json.loads(data), outputs[0], [listener, line, *lines.values()])
            os.close(outputs[0])
            lines[number] = line
            line.sendall(f"{number}\n".encode())
        while lines:
            number, status = os.waitpid(-1, os.WNOHANG)
            if not number:
                break
            with contextlib.suppress(OSError), lines.pop(number) as line:
                line.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


if __name__ == "__main__":
    main()
