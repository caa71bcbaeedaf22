"""Runs the service: one process, or several that share a socket and are looked after until they are told to end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
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
_SHORT_LIFE = 5.0
"""Seconds within which a process that ends has failed to start; another one would fail in the same way."""

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
    """

    workers: int = 1
    grace: int = 30
    keep_alive: int = 75
    limit: int | None = 1000


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

    configure_structlog()
    config = uvicorn.Config(
        make,
        factory=True,
        interface="asgi3",
        lifespan="on",
        ws="none",
        http="h11",
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
    before = {each: signal.signal(each, _ignore) for each in _ENDINGS}
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
    _serve(make, listener, processes)


class _Team:
    """Processes that serve one socket. One that dies is replaced; one that cannot start ends them all."""

    def __init__(self, make: Callable[[], Any], listener: socket.socket, processes: Processes) -> None:
        self._processes = processes
        context = multiprocessing.get_context("spawn")
        self._process = partial(context.Process, target=_work, args=(make, listener, processes))
        self._members: dict[SpawnProcess, float] = {}
        self._heard = multiprocessing.get_context("spawn").Pipe(duplex=False)
        self._ending = False

    def run(self) -> None:
        """Start the processes and look after them."""
        before = {each: signal.signal(each, self._end) for each in _ENDINGS}
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._pass_on)
        try:
            for _ in range(self._processes.workers):
                self._start()
            while not self._ending:
                wait([self._heard[0], *(member.sentinel for member in self._members)])
                self._replace_the_dead()
        finally:
            self._end_all()
            for each, handler in before.items():
                signal.signal(each, handler)

    def _start(self) -> None:
        member = self._process()
        member.start()
        self._members[member] = time.monotonic()

    def _replace_the_dead(self) -> None:
        for member, started in tuple(self._members.items()):
            if self._ending or member.is_alive():
                continue
            del self._members[member]
            # A status above zero is its own end, below zero it is a signal's: only the first would happen again.
            if (member.exitcode or 0) > 0 and time.monotonic() - started < _SHORT_LIFE:
                raise ServeError(f"A worker ended as it started, with status {member.exitcode}; see its log above.")
            _forget_numbers(member.pid)
            self._start()

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
