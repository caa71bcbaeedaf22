"""What runs beside the requests: the policy's files are followed, and the decision log is written to its end.

A middleware is told of its server's start and end only where the server has a lifespan; so it can begin late, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from guardtok.errors import MissingExtraError, SettingsError, is_failure
from guardtok.gateway.gatekeeper import Gatekeeper
from guardtok.gateway.live import Reload
from guardtok.violation import visible

if TYPE_CHECKING:
    from collections.abc import Callable

    from guardtok.gateway.decision import Observer
    from guardtok.gateway.decision_log import DecisionLog
    from guardtok.gateway.live import LiveGuard
    from guardtok.gateway.metrics import Metrics
    from guardtok.gateway.settings import Settings


class Running:
    """A gatekeeper with what keeps it up to date."""

    __slots__ = ("_guards", "_log", "_loop", "_stop", "_task", "gatekeeper")

    def __init__(self, gatekeeper: Gatekeeper, guards: LiveGuard | None = None, log: DecisionLog | None = None) -> None:
        """Bind a gatekeeper, the guard that is to follow its files, and the log that is to be written to its end."""
        self.gatekeeper = gatekeeper
        self._guards = guards
        self._log = log
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, settings: Settings, metrics: Metrics | None = None) -> Running:
        """Return what settings describe, not yet started.

        Args:
            settings: The settings.
            metrics: Where decisions and reloads are counted, in place of what `settings.metrics` asks for.

        Raises:
            GuardtokError: The policy, the tokenizer, the bundle or the log cannot be used.
        """
        told: list[Callable[[Reload], object]] = []
        guards = settings.load_guard([lambda made: [each(made) for each in told]])
        observers: list[Observer] = []
        if metrics is None and settings.metrics:
            metrics = _count_for_all()
        if metrics is not None:
            metrics.reloaded(Reload("loaded", guards.current))
            told.append(metrics.reloaded)
            observers.append(metrics)
        log = None
        if settings.decision_log is not None:
            from guardtok.gateway.decision_log import DecisionLog

            log = DecisionLog(settings.decision_log, failed=None if metrics is None else metrics.failed)
            observers.append(log)
        with contextlib.suppress(MissingExtraError):
            from guardtok.gateway.spans import Spans

            observers.append(Spans())
        return cls(Gatekeeper(guards, observers), guards, log)

    def reload(self) -> None:
        """Read the policy again, as a change of its files does."""
        if self._guards is not None:
            self._guards.reload()

    def start(self) -> None:
        """Begin to follow the policy's files, if that is not done yet in the event loop that is running."""
        if self._guards is None:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # Another kind of loop, in which the policy of the start stays.
        if self._loop is not loop:
            self._loop, self._stop = loop, asyncio.Event()
            self._task = loop.create_task(_follow(self._guards, self._stop))

    async def stop(self) -> None:
        """End what was started, and write what waits to be written."""
        if self._stop is not None and self._task is not None and self._loop is asyncio.get_running_loop():
            self._stop.set()
            await self._task
        if self._log is not None:
            await asyncio.to_thread(self._log.close)


def _count_for_all() -> Metrics:
    """Return metrics in the registry that the application shows; last, for what is registered there stays there."""
    try:
        from prometheus_client import REGISTRY
    except ImportError:
        raise MissingExtraError("For metrics: pip install 'guardtok[gateway]'.") from None
    from guardtok.gateway.metrics import Metrics

    try:
        return Metrics(REGISTRY)
    except ValueError:
        fact = "Something in this process counts under these names already."
        raise SettingsError(f"{fact} Share its `gatekeeper`, or leave `metrics` out.") from None


async def _follow(guards: LiveGuard, stop: asyncio.Event) -> None:
    try:
        await guards.watch(stop)
    except MissingExtraError as error:
        logging.getLogger("guardtok").warning("guardtok.policy_not_followed %s", error)
    except BaseException as error:
        if not is_failure(error):
            raise
        # The policy in force stays in force.
        kind = visible(type(error).__name__)
        logging.getLogger("guardtok").error("guardtok.watch_failed error=%s", kind)  # noqa: TRY400 - it may quote text
