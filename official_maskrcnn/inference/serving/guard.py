"""What stands before every route: the token, the room, the size and the time of a request."""

import asyncio
import contextlib
import hmac
import time
from collections.abc import Callable, Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from official_maskrcnn.inference.serving.faults import RequestFault
from official_maskrcnn.inference.serving.metrics import Metrics
from official_maskrcnn.inference.serving.options import ServiceOptions

_PUBLIC = ("/", "/page.css", "/page.js", "/healthz")  # what needs no token
_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
)
MAX_HEADER_BYTES = 32 * 1024
_MAX_DIGITS = 18  # of a Content-Length


class Guard:
    """ASGI middleware; hands on requests whose body is there, and cancels what nobody awaits."""

    def __init__(
        self,
        app: ASGIApp,
        options: ServiceOptions,
        metrics: Metrics,
        routes: Iterable[str],
        admit: Callable[[], contextlib.AbstractContextManager[None]],
    ):
        """Wraps an application.

        Args:
          app: what answers.
          options: of the service.
          metrics: counters.
          routes: paths that are counted by their name.
          admit: holds room for a POST, from before its body is read until it is answered.
        """
        self._app, self._options, self._metrics = app, options, metrics
        self._routes, self._admit = frozenset(routes), admit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.monotonic()
        status = 0

        async def reply(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", []), *_HEADERS]}
            await send(message)

        try:
            await self._serve(scope, receive, reply)
        except RequestFault as fault:
            await fault.response()(scope, receive, reply)
        except asyncio.CancelledError:  # the server stops, and has waited long enough
            if not status:
                await RequestFault(503, "the service is stopping").response()(scope, receive, reply)
        finally:
            route = scope["path"] if scope["path"] in self._routes else "other"
            self._metrics.requests.labels(route, str(status or "gone")).inc()
            self._metrics.seconds.labels(route).observe(time.monotonic() - start)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        size = len(scope["query_string"]) + sum(len(k) + len(v) for k, v in scope["headers"])
        if size > MAX_HEADER_BYTES:  # the server bounds those that do not arrive at once
            raise RequestFault(431, f"address and headers are larger than {MAX_HEADER_BYTES} bytes")
        if scope["path"] not in _PUBLIC:
            self._check_token(headers.get(b"authorization", b""))
        if scope["method"] != "POST":  # nothing needs a body here: it is left unread
            await self._answer(scope, b"", receive, send)
            return
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise RequestFault(
                415, "a Content-Encoding is not understood: send the bytes as they are"
            )
        limit = self._options.time_limit
        with self._admit():
            try:
                async with asyncio.timeout(limit):
                    body = await self._read(headers.get(b"content-length", b""), receive)
            except TimeoutError as error:
                raise RequestFault(408, f"the request did not arrive within {limit:g} s") from error
            if body is not None:
                await self._answer(scope, body, receive, send)

    def _check_token(self, authorization: bytes) -> None:
        if self._options.token is None:
            return
        scheme, _, given = authorization.partition(b" ")
        is_right = hmac.compare_digest(given.strip(), self._options.token.encode())
        if scheme.lower() != b"bearer" or not is_right:
            raise RequestFault(
                401,
                "a token is needed: send the header 'Authorization: Bearer TOKEN'",
                {"WWW-Authenticate": "Bearer"},
            )

    async def _read(self, length: bytes, receive: Receive) -> bytes | None:
        """The body; None if the client went away."""
        limit = self._options.max_body
        fault = RequestFault(413, f"the request is larger than {limit} bytes: send a smaller image")
        if length.isdigit() and (len(length) > _MAX_DIGITS or int(length) > limit):
            raise fault
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > limit:
                raise fault
            if not message.get("more_body", False):
                return bytes(body)

    async def _answer(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Runs the application, as long as the client is there and time is left."""
        gone = asyncio.create_task(_wait_for_disconnect(receive))
        messages = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def replay() -> Message:
            for message in messages:
                return message
            return await asyncio.shield(gone)

        started = False

        async def note(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        async def run() -> None:
            await self._app(scope, replay, note)

        work = asyncio.create_task(run())
        try:
            await asyncio.wait(
                {work, gone},
                timeout=self._options.time_limit,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if work.done() or started:
                await work
            elif not gone.done():
                text = f"no answer within {self._options.time_limit:g} s: the service is busy"
                raise RequestFault(503, text)
        finally:
            work.cancel()
            gone.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)


async def _wait_for_disconnect(receive: Receive) -> Message:
    while (message := await receive())["type"] != "http.disconnect":
        pass
    return message
