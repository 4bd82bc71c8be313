"""The web server of a service: uvicorn with bounds."""

import asyncio
import signal
import socket
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from official_maskrcnn.errors import UserError
from official_maskrcnn.inference.serving.guard import MAX_HEADER_BYTES

_HEADER_SECONDS = 10
_KEEP_ALIVE_SECONDS = 5


def bind(host: str, port: int) -> socket.socket:
    """A socket that holds an address, and does not yet listen.

    Args:
      host: name or address.
      port: 0 for any that is free.

    Raises:
      UserError: the address cannot be had.
    """
    try:
        family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        held = socket.socket(family, kind)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(place)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"--host {host} --port {port} cannot be used: {reason}") from error
    return held


class _Server(uvicorn.Server):
    """Says where it listens, once it does."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for held in sockets or ():
            host, port = held.getsockname()[:2]
            host = f"[{host}]" if ":" in host else host
            print(f"running on http://{host}:{port} until Ctrl+C or SIGTERM", flush=True)


class _Protocol(H11Protocol):
    """Closes connections whose headers do not arrive in time; uvicorn bounds their size alone."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._unwatch()
        elif self._timer is None and not self.transport.is_closing():
            self._timer = self.loop.call_later(_HEADER_SECONDS, self._end)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self) -> None:
        self._timer = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


def run_server(app: ASGIApp, held: socket.socket, max_connections: int, stop_seconds: int) -> None:
    """Serves until SIGINT or SIGTERM, and then until the requests in work are answered.

    Args:
      app: what answers.
      held: of `bind`.
      max_connections: those beyond are answered 503.
      stop_seconds: that requests in work get to end when the service is stopped.
    """
    config: dict[str, Any] = {
        "http": _Protocol,
        "ws": "none",
        "h11_max_incomplete_event_size": MAX_HEADER_BYTES,
        "timeout_keep_alive": _KEEP_ALIVE_SECONDS,
        "timeout_graceful_shutdown": stop_seconds,
        "limit_concurrency": max_connections,
        "server_header": False,
    }
    server = _Server(uvicorn.Config(app, **config))
    # Uvicorn raises the signal that stopped it once more when it has ended; that is no fault.
    before = {number: signal.signal(number, _pass) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run([held])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _pass(number: int, frame: object) -> None:
    pass
