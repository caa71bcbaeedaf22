"""A span for each decision, for whoever traces requests with OpenTelemetry.

Only its API package is used, and only if it is there: which SDK records, and where to, is the application's. The
names `security_rule.*` are OpenTelemetry's; guardtok's own stand under `guardtok.*`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from guardtok.errors import MissingExtraError
from guardtok.gateway.decision import Blame
from guardtok.records import defuse
from guardtok.violation import Action

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from guardtok.gateway.decision import Decision

NAME = "guardtok.decision"
"""The name of every span."""


class Spans:
    """An observer that records a span for each decision, under the span that is current.

    Args:
        provider: Where spans are made; by default OpenTelemetry's global provider.

    Raises:
        MissingExtraError: OpenTelemetry's API is not installed.
    """

    __slots__ = ("_tracer",)

    def __init__(self, provider: TracerProvider | None = None) -> None:
        try:
            from opentelemetry import trace
        except ImportError:
            raise MissingExtraError("OpenTelemetry is not installed: pip install opentelemetry-api.") from None
        self._tracer = trace.get_tracer("guardtok", tracer_provider=provider)

    def __call__(self, decision: Decision) -> None:
        """Record a decision."""
        from opentelemetry.trace import SpanKind, StatusCode

        started = int(decision.started * 1e9)
        span = self._tracer.start_span(NAME, kind=SpanKind.INTERNAL, start_time=started)
        if span.is_recording():
            span.set_attributes(_attributes(decision))
            if decision.refusal is not None and decision.refusal.blame is Blame.FAILURE:
                span.set_status(StatusCode.ERROR, "The guard failed.")
        span.end(started + int(decision.seconds * 1e9))


def _attributes(decision: Decision) -> dict[str, str | int | bool]:
    snapshot, refusal = decision.snapshot, decision.refusal
    policy = snapshot.guard.policy
    attributes: dict[str, str | int | bool] = {
        "guardtok.decision_id": decision.id,
        "guardtok.stage": decision.stage.value,
        "guardtok.protocol": defuse(decision.protocol, snapshot.guard.ruleset),
        "guardtok.action": decision.action.value,
        "guardtok.mode": policy.mode.value,
        "guardtok.changed": decision.changed,
        "guardtok.refused": refusal is not None,
        "guardtok.findings": decision.count,
        "guardtok.policy.name": policy.name,
        "guardtok.policy.digest": policy.digest,
    }
    if snapshot.revision is not None:
        attributes["guardtok.policy.revision"] = snapshot.revision
    rule = refusal.rule if refusal is not None else None
    if rule is None and decision.violations:
        rule = max(decision.violations, key=lambda each: list(Action).index(each.action)).rule
    if rule is not None:
        attributes["security_rule.name"] = rule
        attributes["security_rule.category"] = "control_token"
        attributes["security_rule.ruleset.name"] = policy.name
        attributes["security_rule.version"] = policy.digest if snapshot.revision is None else str(snapshot.revision)
    return attributes
