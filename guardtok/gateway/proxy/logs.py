"""How a process of `guardtok serve` logs: JSON lines on standard error, or lines for people where that is a terminal.

Only a process that guardtok runs is configured: the library never touches an application's logging.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import logging

    from structlog.typing import Processor


def make_formatter() -> logging.Formatter:
    """Return the formatter of the standard library's records; `logging.config` finds it by name."""
    import structlog

    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_shared(),
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_last()],
    )


def logging_config() -> dict[str, Any]:
    """Return the configuration of the standard library's logging, uvicorn's loggers included."""
    level = {"level": "INFO"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"guardtok": {"()": f"{__name__}.{make_formatter.__name__}"}},
        "handlers": {
            "stderr": {"class": "logging.StreamHandler", "formatter": "guardtok", "stream": "ext://sys.stderr"}
        },
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "loggers": {
            "guardtok": level,
            # uvicorn tells of each process and each shutdown; what guardtok says of them is enough.
            "uvicorn": {"level": "WARNING"},
            "uvicorn.access": level,
        },
    }


def configure_structlog() -> None:
    """Have structlog write as the standard library does here."""
    import structlog

    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_shared(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def _shared() -> list[Processor]:
    import structlog

    return [
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso"),
    ]


def _last() -> list[Processor]:
    import structlog

    if sys.stderr is not None and sys.stderr.isatty():
        return [structlog.dev.ConsoleRenderer()]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
