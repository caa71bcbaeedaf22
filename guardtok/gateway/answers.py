"""What a caller is told who is refused, in the form that the clients of each protocol turn into their own errors.

The status is 400: clients retry a 500, and take a 403 for a wrong key. A message names rule and path, never text.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from typing_extensions import assert_never

from guardtok.gateway.bodies import BAD_ENCODING, TOO_LARGE
from guardtok.gateway.decision import Blame, Stage

if TYPE_CHECKING:
    from guardtok.gateway.decision import Decision, Refusal

_STATUSES = {TOO_LARGE: 413, BAD_ENCODING: 415}
_FAILED = 500
# A path can hold keys of the body's, of any length.
_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer.

    Attributes:
        status: The HTTP status.
        headers: Lower-case names and values, as ASGI has them, `content-length` among them.
        body: The body.
    """

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


def refuse(  # noqa: PLR0913 - each is one fact of the answer
    refusal: Refusal,
    protocol: str,
    request_id: str | None = None,
    *,
    decision_id: str | None = None,
    flat: bool = False,
    stage: Stage = Stage.REQUEST,
) -> Answer:
    """Return the answer to a refused request, or in place of a refused reply.

    Args:
        refusal: Why.
        protocol: A protocol of the walker's, or `ollama`: whose form an error has.
        request_id: Given back in the header that the protocol's clients read.
        decision_id: The decision's id, for `x-guardtok-decision-id`.
        flat: Whether errors in OpenAI's form lie flat, as SGLang's do, and not under `error`.
        stage: What was refused.
    """
    status = status_of(refusal, stage)
    body = json.dumps(_error(refusal, status, protocol, request_id, flat=flat), separators=(",", ":")).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"x-should-retry", b"false"),
    ]
    if decision_id is not None:
        headers.append((b"x-guardtok-decision-id", decision_id.encode("latin-1")))
    if request_id is not None:
        name = b"request-id" if _is_anthropic(protocol) else b"x-request-id"
        headers.append((name, request_id.encode("latin-1")))
    return Answer(status, tuple(headers), body)


def reject(decision: Decision, protocol: str, *, flat: bool = False) -> Answer:
    """Return the answer to what a decision refuses.

    Raises:
        ValueError: It refuses nothing.
    """
    if decision.refusal is None:
        raise ValueError("A decision that refuses nothing is no answer.")
    call, stage = decision.call, decision.stage
    return refuse(decision.refusal, protocol, call.request_id, decision_id=decision.id, flat=flat, stage=stage)


def status_of(refusal: Refusal, stage: Stage = Stage.REQUEST) -> int:
    """Return the HTTP status of a refusal.

    400, or 413 for a request's size and 415 for its encoding; 502 for a reply that cannot be judged; 500 where guardtok
    failed.
    """
    match refusal.blame:
        case Blame.POLICY:
            return 400
        case Blame.SHAPE:
            return 502 if stage is Stage.REPLY else _STATUSES.get(refusal.rule, 400)
        case Blame.FAILURE:
            return 500
        case _:
            assert_never(refusal.blame)


def break_off(refusal: Refusal, protocol: str, request_id: str | None = None) -> bytes:
    """Return the server-sent events that end a streamed reply whose rest is refused."""
    error = _error(refusal, status_of(refusal, Stage.REPLY), protocol, request_id, flat=False)
    if protocol == "openai.responses":
        inner = error["error"]
        event = {key: inner[key] for key in ("code", "message", "param")}
        # The reference has the fields flat; OpenAI's clients raise for an event with `error` in it.
        return _event({"type": "error", **event, **error}, "error")
    if _is_anthropic(protocol):
        return _event(error, "error")
    return _event(error) + b"data: [DONE]\n\n"


def explain(refusal: Refusal) -> str:
    """Return a refusal's message, its rule included."""
    return refusal.message if refusal.rule in refusal.message else f"{refusal.message} (rule {refusal.rule})"


def code_of(refusal: Refusal) -> str:
    """Return the word by which a program tells refusals apart."""
    match refusal.blame:
        case Blame.POLICY:
            return "policy_violation"
        case Blame.SHAPE:
            return refusal.rule.replace(".", "_")
        case Blame.FAILURE:
            return "guard_failure"
        case _:
            assert_never(refusal.blame)


def _error(refusal: Refusal, status: int, protocol: str, request_id: str | None, *, flat: bool) -> dict[str, Any]:
    message = explain(refusal)
    if protocol == "ollama":
        return {"error": message}
    if _is_anthropic(protocol):
        kind = {413: "request_too_large", 500: "api_error", 502: "api_error"}.get(status, "invalid_request_error")
        return {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}
    error = {
        "message": message,
        "type": "server_error" if status >= _FAILED else "invalid_request_error",
        "param": refusal.path.removeprefix("$.")[:_SHOWN] if refusal.path not in {"", "$"} else None,
        "code": code_of(refusal),
    }
    return {"object": "error", **error} if flat else {"error": error}


def _is_anthropic(protocol: str) -> bool:
    return protocol.startswith("anthropic.")


def _event(data: dict[str, Any], name: str | None = None) -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
