"""Dependencies for FastAPI applications that build prompts themselves: guarded texts, and guarded bodies.

A refusal is an `HTTPException` with status 400 whose detail has the form of FastAPI's own validation errors, so that
clients read it as one; the text itself is never in it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

from guardtok.errors import MissingExtraError, RequestError
from guardtok.gateway import answers, bodies
from guardtok.gateway.decision import Call
from guardtok.gateway.middleware import request_id_of
from guardtok.gateway.reply import LARGE

try:
    from fastapi import HTTPException, Request
    from starlette.requests import ClientDisconnect
except ImportError:
    raise MissingExtraError("FastAPI is not installed: pip install fastapi.") from None

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from guardtok.gateway.gatekeeper import Gatekeeper, Outcome
    from guardtok.gateway.live import Snapshot

MEBIBYTE = 1024 * 1024


class Sanitize(Protocol):
    """Takes a text that the dependency's source wrote, and returns what may stand in a prompt."""

    def __call__(self, text: str, /, *, path: str = ...) -> str:
        """Return a text, sanitized.

        Args:
            text: The text, whole.
            path: Where it is in the request's body, for the error: `question`, `answers.0.text`.

        Raises:
            HTTPException: The policy refuses it: status 400; 500 where guardtok failed.
        """


def guarded(gatekeeper: Gatekeeper, *, source: str) -> Callable[[Request], Awaitable[Sanitize]]:
    """Return a dependency that gives the endpoint a function which sanitizes texts of one source.

    Every text of a request is judged by the policy that was in force when the request began::

        Sanitized = Annotated[Sanitize, Depends(guarded(gatekeeper, source="user"))]

        @app.post("/ask")
        def ask(question: Question, sanitize: Sanitized) -> Answer:
            prompt = f"Answer shortly: {sanitize(question.text, path='text')}"

    Args:
        gatekeeper: Who decides: `Settings.from_env(os.environ).build()`.
        source: Who writes the texts: `user`, `document`, `tool_result` …

    Raises:
        UnknownSourceError: A source that the policy does not know.
    """
    gatekeeper.current.guard.stream(source=source).close()

    async def sanitizer(request: Request) -> Sanitize:
        # Not async for its own sake: FastAPI would call it in a thread.
        call, snapshot = _call(request), gatekeeper.current

        def sanitize(text: str, /, *, path: str = "") -> str:
            made: str = _admit(gatekeeper.judge_text(text, source, call, snapshot), path)
            return made

        return sanitize

    return sanitizer


def guard_body(
    gatekeeper: Gatekeeper, protocol: str, *, max_body: int = 8 * MEBIBYTE
) -> Callable[[Request], Awaitable[dict[str, Any]]]:
    """Return a dependency that reads the request's body as one of a protocol, and gives the endpoint what may go on.

    ::

        Body = Annotated[dict[str, Any], Depends(guard_body(gatekeeper, "openai.chat"))]

        @app.post("/chat")
        async def chat(body: Body) -> Response: ...

    Args:
        gatekeeper: Who decides.
        protocol: `openai.chat`, `openai.completions`, `openai.responses` or `anthropic.messages`.
        max_body: Bytes of the body, compressed or not, that are let in.
    """

    def judge(raw: bytes, encoding: str, call: Call, snapshot: Snapshot) -> Outcome:
        value = bodies.parse(bodies.decode(raw, encoding, max_body))
        return gatekeeper.judge_request(value, protocol, call, snapshot)

    async def read_body(request: Request) -> dict[str, Any]:
        headers, call, snapshot = request.scope["headers"], _call(request), gatekeeper.current
        try:
            encoding = bodies.encoding_of(headers)
            raw = await bodies.read(_receiver(request), max_body, headers)
            if len(raw) < LARGE and encoding == "identity":
                outcome = judge(raw, encoding, call, snapshot)
            else:
                outcome = await asyncio.to_thread(judge, raw, encoding, call, snapshot)
        except RequestError as error:
            outcome = gatekeeper.turn_away(error, protocol, call, snapshot)
        except bodies.DisconnectedError:
            raise HTTPException(400, "The client went away.") from None
        made: dict[str, Any] = _admit(outcome, "")
        return made

    return read_body


def _receiver(request: Request) -> Callable[[], Awaitable[dict[str, Any]]]:
    """Return a `receive` over a request whose body FastAPI may have read already, for another parameter."""
    chunks = request.stream()

    async def receive() -> dict[str, Any]:
        try:
            return {"type": "http.request", "body": await anext(chunks), "more_body": True}
        except StopAsyncIteration:
            return {"type": "http.request"}
        except ClientDisconnect:
            return {"type": "http.disconnect"}

    return receive


def _call(request: Request) -> Call:
    # A route's own path is one of a few; a URL's is whatever somebody wrote.
    path = getattr(request.scope.get("route"), "path", "*")
    return Call(path, request_id_of(request.scope["headers"]), request.client.host if request.client else None)


def _admit(outcome: Outcome, path: str) -> Any:  # noqa: ANN401 - a text or a body
    refusal, decision = outcome.refusal, outcome.decision
    if refusal is None:
        return outcome.body
    where = path or refusal.path.removeprefix("$").removeprefix(".")
    detail = {
        "type": answers.code_of(refusal),
        "loc": ["body", where] if where else ["body"],
        "msg": answers.explain(refusal),
        "ctx": {"rule": refusal.rule, "decision_id": decision.id},
    }
    headers = {"x-guardtok-decision-id": decision.id, "x-should-retry": "false"}
    raise HTTPException(answers.status_of(refusal), [detail], headers)
