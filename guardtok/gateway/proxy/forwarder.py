"""The reverse proxy: one request out, one answer back, piece by piece, so that neither side's pace fills the memory."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import anyio
import httpx

from guardtok.gateway.bodies import is_announced
from guardtok.gateway.proxy.failures import (
    BAD_METHOD,
    BAD_PATH,
    BROKEN_OFF,
    NO_ANSWER,
    NO_CONNECTION,
    STALLED,
    STRAY_BODY,
    TOO_SLOW,
    Failure,
    answer,
    as_event,
)
from guardtok.gateway.proxy.headers import answered, for_upstream
from guardtok.gateway.proxy.upstream import UpstreamError
from guardtok.gateway.routes import BODILESS
from guardtok.violation import visible

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping

    from guardtok.gateway.proxy.upstream import Patience, Upstream

    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
    Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_KEEP_ALIVE = 4.0
"""Seconds that an idle connection to the upstream is kept: less than uvicorn's five, after which vLLM closes it."""

_MOST_IDLE = 100
_STATUSES = range(200, 600)
_EVENT_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r")


class BrokenAnswerError(Exception):
    """An answer that had begun cannot be brought to its end. Whoever serves cuts the connection, so that it shows."""

    def __init__(self, code: str) -> None:
        self.code = code
        super().__init__(code)


class _GoneError(Exception):
    """The client left before its body was whole."""


class _Body(httpx.AsyncByteStream):
    """A request's body as it comes, and after it the news that the client left."""

    __slots__ = ("_receive", "unwatched")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.unwatched = anyio.Event()
        """Set once nobody else reads from the client."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise _GoneError
            more = message.get("more_body", False)
            if message.get("body"):
                yield message["body"]
        self.unwatched.set()

    async def until_gone(self) -> None:
        """Return when the client has left."""
        await self.unwatched.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass


class _Reply:
    """An answer on its way to the client."""

    __slots__ = ("_at_boundary", "_protocol", "_send", "started")

    def __init__(self, send: Send, protocol: str | None) -> None:
        self._send = send
        self._protocol = protocol
        self._at_boundary = False
        self.started = False

    async def pass_on(self, response: httpx.Response) -> None:
        """Send the upstream's answer, each piece only when the last one was taken."""
        headers = answered(response.headers.raw)
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        events = kind == "text/event-stream" and "content-encoding" not in response.headers
        self.started, self._at_boundary = True, events
        await self._send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        async for piece in response.aiter_raw():
            if piece:
                self._at_boundary = events and piece.endswith(_EVENT_ENDS)
                await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def give_up(self, failure: Failure) -> None:
        """Say why there is no answer, or why it ends here; whoever serves then cuts what had begun."""
        if not self.started:
            await answer(self._send, failure, self._protocol)
        elif self._at_boundary:
            event = as_event(failure, self._protocol)
            await self._send({"type": "http.response.body", "body": event, "more_body": True})


