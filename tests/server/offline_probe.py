"""Run by offline_talk.py: tries to reach out, to show that nothing gets through. Not a test."""

from __future__ import annotations

import socket
import sys

with socket.create_server(("127.0.0.1", 0)) as near:
    socket.create_connection(near.getsockname(), timeout=5).close()
    sys.stdout.write("near\n")
try:
    socket.getaddrinfo("example.org", 80)
    sys.stdout.write("resolved\n")
except OSError:
    sys.stdout.write("unresolved\n")
