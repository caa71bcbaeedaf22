"""The outermost layer: bounds how long a client may dawdle, and gives what fails inside a defined end, no traceback."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import anyio

from guardtok.gateway.proxy.failures import BROKEN, CLOSING, NO_BODY, answer
from guardtok.gateway.proxy.forwarder import BrokenAnswerError
from guardtok.violation import visible

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Message = MutableMapping[str, Any]
    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Scope, Receive, Send], Awaitable[None]]


class _StalledError(Exception):
    """A client neither sent nor took the next piece in time."""


class _Exchange:
    """A request's two channels, each with a bound on how long the client may keep it waiting."""

    __slots__ = ("_patience", "_receive", "_send", "_whole", "stalled", "started")

    def __init__(self, receive: Receive, send: Send, patience: float) -> None:
        self._receive = receive
        self._send = send
        self._patience = patience
        self._whole = False
        self.started = False
        self.stalled = False

    async def receive(self) -> Message:
        if self._whole:
            return await self._receive()  # What comes now is that the client leaves: there is no hurry.
        with anyio.move_on_after(self._patience):
            message = await self._receive()
            self._whole = message["type"] != "http.request" or not message.get("more_body", False)
            return message
        self.stalled = True
        raise _StalledError

    async def send(self, message: Message) -> None:
        with anyio.move_on_after(self._patience):
            await self._send(message)
            self.started = True
            return
        self.stalled = True
        raise _StalledError


class Envelope:
    """An ASGI application around all others. An answer that began and cannot end is left open: the server cuts it."""

    __slots__ = ("_app", "_patience", "_protocol_of")

    def __init__(self, app: App, patience: float, protocol_of: Callable[[str, str], str | None]) -> None:
        """Wrap an application.

        Args:
            app: The application.
            patience: Seconds that a client may take to send, or to take, the next piece.
            protocol_of: The protocol of a method and a path, in whose shape errors are answered; None if unknown.
        """
        self._app = app
        self._patience = patience
        self._protocol_of = protocol_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the server's start and end."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(receive, send, self._patience)
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except BrokenAnswerError as error:
            _log("answer_cut", error.code)
            return
        except asyncio.CancelledError:
            # The server gives up what is still running when its time to shut down is over.
            failure = CLOSING
            _log("request_given_up", failure.code)
        except Exception as error:  # noqa: BLE001 - the outermost layer: the server would log a traceback
            failure = NO_BODY if exchange.stalled else BROKEN
            _log("client_stalled" if exchange.stalled else "request_failed", type(error).__name__)
        else:
            return
        if not exchange.started:
            await answer(send, failure, self._protocol_of(scope["method"], scope["path"]))


def _log(event: str, why: str) -> None:
    # Never the error's own text, which may quote a body.
    logging.getLogger("guardtok").warning("guardtok.%s reason=%s", event, visible(why))