class Forwarder:
    """An ASGI application that sends each request to an upstream and streams its answer back.

    It holds no cookies, follows no redirects, reads no proxy from the environment and decodes nothing: it drives
    httpx's transport without its client. Requests for paths that two servers may read differently are refused, because
    the middleware has judged only one of the readings.
    """

    __slots__ = ("_host", "_patience", "_protocol_of", "_transport", "_upstream")

    def __init__(self, upstream: Upstream, patience: Patience, protocol_of: Callable[[str, str], str | None]) -> None:
        """Bind an upstream.

        Args:
            upstream: Where requests go.
            patience: How long to wait.
            protocol_of: The protocol of a method and a path, in whose shape errors are answered; None if unknown.

        Raises:
            UpstreamError: The certificates to check an upstream's by cannot be read.
        """
        self._upstream = upstream
        self._patience = patience
        self._protocol_of = protocol_of
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=_MOST_IDLE, keepalive_expiry=_KEEP_ALIVE)
        try:
            self._transport = httpx.AsyncHTTPTransport(http1=True, http2=False, limits=limits)
        except OSError as error:
            fact = (
                f"The list of certificates that SSL_CERT_FILE or SSL_CERT_DIR names cannot be read: {error.strerror}."
            )
            raise UpstreamError(fact) from None

    async def aclose(self) -> None:
        """Close the connections to the upstream."""
        await self._transport.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request.

        Raises:
            BrokenAnswerError: The answer had begun and broke off.
        """
        protocol = self._protocol_of(scope["method"], scope["path"])
        target = self._target(scope)
        refusal = _refuse(scope, target)
        if target is None or refusal is not None:
            await answer(send, refusal or BAD_PATH, protocol)
            return
        body, reply = _Body(receive), _Reply(send, protocol)
        failure: Failure | None = None

        async def leave_with_client(everything: anyio.CancelScope) -> None:
            await body.until_gone()
            everything.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(leave_with_client, group.cancel_scope)
            with anyio.move_on_after(self._patience.total) as limit:
                failure = await self._exchange(self._request(scope, target, body), body, reply)
            if limit.cancelled_caught:
                failure = STALLED if reply.started else TOO_SLOW
            if failure is not None:
                await reply.give_up(failure)
            group.cancel_scope.cancel()
        if failure is not None and reply.started:
            raise BrokenAnswerError(failure.code)

    def _target(self, scope: Mapping[str, Any]) -> bytes | None:
        """Return path and query, byte for byte as they came; None for a path with more than one reading."""
        raw: bytes = scope.get("raw_path") or scope["path"].encode()
        path = unquote(raw.decode("latin-1"))
        parts = path.split("/")
        if parts[0] or "\\" in path or "" in parts[1:-1] or not {".", ".."}.isdisjoint(parts):
            return None
        query: bytes = scope.get("query_string", b"")
        return self._upstream.prefix.encode("ascii") + raw + (b"?" + query if query else b"")

    def _request(self, scope: Mapping[str, Any], target: bytes, body: _Body) -> httpx.Request:
        wait = httpx.Timeout(self._patience.read, connect=self._patience.connect)
        return httpx.Request(
            scope["method"],
            self._upstream.origin,
            headers=for_upstream(scope, self._upstream.host),
            stream=body,
            extensions={"target": target, "timeout": wait.as_dict()},
        )

    async def _exchange(self, request: httpx.Request, body: _Body, reply: _Reply) -> Failure | None:
        """Send a request and hand the answer on; return what went wrong on the upstream's side, or None."""
        response = None
        try:
            response = await self._transport.handle_async_request(request)
            if response.status_code not in _STATUSES:
                return NO_ANSWER
            body.unwatched.set()
            await reply.pass_on(response)
        except _GoneError:
            return None
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            # Nothing was sent and nothing came, so these words are the system's: a certificate that is not trusted.
            _log(NO_CONNECTION, f"{type(error).__name__}: {error}")
            return NO_CONNECTION
        except httpx.TimeoutException as error:
            failure = STALLED if reply.started else TOO_SLOW
            _log(failure, type(error).__name__)
            return failure
        except httpx.TransportError as error:
            failure = BROKEN_OFF if reply.started else NO_ANSWER
            _log(failure, type(error).__name__)
            return failure
        finally:
            if response is not None:
                with anyio.CancelScope(shield=True):
                    await response.aclose()
        return None


def _refuse(scope: Mapping[str, Any], target: bytes | None) -> Failure | None:
    """Return why a request is not sent on at all, or None."""
    method: str = scope["method"]
    if method == "CONNECT" or method != method.upper():
        return BAD_METHOD
    if target is None:
        return BAD_PATH
    return STRAY_BODY if method in BODILESS and is_announced(scope["headers"]) else None


def _log(failure: Failure, why: str) -> None:
    logging.getLogger("guardtok").warning("guardtok.%s reason=%s", failure.code, visible(why[:300]))
