"""Runs the service: one process, or several that share a socket and are looked after until they are told to end."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from typing import TYPE_CHECKING

from guardtok.errors import GuardtokError
from guardtok.gateway.proxy.logs import configure_structlog, logging_config
from guardtok.violation import visible

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.context import SpawnProcess
    from types import FrameType
    from typing import Any

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Where prometheus_client keeps the numbers of several processes; read by that library when it is imported."""

_ENDINGS = (signal.SIGTERM, signal.SIGINT)
_BACKLOG = 2048
_NOT_STARTED = 2
_CANNOT_START = frozenset({1, _NOT_STARTED, 3})
"""Exit statuses of a worker that could not start, Python's and uvicorn's among them: the next one would fail, too."""

_PAUSE = 5.0
"""Seconds until it is tried again, while others serve."""

_LAST_STEPS = 5.0
"""Seconds beyond the grace in which a process flushes its logs before it is killed."""


class ServeError(GuardtokError, OSError):
    """The service cannot run: its address is taken, or its processes do not start."""


@dataclass(frozen=True, slots=True)
class Processes:
    """How the server's processes run.

    Attributes:
        workers: How many processes.
        grace: Seconds in which requests that have begun may end, once the service is told to.
        keep_alive: Seconds that an idle connection of a client is kept.
        limit: Connections and requests of one process beyond which it answers 503; None for no limit.
        head: Seconds that a client may take to send the head of a request.
    """

    workers: int = 1
    grace: int = 30
    keep_alive: int = 75
    limit: int | None = 1000
    head: float = 60.0


def bind(host: str, port: int) -> socket.socket:
    """Bind the address to be served; port 0 takes a free one.

    Raises:
        ServeError: It is taken, not of this machine, or not allowed.
    """
    shown = visible(f"{host}:{port}")
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # With the protocol named, asyncio sends each small piece at once: a token must not wait for the next one.
        listener = socket.socket(family, kind, proto)
    except OSError as error:
        raise ServeError(f"Cannot listen on {shown}: {error.strerror}.") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ServeError(f"Cannot listen on {shown}: {error.strerror}. Name another --port or --host.") from None
    listener.set_inheritable(True)
    return listener


def run(make: Callable[[], Any], listener: socket.socket, processes: Processes) -> None:
    """Serve until SIGTERM or SIGINT; requests that have begun may end within the grace.

    Args:
        make: Makes the ASGI application in each process; picklable if there are several.
        listener: The bound socket.
        processes: How to run.

    Raises:
        ServeError: The processes do not start.
    """
    if processes.workers == 1:
        _serve(make, listener, processes)
    else:
        with ExitStack() as stack:
            if METRICS_FOLDER not in os.environ:
                # Read by prometheus_client in each process: without it a scrape would see one process's numbers.
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="guardtok-metrics-"))
                os.environ[METRICS_FOLDER] = folder
                stack.callback(os.environ.pop, METRICS_FOLDER, None)
            _Team(make, listener, processes).run()


def _serve(make: Callable[[], Any], listener: socket.socket, processes: Processes) -> None:
    import uvicorn

    from guardtok.gateway.proxy.connection import bound_heads

    configure_structlog()
    config = uvicorn.Config(
        make,
        factory=True,
        interface="asgi3",
        lifespan="on",
        ws="none",
        http=bound_heads(processes.head),
        log_config=logging_config(),
        access_log=False,
        # The peer is who connects; whom a proxy before this one speaks for stays in its headers.
        proxy_headers=False,
        server_header=False,
        date_header=False,
        limit_concurrency=processes.limit,
        backlog=_BACKLOG,
        timeout_keep_alive=processes.keep_alive,
        timeout_graceful_shutdown=processes.grace,
    )
    # uvicorn ends by raising the signal again that ended it. By then all is done: that is a success.
    before = {each: signal.signal(each, _ignore) for each in (*_ENDINGS, signal.SIGHUP)}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _ignore(_signal: int, _frame: FrameType | None) -> None:
    """Do nothing: a handler, because what is ignored outright stays ignored in children."""


def _work(make: Callable[[], Any], listener: socket.socket, processes: Processes) -> None:
    """Serve in a process of a team, and end when its parent is gone, however that ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:

        def follow() -> None:
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=follow, daemon=True).start()
    try:
        _serve(make, listener, processes)
    except GuardtokError as error:
        # What was right when the service started can be wrong when a worker is replaced.
        logging.getLogger("guardtok").critical("guardtok.worker_not_started %s", visible(str(error)))
        sys.exit(_NOT_STARTED)


class _Team:
    """Processes that serve one socket.

    One that dies is replaced. One that cannot start is tried again while others serve, because a policy that has gone
    bad must not end those that have the good one; where none serves, the service ends.
    """

    def __init__(self, make: Callable[[], Any], listener: socket.socket, processes: Processes) -> None:
        context = multiprocessing.get_context("spawn")
        self._processes = processes
        self._process = partial(context.Process, target=_work, args=(make, listener, processes))
        self._members: list[SpawnProcess] = []
        self._heard = context.Pipe(duplex=False)
        self._ending = False

    def run(self) -> None:
        """Start the processes and look after them."""
        before = {each: signal.signal(each, self._end) for each in _ENDINGS}
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._pass_on)
        try:
            not_before = 0.0
            while not self._ending:
                now = time.monotonic()
                if now >= not_before:
                    self._fill()
                is_full = len(self._members) == self._processes.workers
                sentinels = [member.sentinel for member in self._members]
                wait([self._heard[0], *sentinels], None if is_full else max(0.0, not_before - now))
                if self._bury():
                    not_before = time.monotonic() + _PAUSE
        finally:
            self._end_all()
            for each, handler in before.items():
                signal.signal(each, handler)

    def _fill(self) -> None:
        # A child has it blocked until it can take it: by default SIGHUP ends a process.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        try:
            while len(self._members) < self._processes.workers:
                member = self._process()
                member.start()
                self._members.append(member)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})

    def _bury(self) -> bool:
        """Forget the dead; return whether one of them could not start."""
        dead = [member for member in self._members if not member.is_alive()]
        self._members = [member for member in self._members if member not in dead]
        for member in dead:
            _forget_numbers(member.pid)
        failed = any(member.exitcode in _CANNOT_START for member in dead)
        if failed and not self._members and not self._ending:
            raise ServeError("No worker can start; each has said why in its log.")
        return failed

    def _end(self, _signal: int, _frame: FrameType | None) -> None:
        self._ending = True
        self._heard[1].send_bytes(b"end")

    def _pass_on(self, _signal: int, _frame: FrameType | None) -> None:
        for member in self._members:
            if member.pid is not None and member.is_alive():
                os.kill(member.pid, signal.SIGHUP)

    def _end_all(self) -> None:
        for member in self._members:
            member.terminate()
        until = time.monotonic() + self._processes.grace + _LAST_STEPS
        for member in self._members:
            member.join(max(0.0, until - time.monotonic()))
            if member.is_alive():
                member.kill()
                member.join()


def _forget_numbers(pid: int | None) -> None:
    """Drop the gauges of a process that is gone; what it counted stays counted."""
    from prometheus_client.multiprocess import mark_process_dead

    if pid is not None:
        mark_process_dead(pid)  # type: ignore[no-untyped-call]
