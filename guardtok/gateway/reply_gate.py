"""A reply that comes in events, decided about as it comes: what may go on, and one decision when it is over.

The threat is the end that nobody reports: a client that leaves, an upstream that dies, a refusal in the middle. However
a reply ends, the observers are told once.
"""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, NamedTuple

from guardtok.errors import is_failure
from guardtok.gateway.decision import Decision, Stage, tell
from guardtok.gateway.refusing import refuse
from guardtok.violation import Action

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from guardtok.gateway.decision import Call, Observer, Refusal
    from guardtok.gateway.live import Snapshot


class Passage(NamedTuple):
    """What a door does next with a reply.

    Attributes:
        data: Bytes that go on, whole events of the protocol; maybe none.
        refusal: Why nothing goes on after them, or None.
    """

    data: bytes
    refusal: Refusal | None


class ReplyGate:
    """Decides about one streamed reply. Made by `Gatekeeper.open_reply`; not to be shared between threads.

    Attributes:
        id: The decision's id, known from the beginning, for the answer's header goes out first.
        decision: What was decided, once the reply is over.
    """

    __slots__ = (
        "_call",
        "_observers",
        "_protocol",
        "_refusal",
        "_seconds",
        "_snapshot",
        "_started",
        "_stream",
        "decision",
        "id",
    )

    def __init__(self, snapshot: Snapshot, protocol: str, call: Call, observers: Iterable[Observer]) -> None:
        """Begin. Use `Gatekeeper.open_reply`."""
        self.id = str(uuid.uuid4())
        self.decision: Decision | None = None
        self._snapshot = snapshot
        self._protocol = protocol
        self._call = call
        self._observers = tuple(observers)
        self._started = time.time()
        self._seconds = 0.0
        self._refusal: Refusal | None = None
        self._stream = snapshot.guard.reply_stream(protocol=protocol, request_id=call.request_id)

    def feed(self, chunk: bytes) -> Passage:
        """Take bytes of the reply, cut anywhere, and return what goes on. Never raises because of what they hold."""
        return self._step(lambda: self._stream.feed(chunk))

    def finish(self) -> Passage:
        """End the reply, and return what was held back. Never raises because of what it holds."""
        passage = self._step(self._stream.finish)
        self._decide()
        return passage

    def close(self) -> None:
        """Give the reply up, for its caller or its upstream is gone. After its end this does nothing."""
        self._decide()

    def _step(self, step: Callable[[], bytes]) -> Passage:
        if self.decision is not None:
            return Passage(b"", self._refusal)
        clock = time.perf_counter()
        try:
            return Passage(step(), None)
        except BaseException as error:
            if not is_failure(error):
                raise
            self._refusal = refuse(error)
        finally:
            self._seconds += time.perf_counter() - clock
        self._decide()
        return Passage(self._stream.passed, self._refusal)

    def _decide(self) -> None:
        if self.decision is not None:
            return
        stream = self._stream
        stream.close()
        self.decision = Decision(
            self.id,
            self._started,
            self._seconds,
            Stage.REPLY,
            self._protocol,
            self._call,
            self._snapshot,
            Action.BLOCK if self._refusal is not None else stream.action,
            stream.changed,
            self._refusal,
            stream.violations,
            stream.count,
            None,
        )
        tell(self.decision, self._observers)
