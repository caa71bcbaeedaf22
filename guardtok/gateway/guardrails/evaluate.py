"""guardtok's own dialect: `POST /v1/evaluate`, a text and its source, or a body and its protocol.

Everything that was decided is told, whatever it was, with status 200. A question that cannot be understood gets 400.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from guardtok.errors import RequestError, near_match
from guardtok.gateway import answers
from guardtok.gateway.guardrails.door import Answer, Dialect
from guardtok.gateway.guardrails.shapes import AnyText, Envelope, take

if TYPE_CHECKING:
    from guardtok.gateway.decision import Call, Refusal
    from guardtok.gateway.gatekeeper import Gatekeeper, Outcome
    from guardtok.gateway.live import Snapshot


class _Question(Envelope):
    text: AnyText | None = None
    source: AnyText | None = None
    body: Any = None
    protocol: AnyText | None = None
    stage: Literal["request", "reply"] = "request"

    # This dialect is our own: a field that is not known is a mistake of the caller's.
    model_config = Envelope.model_config | {"extra": "forbid"}


def _judge(gatekeeper: Gatekeeper, body: object, call: Call) -> Answer:
    question = take(_Question, body)
    snapshot = gatekeeper.current
    given = question.model_fields_set - {"stage"}
    if given == {"text", "source"} and question.text is not None and question.source is not None:
        _check_source(question.source, snapshot)
        return _answer(gatekeeper.judge_text(question.text, question.source, call, snapshot))
    if given == {"body", "protocol"} and question.protocol is not None:
        judge = gatekeeper.judge_request if question.stage == "request" else gatekeeper.judge_reply
        return _answer(judge(question.body, question.protocol, call, snapshot))
    raise RequestError("request.shape", "$", "send `text` with `source`, or `body` with `protocol`.")


def _check_source(source: str, snapshot: Snapshot) -> None:
    known = snapshot.guard.ruleset.sources
    if source not in known:
        fact = f"neither guardtok nor the policy knows this source.{near_match(source, sorted(known))}"
        raise RequestError("request.source", "$.source", fact)


def _answer(outcome: Outcome) -> Answer:
    decision, refusal = outcome.decision, outcome.refusal
    policy = decision.snapshot.guard.policy
    told = {
        "action": decision.action.value,
        "refused": refusal is not None,
        "refusal": None if refusal is None else _tell(refusal),
        "changed": decision.changed,
        "output": outcome.body,
        "violations": [violation.to_dict() for violation in decision.violations],
        "count": decision.count,
        "decision_id": decision.id,
        "policy": {"name": policy.name, "digest": policy.digest},
    }
    return Answer(told, decision_id=decision.id)


def _tell(refusal: Refusal) -> dict[str, str]:
    return {
        "blame": refusal.blame.value,
        "rule": refusal.rule,
        "path": refusal.path,
        "message": refusal.message,
    }


def _refuse(refusal: Refusal, decision_id: str | None) -> Answer:
    told = answers.refuse(refusal, "openai.chat")
    error = {**_tell(refusal), "code": answers.code_of(refusal)}
    return Answer({"error": error}, status=told.status, decision_id=decision_id)


DIALECT = Dialect("guardtok", "/v1/evaluate", _judge, _refuse)
