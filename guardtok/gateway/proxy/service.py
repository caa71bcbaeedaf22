"""The whole service of one process: the guarded proxy, the guardrail service and guardtok's own paths, put together."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import signal
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
from starlette.routing import Router

from guardtok.errors import MissingExtraError, SettingsError, is_failure
from guardtok.gateway.decision_log import DecisionLog
from guardtok.gateway.gatekeeper import Gatekeeper
from guardtok.gateway.guardrails import routes as guardrail_routes
from guardtok.gateway.live import LiveGuard
from guardtok.gateway.metrics import Metrics
from guardtok.gateway.middleware import GuardtokMiddleware
from guardtok.gateway.proxy.envelope import Envelope
from guardtok.gateway.proxy.failures import NOT_FOUND, answer
from guardtok.gateway.proxy.forwarder import Forwarder
from guardtok.gateway.proxy.own import own_routes
from guardtok.gateway.proxy.upstream import Patience
from guardtok.gateway.routes import find
from guardtok.gateway.spans import Spans
from guardtok.sinks import to_structlog
from guardtok.violation import visible

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from guardtok.gateway.decision import Observer
    from guardtok.gateway.live import Reload
    from guardtok.gateway.proxy.envelope import App, Receive, Scope, Send
    from guardtok.gateway.proxy.upstream import Upstream
    from guardtok.gateway.settings import Settings


@dataclass(frozen=True, slots=True)
class Serving:
    """What a process serves.

    Attributes:
        settings: The policy, the tokenizer, and how bodies are read.
        upstream: The server behind the proxy; none for the guardrail service alone.
        patience: How long to wait for whom.
    """

    settings: Settings
    upstream: Upstream | None = None
    patience: Patience = Patience()


def load_guard(settings: Settings, told: Iterable[Callable[[Reload], object]] = ()) -> LiveGuard:
    """Load the guard that settings name, to be exchanged when its files change.

    Raises:
        GuardtokError: The policy, the tokenizer or the bundle cannot be used.
    """
    if settings.policy is None:
        raise SettingsError("No policy is named, so there is nothing to guard by. Name `strict`, or a path.")
    key = None
    if settings.bundle_key is not None:
        try:
            key = Path(settings.bundle_key).read_bytes()
        except OSError as error:
            raise SettingsError(f"The bundle key cannot be read: {error.strerror}.") from None
    # The decision log has all that is found; without one, the process's own log does.
    sinks = () if settings.decision_log else (to_structlog,)
    return LiveGuard.load(settings.policy, settings.tokenizer, sinks=sinks, bundle_key=key, told=told)


def make_app(serving: Serving) -> App:
    """Return the service as one ASGI application.

    Raises:
        GuardtokError: The policy, the tokenizer, the bundle or the decision log cannot be used.
    """
    metrics = Metrics()
    guards = load_guard(serving.settings, [metrics.reloaded])
    with contextlib.ExitStack() as stack:
        observers: list[Observer] = [metrics]
        if serving.settings.decision_log:
            log = DecisionLog(serving.settings.decision_log, failed=metrics.failed)
            stack.callback(log.close)
            observers.append(log)
        with contextlib.suppress(MissingExtraError):
            observers.append(Spans())
        gatekeeper = Gatekeeper(guards, observers)
        forwarder = None if serving.upstream is None else Forwarder(serving.upstream, serving.patience, speech)
        closing = stack.pop_all()
    return Envelope(
        Router(
            [*own_routes(gatekeeper, metrics), *guardrail_routes(gatekeeper)],
            redirect_slashes=False,
            default=_not_found if forwarder is None else guarded(forwarder, gatekeeper, serving.settings),
            lifespan=partial(_living, guards, forwarder, closing),
        ),
        serving.patience.client,
        speech,
    )


def guarded(app: App, gatekeeper: Gatekeeper, settings: Settings) -> App:
    """Return an application behind the middleware."""
    fields = {each.name: getattr(settings, each.name) for each in dataclasses.fields(settings)}
    return GuardtokMiddleware(app, gatekeeper=gatekeeper, **fields)


def speech(method: str, path: str) -> str | None:
    """Return in whose form errors are answered on a path; None if it is nobody's."""
    route = find(method, path)
    return None if route is None else route.speaks


async def _not_found(scope: Scope, _receive: Receive, send: Send) -> None:
    await answer(send, NOT_FOUND, speech(scope["method"], scope["path"]))


@asynccontextmanager
async def _living(
    guards: LiveGuard, forwarder: Forwarder | None, closing: contextlib.ExitStack, _app: object
) -> AsyncIterator[None]:
    """Follow the policy while the service runs, and at its end write what waits to be written."""
    loop = asyncio.get_running_loop()
    with closing:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_watch, guards)

            def reload() -> None:
                tasks.start_soon(anyio.to_thread.run_sync, guards.reload)

            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                # Not on Windows, and not where the service runs in a thread of something else.
                loop.add_signal_handler(signal.SIGHUP, reload)
            yield
            tasks.cancel_scope.cancel()
        if forwarder is not None:
            await forwarder.aclose()


async def _watch(guards: LiveGuard) -> None:
    try:
        await guards.watch(anyio.Event())
    except BaseException as error:
        if not is_failure(error):
            raise
        # The policy in force stays in force; SIGHUP still reads it again.
        kind = visible(type(error).__name__)
        logging.getLogger("guardtok").error("guardtok.watch_failed error=%s", kind)  # noqa: TRY400 - as everywhere
