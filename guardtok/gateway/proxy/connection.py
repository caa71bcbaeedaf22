"""A connection that waits for a request's head only so long: who never ends one would hold a place for good."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    import asyncio


class Connection(H11Protocol):
    """uvicorn's, with a bound on heads. Between requests, uvicorn's own bound on idle connections holds."""

    patience: ClassVar[float] = 60.0
    """Seconds from a connection's start, or from the first byte of a later head, to the end of the head."""

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - uvicorn's own
        super().__init__(*arguments, **options)
        self._waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Take what came, and wait on if it is no whole head."""
        super().data_received(data)
        if self._is_in_head():
            self._wait()
        else:
            self._stop()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop()
        super().connection_lost(exc)

    def _is_in_head(self) -> bool:
        return self.conn.their_state is h11.IDLE and self.timeout_keep_alive_task is None

    def _wait(self) -> None:
        if self._waiting is None:
            self._waiting = self.loop.call_later(self.patience, self._give_up)

    def _stop(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _give_up(self) -> None:
        self._waiting = None
        if self._is_in_head():
            self.transport.close()


def bound_heads(seconds: float) -> type[Connection]:
    """Return the class of connections that wait so long for a head."""

    class Bound(Connection):
        patience = seconds

    return Bound
