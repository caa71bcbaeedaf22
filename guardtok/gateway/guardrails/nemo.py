"""NeMo Guardrails' `POST /v1/checks`: a chat request, of which the verdict gives back one message's content.

The whole conversation is judged, what an assistant says by the rules for `assistant`. As there, the content is that of
the last assistant's message if an assistant speaks, else of the user's, or as `rail_types` says. A verdict has room for
no other, so where anything else would have to be changed, the conversation is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from guardtok.errors import RequestError
from guardtok.gateway import answers
from guardtok.gateway.guardrails.door import Answer, Dialect
from guardtok.gateway.guardrails.shapes import Envelope, Mapping, take

if TYPE_CHECKING:
    from guardtok.gateway.decision import Call, Refusal
    from guardtok.gateway.gatekeeper import Gatekeeper, Outcome

_ELSEWHERE = (
    "A control token of the model stands in another message than the one that is given back. Have the policy block it, "
    "or guard whole requests elsewhere."
)


class _Options(Envelope):
    rail_types: list[Literal["input", "output"]] | None = None


class _Check(Envelope):
    messages: list[Mapping]
    guardrails: _Options = _Options()


def _judge(gatekeeper: Gatekeeper, body: Any, call: Call) -> Answer:  # noqa: ANN401 - any JSON value
    check = take(_Check, body)
    if not check.messages:
        raise RequestError("request.shape", "$.messages", "there are no messages.")
    # What lies under `guardrails` steers NeMo's server, and reaches no model.
    asked = {name: value for name, value in body.items() if name != "guardrails"}
    outcome = gatekeeper.judge_request(asked, "openai.chat", call)
    if outcome.refusal is not None:
        return _blocked(outcome.refusal, outcome)
    index = _last_of(check.messages, "assistant" if _runs_on_output(check) else "user")
    return _answer(asked, outcome.body, index, outcome)


def _answer(asked: dict[str, Any], made: dict[str, Any], index: int | None, outcome: Outcome) -> Answer:
    place = len(asked["messages"]) - 1 if index is None else index
    content = made["messages"][place].get("content")
    if made == asked:
        return _say("passed", _text_of(content), outcome)
    # Only the content of one message goes back. With the old one put in its place, nothing else may differ.
    old = asked["messages"][place].get("content")
    made["messages"][place] = {**made["messages"][place], "content": old}
    if made != asked or not isinstance(content, str):
        return _say("blocked", _ELSEWHERE, outcome, rail="request.changed")
    return _say("modified", content, outcome)


def _runs_on_output(check: _Check) -> bool:
    kinds = check.guardrails.rail_types
    return "output" in kinds if kinds is not None else _last_of(check.messages, "assistant") is not None


def _last_of(messages: list[dict[str, Any]], role: str) -> int | None:
    return next((index for index in reversed(range(len(messages))) if messages[index].get("role") == role), None)


def _text_of(content: object) -> str:
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "\n".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _say(status: str, content: str, outcome: Outcome, **more: str) -> Answer:
    return Answer({"status": status, "content": content, **more}, decision_id=outcome.decision.id)


def _blocked(refusal: Refusal, outcome: Outcome) -> Answer:
    return _say("blocked", refusal.message, outcome, rail=refusal.rule)


def _refuse(refusal: Refusal, decision_id: str | None) -> Answer:
    # NeMo's own server answers so, with OpenAI's envelope, to what it cannot check.
    error = {
        "message": answers.explain(refusal),
        "type": "invalid_request_error",
        "param": refusal.path or None,
        "code": answers.code_of(refusal),
    }
    return Answer({"error": error}, status=422, decision_id=decision_id)


DIALECT = Dialect("nemo", "/v1/checks", _judge, _refuse)
