"""Where violations go: structlog, JSON lines, or any callable.

A sink is a callable that takes a `Violation`; `list.append` is one. guardtok never configures logging: it writes to
whatever the application set up. A sink that fails is reported through the standard library's logger `guardtok` and
changes no decision.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, TextIO, TypeAlias

from guardtok.errors import is_failure
from guardtok.violation import Action, visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from guardtok.violation import Violation

Sink: TypeAlias = "Callable[[Violation], object]"
"""Takes one record. What it returns is ignored."""

EVENT = "guardtok.violation"
"""The event name of every record."""


def to_structlog(violation: Violation) -> None:
    """Send a record to structlog as the event `guardtok.violation`: `info` for `log`, `warning` for the rest."""
    import structlog

    logger = structlog.get_logger("guardtok")
    write = logger.info if violation.action is Action.LOG else logger.warning
    write(EVENT, **violation.to_dict())


def to_json_lines(stream: TextIO) -> Sink:
    """Return a sink that writes each record to `stream` as one line of JSON, in ASCII."""

    def write(violation: Violation) -> None:
        stream.write(json.dumps({"event": EVENT, **violation.to_dict()}) + "\n")

    return write


def emit(violations: Iterable[Violation], sinks: Iterable[Sink]) -> None:
    """Send every record to every sink. A sink that raises is reported and left out of this call's further records."""
    working = list(sinks)
    if not working:
        return
    for violation in violations:
        for sink in tuple(working):
            try:
                sink(violation)
            except BaseException as error:  # noqa: PERF203 - each sink fails alone
                if not is_failure(error):
                    raise
                working = [other for other in working if other is not sink]
                _report(sink, error)


def _report(sink: Sink, error: BaseException) -> None:
    # The error's own text may quote the record, and its traceback the application's data: only its type is named.
    name = getattr(sink, "__qualname__", type(sink).__name__)
    what = visible(str(name)), visible(type(error).__name__)
    logging.getLogger("guardtok").error("guardtok.sink_failed sink=%s error=%s", *what)
