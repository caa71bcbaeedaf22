"""The whole service of one process: the guarded proxy, the guardrail service and guardtok's own paths, put together."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import signal
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from starlette.routing import Router

from guardtok.gateway.guardrails import routes as guardrail_routes
from guardtok.gateway.metrics import Metrics
from guardtok.gateway.middleware import GuardtokMiddleware
from guardtok.gateway.proxy.envelope import Envelope
from guardtok.gateway.proxy.failures import NOT_FOUND, answer
from guardtok.gateway.proxy.forwarder import Forwarder
from guardtok.gateway.proxy.own import own_routes
from guardtok.gateway.proxy.upstream import Patience
from guardtok.gateway.rendering.app import RenderedChats
from guardtok.gateway.routes import canonicalize, find
from guardtok.gateway.running import Running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from guardtok.gateway.gatekeeper import Gatekeeper
    from guardtok.gateway.proxy.envelope import App, Receive, Scope, Send
    from guardtok.gateway.proxy.upstream import Upstream
    from guardtok.gateway.rendering.app import Rendering
    from guardtok.gateway.settings import Settings


@dataclass(frozen=True, slots=True)
class Serving:
    """What a process serves.

    Attributes:
        settings: The policy, the tokenizer, and how bodies are read.
        upstream: The server behind the proxy; none for the guardrail service alone.
        patience: How long to wait for whom.
        rendering: How chats are rendered here, so that the upstream is sent ids; None to send it text.
    """

    settings: Settings
    upstream: Upstream | None = None
    patience: Patience = field(default_factory=Patience)
    rendering: Rendering | None = None


def make_app(serving: Serving) -> App:
    """Return the service as one ASGI application.

    Raises:
        GuardtokError: The policy, the tokenizer, the bundle or the decision log cannot be used.
    """
    settings, upstream, patience = serving.settings, serving.upstream, serving.patience
    metrics = Metrics()
    running = Running.of(settings, metrics)
    gatekeeper = running.gatekeeper
    forwarder = None if upstream is None else Forwarder(upstream, patience, speech)
    front: App = _not_found
    if forwarder is not None and serving.rendering is not None:
        front = RenderedChats(forwarder, gatekeeper, serving.rendering, settings)
    elif forwarder is not None:
        front = guarded(forwarder, gatekeeper, settings)
    own = own_routes(gatekeeper, metrics)
    router = Router(
        [*own, *guardrail_routes(gatekeeper, max_body=settings.max_body)],
        redirect_slashes=False,
        default=_kept(front, tuple(route.path for route in own)),
        lifespan=partial(_living, running, forwarder),
    )
    return Envelope(router, patience.client, speech)


def guarded(app: App, gatekeeper: Gatekeeper, settings: Settings) -> App:
    """Return an application behind the middleware."""
    fields = {each.name: getattr(settings, each.name) for each in dataclasses.fields(settings)}
    return GuardtokMiddleware(app, gatekeeper=gatekeeper, **fields)


def speech(method: str, path: str) -> str | None:
    """Return in whose form errors are answered on a path; None if it is nobody's."""
    route = find(method, path)
    return None if route is None else route.speaks


def _kept(front: App, own: tuple[str, ...]) -> App:
    """Return an application that is not asked for own paths in another spelling, nor for what lies below them.

    A server that mounts `/metrics` answers at `/metrics/`, and some at whatever begins so.
    """

    async def keep(scope: Scope, receive: Receive, send: Send) -> None:
        hides = scope["type"] == "http" and canonicalize(scope["path"]).startswith(own)
        await (_not_found if hides else front)(scope, receive, send)

    return keep


async def _not_found(scope: Scope, _receive: Receive, send: Send) -> None:
    await answer(send, NOT_FOUND, speech(scope["method"], scope["path"]))


@asynccontextmanager
async def _living(running: Running, forwarder: Forwarder | None, _app: object) -> AsyncIterator[None]:
    """Follow the policy while the service runs, and at its end write what waits to be written."""
    running.start()
    loop = asyncio.get_running_loop()
    with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
        # Not on Windows, and not where the service runs in a thread of something else.
        loop.add_signal_handler(signal.SIGHUP, loop.run_in_executor, None, running.reload)
    # The tables of policy and tokenizer stay, and requests should not pay for the collector's walks over them. Should
    # the policy be exchanged, cycles among the first one's tables are not given back, those of later ones are.
    gc.collect()
    gc.freeze()
    yield
    if forwarder is not None:
        await forwarder.aclose()
    await running.stop()
