"""`GuardtokMiddleware`: a plain ASGI middleware that lets nothing to the application but what the gatekeeper passed.

It needs no framework and no extra, so that a server can load it by name. It makes one body, written anew, of whatever
came, so that the server cannot read another one than was judged.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import uuid
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from guardtok.errors import GuardtokError, RequestError, is_failure
from guardtok.gateway import answers, bodies, routes
from guardtok.gateway.decision import Call, Decision, sane_id
from guardtok.gateway.reply import LARGE, Errand, Reply, ask_plainly
from guardtok.gateway.running import Running
from guardtok.gateway.settings import Settings
from guardtok.requests.replies import are_ruled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from guardtok.gateway.bodies import Headers
    from guardtok.gateway.gatekeeper import Gatekeeper
    from guardtok.gateway.live import Snapshot
    from guardtok.gateway.routes import Route
    from guardtok.policy import Policy
    from guardtok.tokenizer import Tokenizer

    Message: TypeAlias = MutableMapping[str, Any]
    Scope: TypeAlias = MutableMapping[str, Any]
    Receive: TypeAlias = Callable[[], Awaitable[Message]]
    Send: TypeAlias = Callable[[Message], Awaitable[None]]
    App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_PATIENCE = 2.0
"""Seconds for which the rest of a refused body is thrown away."""

# Rules that refuse a body before it was read to its end.
_UNREAD = frozenset({bodies.TOO_LARGE, bodies.BAD_ENCODING, routes.NO_ROUTE})
_REPLACED = frozenset({b"content-length", b"content-encoding", b"x-body-compressed", b"transfer-encoding"})
_JSON = re.compile(rb"\s*application/(?:[\w.+-]+\+)?json\s*(?:;|\Z)", re.IGNORECASE)
CLOSED_BY_POLICY = 1008
"""How a websocket is closed that nobody can judge (RFC 6455, 7.4.1)."""


@dataclass(frozen=True, slots=True)
class _Admitted:
    body: bytes
    protocol: str


class GuardtokMiddleware:
    """Guards an ASGI application: every request body on a guarded path is judged, sanitized or refused.

    A request without a body passes, its reply included. A websocket under a guarded prefix cannot be judged, so it is
    refused as an unknown path is.
    """

    def __init__(
        self,
        app: App,
        policy: str | os.PathLike[str] | Policy | None = None,
        tokenizer: str | os.PathLike[str] | Tokenizer | None = None,
        *,
        gatekeeper: Gatekeeper | None = None,
        **settings: Any,  # noqa: ANN401 - one type per setting
    ) -> None:
        """Wrap an application.

        Args:
            app: The ASGI application.
            policy: A shipped policy's name, a path, or a policy; by default `GUARDTOK_POLICY` names it.
            tokenizer: The model's tokenizer; by default `GUARDTOK_TOKENIZER` names it.
            gatekeeper: One to share with other doors, in place of a policy.
            settings: The other fields of `Settings`; what is not given is read from the environment.

        Raises:
            SettingsError: No policy is named, or a setting is not what it should be.
            GuardtokError: The policy or the tokenizer cannot be used.
        """
        self._app = app
        try:
            self._settings = Settings.from_env(os.environ, policy=policy, tokenizer=tokenizer, **settings)
            self._running = Running.of(self._settings) if gatekeeper is None else Running(gatekeeper)
        except GuardtokError as error:
            # A server that builds its application late takes what is raised here for an application without lifespan.
            logging.getLogger("guardtok").critical("guardtok.not_started error=%s: %s", type(error).__name__, error)
            raise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection, as ASGI has it."""
        kind = scope["type"]
        if kind == "http" and (route := self._find(scope, _method_of(scope))) is not None:
            await self._guard(scope, receive, send, route)
        elif kind == "http" and self._find(scope, "POST") is not None:
            await self._app(scope, _without_body(receive), send)
        elif kind == "websocket" and self._find(scope, "POST") is not None:
            await receive()
            await send({"type": "websocket.close", "code": CLOSED_BY_POLICY})
        elif kind == "lifespan":
            await self._app(scope, receive, partial(self._tell, send))
        else:
            await self._app(scope, receive, send)

    async def _tell(self, send: Send, message: Message) -> None:
        """Pass on what the application says of its start and end, and start and end with it."""
        if message["type"] == "lifespan.startup.complete":
            self._running.start()
        elif message["type"].startswith("lifespan.shutdown."):
            await self._running.stop()
        await send(message)

    def _find(self, scope: Scope, method: str) -> Route | None:
        path, root = scope["path"], scope.get("root_path", "").rstrip("/")
        # Where the application is mounted, the settings may speak of the whole path, or of the rest.
        spellings = [path[len(root) :] or "/", path] if root and path.startswith(root) else [path]
        prefixes, open_paths = self._settings.prefixes, self._settings.open_paths
        if any(path in open_paths for path in spellings):
            return None
        found = [routes.find(method, path, prefixes=prefixes, open_paths=open_paths) for path in spellings]
        route = next((route for route in found if route and route.is_known), found[0] or found[-1])
        is_passed = route is not None and not route.is_known and self._settings.unknown_route == "pass"
        return None if is_passed else route

    async def _guard(self, scope: Scope, receive: Receive, send: Send, route: Route) -> None:
        self._running.start()
        headers = [*scope["headers"]]
        call = Call(route.path, request_id_of(headers), (scope.get("client") or (None,))[0])
        snapshot = self._running.gatekeeper.current
        try:
            admitted = await self._admit(headers, receive, route, call, snapshot)
        except bodies.DisconnectedError:
            return
        if isinstance(admitted, Decision):
            await self._refuse(scope, receive, send, route, admitted)
            return
        guarded = {**scope, "headers": [*_kept(headers), (b"content-length", b"%d" % len(admitted.body))]}
        replayed = replay(admitted.body, receive)
        if not _judges_replies(route, snapshot):
            await self._app(guarded, replayed, send)
            return
        errand = Errand(route, admitted.protocol, call, snapshot)
        reply = Reply(self._running.gatekeeper, send, errand, self._settings)
        try:
            await self._app(ask_plainly(guarded), replayed, reply.send)
        finally:
            reply.close()

    async def _admit(
        self, headers: Headers, receive: Receive, route: Route, call: Call, snapshot: Snapshot
    ) -> _Admitted | Decision:
        # What the server's `receive` raises is the server's own to answer, and no failure of the guard.
        try:
            if route.is_stored or not route.is_known:
                return _Admitted(await _read_nothing(receive, headers), route.protocol)
            encoding = bodies.encoding_of(headers)
            raw = await bodies.read(receive, self._settings.max_body, headers)
        except RequestError as error:
            return self._running.gatekeeper.turn_away(error, route.protocol, call, snapshot).decision
        judge = partial(self._judge, raw, encoding, route, call, snapshot)
        try:
            return judge() if len(raw) < LARGE and encoding == "identity" else await asyncio.to_thread(judge)
        except BaseException as error:
            if not is_failure(error):
                raise
            return self._running.gatekeeper.turn_away(error, route.protocol, call, snapshot).decision

    def _judge(self, raw: bytes, encoding: str, route: Route, call: Call, snapshot: Snapshot) -> _Admitted | Decision:
        value = bodies.parse(bodies.decode(raw, encoding, self._settings.max_body))
        if not isinstance(value, dict):
            raise RequestError("request.shape", "$", "The body is no object. Send a JSON object.")
        if route.streams_natively(value) and _judges_replies(route, snapshot):
            fact = "a stream of this path cannot be judged. Send `stream: false`, or use the path of a known protocol."
            raise RequestError("request.stream", "$.stream", fact)
        protocol = route.protocol_of(value)
        outcome = self._running.gatekeeper.judge_request(value, protocol, call, snapshot)
        return outcome.decision if outcome.refusal else _Admitted(bodies.dump(outcome.body), protocol)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, route: Route, decision: Decision) -> None:
        answer = answers.reject(decision, route.speaks, flat=self._settings.flat_errors)
        headers = [*answer.headers]
        is_unread = decision.refusal is not None and decision.refusal.rule in _UNREAD
        if is_unread and scope.get("http_version", "1.1").startswith("1"):
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body, "more_body": is_unread})
        if is_unread:
            await _linger(receive, self._settings.max_body)
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def _judges_replies(route: Route, snapshot: Snapshot) -> bool:
    return route.generates and are_ruled(snapshot.guard.policy)


