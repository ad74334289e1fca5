"""Listening: sockets, uvicorn, and an end that lets open answers finish."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from bobot.errors import BobotError, UsageError
from bobot.server.models import Models
from bobot.server.settings import Settings

KEEP_ALIVE_S = 75
BACKLOG = 1024


def listening(host: str, port: int) -> socket.socket:
    """A socket that accepts connections. UsageError when the address can't be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host.strip("[]"), port))
        sock.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        sock.close()
        raise UsageError(
            "can't listen on {host} port {port}: {reason}.",
            hint="Is another server running there? --port takes another number.",
            host=host,
            port=port,
            reason=getattr(error, "strerror", None) or error,
        ) from error
    sock.setblocking(False)
    return sock


class _Server(uvicorn.Server):
    """The first SIGTERM or Ctrl-C drains, the second one ends at once."""

    def __init__(self, config: uvicorn.Config, app: Starlette, drain_s: float) -> None:
        super().__init__(config)
        self.stopped_by: int | None = None
        self.failure: BobotError | None = None
        self._app = app
        self._drain_s = drain_s
        self._loop = asyncio.get_running_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.stopped_by is not None:
            self.force_exit = True
        self.stopped_by = sig
        self._loop.call_soon_threadsafe(self.begin_end)

    def begin_end(self) -> None:
        if not self._app.state.inflight.is_draining:
            self._ending = self._loop.create_task(self._drain())

    async def _drain(self) -> None:
        await self._app.state.inflight.drain(self._drain_s)
        self.should_exit = True


def run(
    app: Starlette,
    models: Models,
    sockets: list[socket.socket],
    settings: Settings,
    on_ready: Callable[[], None],
) -> int:
    """Serves until a signal comes; the signal's number. The default model is loaded at once, and
    on_ready called then. Raises the BobotError that keeps it from loading.
    """
    return asyncio.run(_run(app, models, sockets, settings, on_ready))


async def _run(
    app: Starlette,
    models: Models,
    sockets: list[socket.socket],
    settings: Settings,
    on_ready: Callable[[], None],
) -> int:
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        ws="none",
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=settings.max_head_bytes,
    )
    server = _Server(config, app, settings.drain_s)

    async def preload() -> None:
        try:
            async with models.borrow(None):
                on_ready()
        except BobotError as error:
            server.failure = error
            server.begin_end()

    loading = asyncio.ensure_future(preload())
    try:
        await server.serve(sockets=sockets)
    finally:
        loading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await loading
    if server.failure is not None:
        raise server.failure
    return server.stopped_by or signal.SIGTERM
