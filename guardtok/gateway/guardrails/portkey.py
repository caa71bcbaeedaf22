"""Portkey's webhook: `POST /portkey`, for `beforeRequestHook` and `afterRequestHook`.

Portkey counts an error as a pass unless a check has `failOnError`, and a timeout is one. So every refusal is a verdict
with status 200; against silence nothing helps that is said here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from guardtok.errors import RequestError
from guardtok.gateway.guardrails.door import Answer, Dialect
from guardtok.gateway.guardrails.shapes import AnyText, Envelope, Mapping, take
from guardtok.requests.replies import are_ruled

if TYPE_CHECKING:
    from guardtok.gateway.decision import Call, Refusal
    from guardtok.gateway.gatekeeper import Gatekeeper, Outcome

_PROTOCOLS = {
    "chatComplete": "openai.chat",
    "complete": "openai.completions",
    "embed": "openai.completions",
    "messages": "anthropic.messages",
}


class _Side(Envelope):
    # Of a streamed reply Portkey sends null.
    json_: Mapping | None = None

    model_config = Envelope.model_config | {"alias_generator": lambda name: name.rstrip("_")}


class _Hook(Envelope):
    eventType: Literal["beforeRequestHook", "afterRequestHook"]  # noqa: N815 - Portkey's name
    requestType: AnyText  # noqa: N815 - Portkey's name
    request: _Side | None = None
    response: _Side | None = None


def _judge(gatekeeper: Gatekeeper, body: object, call: Call) -> Answer:
    hook = take(_Hook, body)
    protocol = _PROTOCOLS.get(hook.requestType)
    if protocol is None:
        raise RequestError("request.protocol", "$.requestType", "requests of this type cannot be judged.")
    before = hook.eventType == "beforeRequestHook"
    snapshot = gatekeeper.current
    if not before and not are_ruled(snapshot.guard.policy):
        return Answer({"verdict": True, "data": {"action": "allow", "findings": 0}})
    side, name = (hook.request, "request") if before else (hook.response, "response")
    if side is None or side.json_ is None:
        fact = "there is nothing to judge: of a streamed reply Portkey sends nothing. Guard replies elsewhere."
        raise RequestError("request.shape", f"$.{name}.json", fact)
    judge = gatekeeper.judge_request if before else gatekeeper.judge_reply
    return _answer(judge(side.json_, protocol, call, snapshot), name)


def _answer(outcome: Outcome, name: str) -> Answer:
    decision = outcome.decision
    data: dict[str, Any] = {"decision_id": decision.id, "action": decision.action.value, "findings": decision.count}
    if decision.refusal is not None:
        return Answer(_deny(decision.refusal, **data), decision_id=decision.id)
    given: dict[str, Any] = {"verdict": True, "data": data}
    if decision.changed:
        given["transformedData"] = {name: {"json": outcome.body}}
    return Answer(given, decision_id=decision.id)


def _deny(refusal: Refusal, **data: object) -> dict[str, Any]:
    why = {"rule": refusal.rule, "path": refusal.path, "message": refusal.message}
    return {"verdict": False, "data": {"action": "block", **data, **why}}


def _refuse(refusal: Refusal, decision_id: str | None) -> Answer:
    return Answer(_deny(refusal, decision_id=decision_id), decision_id=decision_id)


DIALECT = Dialect("portkey", "/portkey", _judge, _refuse)
