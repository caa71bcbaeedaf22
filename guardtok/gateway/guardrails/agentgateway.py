"""The webhooks of agentgateway and kgateway: `POST /request` and `POST /response`.

agentgateway reads the verdict out of the body whatever the status says, and takes any object for a pass that is neither
a mask nor a rejection. So every refusal is a whole RejectAction, with status 200 outside and the caller's inside.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from guardtok.gateway import answers
from guardtok.gateway.guardrails.door import Answer, Dialect
from guardtok.gateway.guardrails.shapes import AnyText, Envelope, take

if TYPE_CHECKING:
    from guardtok.gateway.decision import Call, Refusal
    from guardtok.gateway.gatekeeper import Gatekeeper, Outcome


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
    return _answer(outcome, "messages")


def _judge_response(gatekeeper: Gatekeeper, body: object, call: Call) -> Answer:
    said = [choice.message for choice in take(_Response, body).body.choices]
    # Some protocols have no role in a reply; whatever it is called, a model wrote it.
    choices = [
        {"index": index, "message": {"role": "assistant", "content": one.content}} for index, one in enumerate(said)
    ]
    outcome = gatekeeper.judge_reply({"choices": choices}, "openai.chat", call)
    if outcome.refusal is None:
        for choice, one in zip(outcome.body["choices"], said, strict=True):
            choice["message"]["role"] = one.role
            del choice["index"]
    return _answer(outcome, "choices")


def _plain(message: _Message) -> dict[str, Any]:
    # What a peer adds to a message one day is walked as whose it is not known to be.
    return {"role": message.role, "content": message.content, **(message.model_extra or {})}


def _answer(outcome: Outcome, name: str) -> Answer:
    decision = outcome.decision
    if decision.refusal is not None:
        return _reject(decision.refusal, decision_id=decision.id)
    if not decision.changed:
        return Answer({"action": {"reason": "Nothing was changed."}}, decision_id=decision.id)
    reason = "Control tokens of the model were broken or taken out."
    return Answer({"action": {"body": {name: outcome.body[name]}, "reason": reason}}, decision_id=decision.id)


def _reject(refusal: Refusal, decision_id: str | None = None) -> Answer:
    told = answers.refuse(refusal, "openai.chat")
    action = {"body": told.body.decode(), "status_code": told.status, "reason": refusal.rule}
    return Answer({"action": action}, decision_id=decision_id)


_make = partial(Dialect, refuse=_reject)
REQUEST = _make("agentgateway-request", "/request", _judge_request)
RESPONSE = _make("agentgateway-response", "/response", _judge_response)
