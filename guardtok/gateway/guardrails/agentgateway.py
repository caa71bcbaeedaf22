"""The webhooks of agentgateway and kgateway: `POST /request` and `POST /response`.

They read the verdict out of the body, whatever the status says, and take any object for a pass that is neither a mask
nor a rejection that they know. Rejections of replies came with agentgateway 1.0: older ones, and Gloo AI Gateway by its
published schema, would take one for a pass. And of a streamed reply agentgateway shows windows of text, takes a
rejection or an error for an answer, and drops a mask. So a request is refused by a RejectAction, and a reply by a mask
that nobody can apply: it is that of a request, and has no choices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from guardtok.gateway import answers
from guardtok.gateway.guardrails.door import Answer, Dialect
from guardtok.gateway.guardrails.shapes import AnyText, Envelope, take
from guardtok.requests.replies import are_ruled

if TYPE_CHECKING:
    from guardtok.gateway.decision import Call, Refusal
    from guardtok.gateway.gatekeeper import Gatekeeper


class _Message(Envelope):
    role: AnyText
    content: AnyText


class _Prompt(Envelope):
    messages: list[_Message]


class _Choice(Envelope):
    message: _Message


class _Choices(Envelope):
    choices: list[_Choice]


class _Request(Envelope):
    body: _Prompt


class _Response(Envelope):
    body: _Choices


def _judge_request(gatekeeper: Gatekeeper, body: object, call: Call) -> Answer:
    asked = take(_Request, body).body.messages
    outcome = gatekeeper.judge_request({"messages": [_plain(one) for one in asked]}, "openai.chat", call)
    decision = outcome.decision
    if decision.refusal is not None:
        return _reject(decision.refusal, decision.id)
    return _mask({"messages": outcome.body["messages"]}, decision.id) if decision.changed else _pass(decision.id)


def _judge_response(gatekeeper: Gatekeeper, body: object, call: Call) -> Answer:
    said = [choice.message for choice in take(_Response, body).body.choices]
    # Some protocols have no role in a reply; whatever it is called, a model wrote it. Back it is not read.
    choices = [
        {"index": index, "message": {"role": "assistant", "content": one.content}} for index, one in enumerate(said)
    ]
    snapshot = gatekeeper.current
    if not are_ruled(snapshot.guard.policy):
        return _pass()
    outcome = gatekeeper.judge_reply({"choices": choices}, "openai.chat", call, snapshot)
    decision, refusal = outcome.decision, outcome.refusal
    if refusal is not None:
        return _withhold(refusal, decision.id)
    if not decision.changed:
        return _pass(decision.id)
    texts = [choice["message"]["content"] for choice in outcome.body["choices"]]
    made = [{"message": {"role": "assistant", "content": text}} for text in texts]
    return _mask({"choices": made}, decision.id)


def _plain(message: _Message) -> dict[str, Any]:
    # What a peer adds to a message one day is walked as whose it is not known to be.
    return {"role": message.role, "content": message.content, **(message.model_extra or {})}


def _pass(decision_id: str | None = None) -> Answer:
    return Answer({"action": {"reason": "Nothing was changed."}}, decision_id=decision_id)


def _mask(body: dict[str, Any], decision_id: str) -> Answer:
    reason = "Control tokens of the model were found; the decision log says which."
    return Answer({"action": {"body": body, "reason": reason}}, decision_id=decision_id)


def _reject(refusal: Refusal, decision_id: str | None) -> Answer:
    told = answers.refuse(refusal, "openai.chat")
    action = {"body": told.body.decode(), "status_code": told.status, "reason": refusal.rule}
    # Told to send messages raw, agentgateway looks for no action and takes an answer without messages for a pass; one
    # with none of them is an error there.
    return Answer({"action": action, "messages": []}, decision_id=decision_id)


def _withhold(refusal: Refusal, decision_id: str | None) -> Answer:
    return Answer(
        {"action": {"body": {"messages": [], "choices": []}, "reason": refusal.rule}}, decision_id=decision_id
    )


REQUEST = Dialect("agentgateway-request", "/request", _judge_request, _reject)
RESPONSE = Dialect("agentgateway-response", "/response", _judge_response, _withhold)
