"""What a gateway decided about one body, and who is told of it: the decision log, the metrics, the spans.

An observer is told after the decision and changes none: one that fails is reported and left alone, as a sink is.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

from guardtok.errors import is_failure
from guardtok.violation import visible

if TYPE_CHECKING:
    from collections.abc import Iterable

    from guardtok.gateway.live import Snapshot
    from guardtok.violation import Action, Violation


_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def sane_id(given: str | None) -> str | None:
    """Return an id that a caller chose, if it is fit for headers, violations and logs; None for any other."""
    return given if given is not None and _SANE_ID.fullmatch(given) else None


class Stage(str, Enum):
    """What was decided about: what goes to a model, what comes back, or a bare text."""

    REQUEST = "request"
    REPLY = "reply"
    TEXT = "text"


class Blame(str, Enum):
    """Why a body is refused: the policy blocks it, its shape is wrong, or guardtok failed and admits nothing."""

    POLICY = "policy"
    SHAPE = "shape"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why nothing goes on. No field holds text of the body, or a control token that is not broken.

    Attributes:
        blame: Whose fault it is.
        rule: The rule, as violations name it (`user.block[@turn]`), or the check (`request.shape`).
        path: The JSON path of the string or key; empty where there is none.
        message: Fact, place and mend, for the caller.
    """

    blame: Blame
    rule: str
    path: str
    message: str


@dataclass(frozen=True, slots=True)
class Call:
    """Who asks, and where.

    Attributes:
        route: The door: a URL's path, or the name of an integration.
        request_id: The caller's or the server's id of the request; copied into violations.
        requested_by: The peer's address, or None.
    """

    route: str
    request_id: str | None = None
    requested_by: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """One body, and what became of it.

    Attributes:
        id: A random UUID, in the answer's header `x-guardtok-decision-id` too.
        started: Seconds since the epoch.
        seconds: How long guardtok took.
        stage: A request, a reply or a text.
        protocol: `openai.chat` and so on; the source for a text.
        call: Who asked.
        snapshot: The guard that decided, with its policy.
        action: The most restrictive action that anything found asks for; `allow` where nothing was found.
        changed: Whether what goes on differs from what came.
        refusal: Why nothing goes on, or None.
        violations: What was found, each with its JSON path, at most `limits.max_violations`.
        count: How much was found, what is beyond that bound included.
        input: The body as it came, for a log that may hold it masked.
    """

    id: str
    started: float
    seconds: float
    stage: Stage
    protocol: str
    call: Call
    snapshot: Snapshot
    action: Action
    changed: bool
    refusal: Refusal | None
    violations: tuple[Violation, ...]
    count: int
    input: Any = field(repr=False)


class Observer(Protocol):
    """Takes every decision. Must not keep or change `input`."""

    def __call__(self, decision: Decision, /) -> object:
        """Take a decision. What it returns is ignored; what it raises is reported and changes nothing."""


def tell(decision: Decision, observers: Iterable[Observer]) -> None:
    """Tell every observer of a decision; each fails alone."""
    for observer in observers:
        try:
            observer(decision)
        except BaseException as error:  # noqa: PERF203 - each observer fails alone
            if not is_failure(error):
                raise
            _report(observer, error)


def _report(observer: Observer, error: BaseException) -> None:
    # The error's own text may quote the body: only its type is named.
    names = visible(type(observer).__name__), visible(type(error).__name__)
    logging.getLogger("guardtok").error("guardtok.observer_failed observer=%s error=%s", *names)
