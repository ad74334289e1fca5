"""Life without a network, for tests: a namespace of this process's own in which there is nothing
but loopback, or, where the system forbids that, a bar in Python.

    python no_network.py LOG -m bobot ...

runs a Python program behind the bar: it may not even try. What leads elsewhere than to loopback is
written to LOG and refused. The bar sees what goes through Python's socket module in that one
process; the namespace also stops libraries in C, and what the process starts.
"""

from __future__ import annotations

import ctypes
import fcntl
import runpy
import socket
import struct
import sys
from pathlib import Path
from typing import Any

NEW_USER, NEW_NET = 0x10000000, 0x40000000
SIOCGIFFLAGS, SIOCSIFFLAGS, UP = 0x8913, 0x8914, 1
LOOPBACK = ("127.0.0.1", "::1", "localhost", "", None)


def enter_namespace() -> bool:
    """From now on this process, and what it starts, has loopback and nothing else. False where the
    system does not allow it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(NEW_NET) != 0 and libc.unshare(NEW_USER | NEW_NET) != 0:
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(sock, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | UP))
    return True


def bar(log: Path) -> None:
    """From now on a look-up or a connection that leads elsewhere is written down and refused."""

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("socket.getaddrinfo", "socket.gethostbyname"):
            where = arguments[0]
        elif event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
            where = arguments[1][0] if isinstance(arguments[1], tuple) else None
        else:
            return
        if where not in LOOPBACK and where not in (b"localhost", b"127.0.0.1"):
            with log.open("a", encoding="utf-8") as file:
                file.write(f"{event} {where}\n")
            raise OSError(f"no network: {where}")

    sys.addaudithook(look)


def main() -> None:
    log, *words = sys.argv[1:]
    bar(Path(log))
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    main()