def request_id_of(headers: Headers) -> str:
    """Return the caller's `x-request-id`, where it is fit for headers and logs, or a new one."""
    given = (sane_id(value.decode("latin-1")) for name, value in headers if name.lower() == b"x-request-id")
    return next(filter(None, given), None) or str(uuid.uuid4())


def _method_of(scope: Scope) -> str:
    """Return the method by which a path is guarded: a GET that brings a body is as good as a POST."""
    return "POST" if bodies.is_announced(scope["headers"]) else str(scope["method"])


def _kept(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Return the headers that still hold for a body written anew. JSON that is called a form could be read as one."""
    kept = [(name, value) for name, value in headers if name.lower() not in _REPLACED]
    return [
        (name, b"text/plain" if name.lower() == b"content-type" and not _JSON.match(value) else value)
        for name, value in kept
    ]


async def _read_nothing(receive: Receive, headers: Headers) -> bytes:
    """Return an empty body, for which there is nothing to know.

    Raises:
        RequestError: There is a body (`request.route`).
        DisconnectedError: The client went away.
    """
    try:
        return await bodies.read(receive, 0, headers)
    except RequestError:
        fact = "Nothing is known of this path, so no body is let through. Use a guarded one, or have it opened."
        raise RequestError(routes.NO_ROUTE, "$", fact) from None


async def _linger(receive: Receive, cap: int) -> None:
    """Throw away the rest of a body for a while: to close on a client that writes would take its answer from it."""

    async def throw_away() -> None:
        left = cap
        while left > 0:
            message = await receive()
            if not message.get("more_body", False):
                return
            left -= len(message.get("body", b""))

    try:
        await asyncio.wait_for(throw_away(), _PATIENCE)
    except asyncio.TimeoutError:
        return


def replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives one body, once, and then what the server has to say: that the client went away."""
    left = [body]

    async def replayed() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return replayed


def _without_body(receive: Receive) -> Receive:
    """Return a `receive` without the body of a request that may have none; HTTP/2 sends one that nothing announces."""

    async def empty() -> Message:
        message = await receive()
        return {**message, "body": b""} if message["type"] == "http.request" else message

    return empty
