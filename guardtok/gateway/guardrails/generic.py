"""LiteLLM's generic guardrail API: `POST /beta/litellm_basic_guardrail_api`, for proxies that run no Python of ours.

LiteLLM can be told to let pass what fails (`fail_on_error: false`), so every refusal is a verdict with status 200. Of
an answer it takes back texts, messages and tools, not calls: a call that would have to be changed where no message
carries it is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from guardtok.gateway.decision import Call, sane_id
from guardtok.gateway.guardrails.door import Answer, Dialect
from guardtok.gateway.guardrails.inputs import Inputs, judge_reply, judge_request
from guardtok.gateway.guardrails.shapes import AnyText, Envelope, Mapping, take
from guardtok.requests.replies import are_ruled

if TYPE_CHECKING:
    from guardtok.gateway.decision import Refusal
    from guardtok.gateway.gatekeeper import Gatekeeper

_NOTHING = {"action": "NONE", "blocked_reason": None}


class _Question(Envelope):
    input_type: Literal["request", "response"]
    texts: list[AnyText] | None = None
    structured_messages: list[Mapping] | None = None
    tools: list[Any] | None = None
    tool_calls: list[Any] | None = None
    litellm_call_id: AnyText | None = None


def _judge(gatekeeper: Gatekeeper, body: object, call: Call) -> Answer:
    question = take(_Question, body)
    inputs = Inputs(question.texts, question.structured_messages, question.tools, question.tool_calls)
    named = Call(call.route, call.request_id or sane_id(question.litellm_call_id), call.requested_by)
    snapshot = gatekeeper.current
    if question.input_type == "request":
        judged = judge_request(gatekeeper, inputs, named, snapshot)
    elif are_ruled(snapshot.guard.policy):
        judged = judge_reply(gatekeeper, inputs, named, snapshot)
    else:
        return Answer(_NOTHING)
    decision = judged.outcome.decision
    if decision.refusal is not None:
        return Answer(_blocked(decision.refusal.message), decision_id=decision.id)
    if judged.loose_calls:
        message = (
            "A call of a tool holds a control token of the model, and LiteLLM takes no calls back. Have it blocked."
        )
        return Answer(_blocked(message), decision_id=decision.id)
    if not decision.changed:
        return Answer(_NOTHING, decision_id=decision.id)
    made = {
        "texts": judged.inputs.texts,
        "structured_messages": judged.inputs.messages,
        "tools": judged.inputs.tools,
        "tool_calls": judged.inputs.tool_calls,
    }
    given = {name: value for name, value in made.items() if value is not None}
    return Answer({"action": "GUARDRAIL_INTERVENED", "blocked_reason": None, **given}, decision_id=decision.id)


def _blocked(message: str) -> dict[str, Any]:
    return {"action": "BLOCKED", "blocked_reason": message}


def _refuse(refusal: Refusal, decision_id: str | None) -> Answer:
    return Answer(_blocked(refusal.message), decision_id=decision_id)


DIALECT = Dialect("litellm", "/beta/litellm_basic_guardrail_api", _judge, _refuse)
