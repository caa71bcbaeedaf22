"""What a caller is told when an answer cannot be had: by status, in the protocol's own shape, without a stack.

`x-should-retry` is true only where the upstream never got the request: a repeated one costs a generation each time.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no answer.

    Attributes:
        status: Of HTTP.
        code: A word for programs.
        message: Fact and mend, for people; nothing of the request, nothing of the network behind the proxy.
        kind: Anthropic's name for it.
        retry: Whether the same request may be sent again without harm.
    """

    status: int
    code: str
    message: str
    kind: str = "api_error"
    retry: bool = False


NO_CONNECTION = Failure(
    502, "upstream_unreachable", "The model server cannot be reached; the request was not sent.", retry=True
)
NO_ANSWER = Failure(502, "upstream_failed", "The model server gave no answer, or none that is HTTP.")
TOO_SLOW = Failure(504, "upstream_timeout", "The model server did not answer in time.", "timeout_error")
BROKEN_OFF = Failure(502, "upstream_broken", "The model server's answer broke off; what came of it is not whole.")
STALLED = Failure(
    504, "upstream_stalled", "The model server's answer stopped and was given up; it is not whole.", "timeout_error"
)
BAD_PATH = Failure(
    400,
    "ambiguous_path",
    "The path can be read in two ways (`.`, `..`, `//` or `\\` in it). Ask for it in its plain form.",
    "invalid_request_error",
)
BAD_METHOD = Failure(
    405, "unknown_method", "This method is not passed on. Methods are spelled in capitals.", "invalid_request_error"
)
STRAY_BODY = Failure(
    400, "stray_body", "A request of this method carries no body here. Use POST.", "invalid_request_error"
)
NO_BODY = Failure(
    408, "request_timeout", "The request's body did not come in time.", "invalid_request_error", retry=True
)
CLOSING = Failure(503, "shutting_down", "This gateway is shutting down; the answer was given up.", "overloaded_error")
BROKEN = Failure(500, "failure", "The gateway failed; nothing was let through.")
NOT_FOUND = Failure(404, "not_found", "This gateway has no such path.", "not_found_error")

_CLIENT_ERRORS = range(400, 500)


def _shape(failure: Failure, speaks: str | None) -> dict[str, Any]:
    match speaks:
        case "ollama":
            return {"error": failure.message}
        case "anthropic.messages":
            error = {"type": failure.kind, "message": failure.message}
            return {"type": "error", "error": error, "request_id": None}
        case _:
            kind = "invalid_request_error" if failure.status in _CLIENT_ERRORS else "server_error"
            return {"error": {"message": failure.message, "type": kind, "param": None, "code": failure.code}}


def as_event(failure: Failure, speaks: str | None) -> bytes:
    """Return a failure as the last event of a stream that had begun: the protocol's clients raise it as an error."""
    data = _shape(failure, speaks)
    name = b""
    if speaks == "anthropic.messages":
        name = b"event: error\n"
    elif speaks == "openai.responses":
        # The reference has the fields flat; OpenAI's clients raise for an event with `error` in it.
        name = b"event: error\n"
        data = {"type": "error", "code": failure.code, "message": failure.message, "param": None, **data}
    return name + b"data: " + json.dumps(data).encode("ascii") + b"\n\n"


async def answer(send: Send, failure: Failure, speaks: str | None) -> None:
    """Answer a request that has no other answer yet."""
    body = json.dumps(_shape(failure, speaks)).encode("ascii")
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode("ascii")),
        (b"x-should-retry", b"true" if failure.retry else b"false"),
        # What is left of a request's body must not be read as the next request.
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": failure.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
