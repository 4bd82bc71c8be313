"""The web server of a service: uvicorn with bounds."""

import asyncio
import functools
import gc
import os
import signal
import socket
import sys
import threading
import time
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from official_maskrcnn.errors import UserError
from official_maskrcnn.inference.serving.faults import RequestFault
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
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        family, kind, protocol, _, place = found
        # By its protocol asyncio knows TCP, and lets the parts of an answer go at once. Else the
        # second waits until the client has confirmed the first, which takes it up to 40 ms.
        held = socket.socket(family, kind, protocol)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(place)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"--host {host} --port {port} cannot be used: {reason}") from error
    return held


class _Server(uvicorn.Server):
    """Says where it listens, once it does.

    Attributes:
      end: of the time that is left to stop in, in seconds of the monotonic clock.
    """

    end = 0.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for held in sockets or ():
            host, port = held.getsockname()[:2]
            host = f"[{host}]" if ":" in host else host
            print(f"running on http://{host}:{port} until Ctrl+C or SIGTERM", flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.end = time.monotonic() + (self.config.timeout_graceful_shutdown or 0)
        await super().shutdown(sockets)


class _Protocol(H11Protocol):
    """Ends connections whose headers do not arrive in time, or whose answers are not taken.

    Uvicorn bounds the size of headers alone.
    """

    _timer: asyncio.TimerHandle | None = None
    _untaken: asyncio.TimerHandle | None = None

    def __init__(self, *args: Any, time_limit: float, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._time_limit = time_limit

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # `pause_writing` comes with the first byte
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        self._taken()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._untaken = self.loop.call_later(self._time_limit, self.transport.abort)

    def resume_writing(self) -> None:
        self._taken()
        super().resume_writing()

    def _taken(self) -> None:
        if self._untaken is not None:
            self._untaken.cancel()
            self._untaken = None

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


def run_server(
    app: ASGIApp, held: socket.socket, max_connections: int, stop_seconds: int, time_limit: float
) -> None:
    """Serves until SIGINT or SIGTERM, and then until the requests in work are answered.

    What other threads do then, such as a model that has hung, may end too; if it does not in time,
    the process ends at once, with the exit code 1.

    Args:
      app: what answers.
      held: of `bind`.
      max_connections: those beyond are answered 503.
      stop_seconds: that all has to end in when the service is stopped.
      time_limit: seconds for a client to take its answer.
    """

    async def limited(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and len(server.server_state.connections) > max_connections:
            text = "there are too many connections: come again in a moment"
            answer = RequestFault(503, text, {"Connection": "close"}).response()
            await answer(scope, receive, send)
        else:
            await app(scope, receive, send)

    config: dict[str, Any] = {
        "http": functools.partial(_Protocol, time_limit=time_limit),
        "ws": "none",
        "h11_max_incomplete_event_size": MAX_HEADER_BYTES,
        "timeout_keep_alive": _KEEP_ALIVE_SECONDS,
        "timeout_graceful_shutdown": stop_seconds,
        "server_header": False,
    }
    server = _Server(uvicorn.Config(limited, **config))
    # What is loaded by now stays. To look through it for garbage, while a body of JSON becomes a
    # million lists, takes twenty times as long as the lists.
    gc.collect()
    gc.freeze()
    # Uvicorn raises the signal that stopped it once more when it has ended; that is no fault.
    before = {number: signal.signal(number, _pass) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run([held])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    _join_threads(time.monotonic() if server.force_exit else server.end)


def _join_threads(end: float) -> None:
    """Waits for all other threads; if one has not ended at `end`, the process ends without it."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(max(0.0, end - time.monotonic()))
            if thread.is_alive():
                print(f"thread {thread.name} does not end: ending without it", file=sys.stderr)
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(1)  # the interpreter would wait for it


def _pass(number: int, frame: object) -> None:
    pass
