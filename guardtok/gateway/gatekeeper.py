"""The one place that decides about a body: every door of the gateway asks here, and no error admits anything."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from guardtok.errors import RefusedError, RequestError, is_failure
from guardtok.gateway.decision import Decision, Stage, tell
from guardtok.gateway.refusing import refuse
from guardtok.gateway.reply_gate import ReplyGate
from guardtok.violation import Action

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from guardtok.encoded import Encoded
    from guardtok.gateway.decision import Call, Observer, Refusal
    from guardtok.gateway.live import LiveGuard, Snapshot
    from guardtok.guard import Guard
    from guardtok.violation import Violation


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a door does with a body.

    Attributes:
        decision: What was decided.
        body: What goes on, or None where it is refused.
    """

    decision: Decision
    body: Any

    @property
    def refusal(self) -> Refusal | None:
        """Why nothing goes on, or None."""
        return self.decision.refusal


@dataclass(frozen=True, slots=True)
class _Judged:
    body: Any
    changed: bool
    action: Action
    violations: tuple[Violation, ...]
    count: int


class Gatekeeper:
    """Decides about requests, replies and texts with the guard in force, and tells the observers.

    Safe to share between threads and tasks.
    """

    __slots__ = ("_guards", "_observers")

    def __init__(self, guards: LiveGuard, observers: Iterable[Observer] = ()) -> None:
        """Bind the guard in force and those who are told."""
        self._guards = guards
        self._observers = tuple(observers)

    @property
    def current(self) -> Snapshot:
        """The guard in force, to be asked once for a request and then passed on."""
        return self._guards.current

    def judge_request(self, body: object, protocol: str, call: Call, snapshot: Snapshot | None = None) -> Outcome:
        """Decide about a request's body. Never raises because of what it holds."""
        snapshot = snapshot or self.current

        def judge() -> _Judged:
            made = snapshot.guard.sanitize_chat(body, protocol=protocol, request_id=call.request_id)
            return _Judged(made.body, made.changed, made.action, made.violations, made.count)

        return self._judge(judge, body, Stage.REQUEST, protocol, call, snapshot)

    def judge_reply(self, body: object, protocol: str, call: Call, snapshot: Snapshot | None = None) -> Outcome:
        """Decide about a reply that came whole. Never raises because of what it holds."""
        snapshot = snapshot or self.current

        def judge() -> _Judged:
            made = snapshot.guard.sanitize_reply(body, protocol=protocol, request_id=call.request_id)
            return _Judged(made.body, made.changed, made.action, made.violations, made.count)

        return self._judge(judge, body, Stage.REPLY, protocol, call, snapshot)

    def open_reply(self, protocol: str, call: Call, snapshot: Snapshot | None = None) -> ReplyGate:
        """Begin a reply that comes in server-sent events.

        Raises:
            RequestError: No such protocol.
        """
        return ReplyGate(snapshot or self.current, protocol, call, self._observers)

    def judge_text(self, text: str, source: str, call: Call, snapshot: Snapshot | None = None) -> Outcome:
        """Decide about a bare text. Never raises because of what it holds."""
        snapshot = snapshot or self.current

        def judge() -> _Judged:
            made = snapshot.guard.sanitize(text, source=source, request_id=call.request_id)
            found = made.violations
            return _Judged(made.text, bool(made.edits), _strictest(found), found, len(found))

        return self._judge(judge, text, Stage.TEXT, source, call, snapshot)

    def judge_prompt(
        self,
        write: Callable[[Guard], tuple[Any, Encoded]],
        body: object,
        protocol: str,
        call: Call,
        snapshot: Snapshot | None = None,
    ) -> Outcome:
        """Decide about a prompt that guardtok itself encodes. Never raises because of what the body holds.

        Args:
            write: Makes what goes on, which becomes the outcome's body, and the ids in it.
            body: The request's body, as it came.
            protocol: Its protocol.
            call: Who asks.
            snapshot: The guard that the request began with.
        """
        snapshot = snapshot or self.current

        def judge() -> _Judged:
            made, encoded = write(snapshot.guard)
            found = encoded.violations
            action = _strictest(found)
            # What is escaped is encoded as text, in monitor mode too; what is logged is as it was.
            return _Judged(made, action not in {Action.ALLOW, Action.LOG}, action, found, len(found))

        return self._judge(judge, body, Stage.REQUEST, protocol, call, snapshot)

    def turn_away(
        self,
        error: BaseException,
        protocol: str,
        call: Call,
        snapshot: Snapshot | None = None,
        stage: Stage = Stage.REQUEST,
    ) -> Outcome:
        """Decide about a body that never came to be judged: too large, no JSON, on no known route, or a door failed."""

        def judge() -> _Judged:
            raise error

        return self._judge(judge, None, stage, protocol, call, snapshot or self.current)

    def _judge(  # noqa: PLR0913, PLR0917 - one for each part of a decision
        self,
        judge: Callable[[], _Judged],
        body: object,
        stage: Stage,
        protocol: str,
        call: Call,
        snapshot: Snapshot,
    ) -> Outcome:
        started, clock = time.time(), time.perf_counter()
        refusal = None
        try:
            judged = judge()
        except BaseException as error:
            if not is_failure(error):
                raise
            found = error.violations if isinstance(error, (RefusedError, RequestError)) else ()
            refusal = refuse(error)
            judged = _Judged(None, changed=False, action=Action.BLOCK, violations=found, count=len(found))
        decision = Decision(
            str(uuid.uuid4()),
            started,
            time.perf_counter() - clock,
            stage,
            protocol,
            call,
            snapshot,
            judged.action,
            judged.changed,
            refusal,
            judged.violations,
            judged.count,
            body,
        )
        tell(decision, self._observers)
        return Outcome(decision, judged.body)


def _strictest(found: Iterable[Violation]) -> Action:
    return max((violation.action for violation in found), key=list(Action).index, default=Action.ALLOW)
