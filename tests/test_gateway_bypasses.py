"""Ways round the middleware that were found once: bodies that nobody sees, or that are seen as something else."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from gateway_doors import FORBIDDEN, RecordingApp, Told, ask, make_gatekeeper
from starlette.applications import Starlette
from starlette.testclient import TestClient

from guardtok import Guard, Policy
from guardtok.gateway import GuardtokMiddleware
from guardtok.gateway.bodies import read
from guardtok.gateway.gatekeeper import Gatekeeper
from guardtok.gateway.guardrails import routes as service_routes
from guardtok.gateway.live import LiveGuard
from guardtok.gateway.routes import find

if TYPE_CHECKING:
    from collections.abc import Iterable

ATTACK = json.dumps({"messages": [{"role": "user", "content": FORBIDDEN}]}).encode()
CHAT = json.dumps({"messages": [{"role": "user", "content": "hi"}]}).encode()
ESCAPES = Guard(
    Policy.parse("guardtok: 1\nname: p\nsources:\n  '*': {default: escape}\n  assistant: {default: escape}\n")
)


def door(**settings: Any) -> tuple[RecordingApp, GuardtokMiddleware]:  # noqa: ANN401 - one type per setting
    """Return an application and the middleware before it."""
    app = RecordingApp()
    return app, GuardtokMiddleware(app, gatekeeper=make_gatekeeper(), **settings)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "TRACE", "get"])
@pytest.mark.parametrize("headers", [[(b"content-length", b"%d" % len(ATTACK))], [(b"Transfer-Encoding", b"chunked")]])
def test_a_body_is_judged_whatever_the_method_is(method: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
    """An application can read the body of a GET, so one that is announced is a body."""
    app, guarded = door()
    assert ask(guarded, ATTACK, method=method, headers=headers).json["error"]["code"] == "policy_violation"
    assert ask(guarded, ATTACK, method=method, headers=headers, path="/x").json["error"]["code"] == "request_route"
    assert app.received == []


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/anything"])
def test_what_no_header_announces_does_not_come(path: str) -> None:
    """HTTP/2 has frames of a body without a length; where there may be none, none reaches the application."""
    app, guarded = door()
    assert ask(guarded, ATTACK, method="GET", path=path, cuts=[9], headers=[(b"content-length", b"0")]).status == 200
    assert app.bodies == [b""]
    app, guarded = door(prefixes=("/llm",))
    ask(guarded, b"a form", method="GET", path=path)
    assert app.bodies == [b"a form"]


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        (b"application/json", b"application/json"),
        (b"Application/JSON; charset=utf-8", b"Application/JSON; charset=utf-8"),
        (b"application/vnd.api+json", b"application/vnd.api+json"),
        (b"application/x-www-form-urlencoded", b"text/plain"),
        (b"multipart/form-data; boundary=x", b"text/plain"),
        (b"application/json, application/x-www-form-urlencoded", b"text/plain"),
        (b"application/jsonl", b"text/plain"),
        (b"", b"text/plain"),
    ],
)
def test_a_guarded_body_is_read_as_nothing_but_json(said: bytes, heard: bytes) -> None:
    """As a form, `%3C` in a string of the body's would be `<`, which the walker has not seen there."""
    app, guarded = door()
    assert ask(guarded, CHAT, headers=[(b"Content-Type", said)]).status == 200
    assert [value for name, value in app.scopes[0]["headers"] if name.lower() == b"content-type"] == [heard]


def test_the_second_charset_counts_too() -> None:
    """Readers differ in which of two they take."""
    app, guarded = door()
    headers = [(b"content-type", b"application/json; charset=utf-8; charset=utf-16")]
    assert ask(guarded, CHAT, headers=headers).status == 415
    assert app.received == []


@pytest.mark.parametrize("tail", ["?x", "#x", "%3Fx", "%2523", "?/../../x"])
def test_a_path_ends_at_its_question_mark(tail: str) -> None:
    """A proxy that builds a URL of a decoded path calls what stands before it."""
    route = find("POST", f"/llm/v1/messages{tail}", prefixes=("/llm/v1/messages",))
    assert route is not None


def test_a_body_in_crumbs_takes_no_more_memory_than_a_whole_one() -> None:
    """Each chunk that is kept is an object of some forty bytes."""
    left = iter([b"ab"] * 100_000)

    async def receive() -> dict[str, Any]:
        chunk = next(left, None)
        # A new object each time, as a server makes it.
        return {"type": "http.request", "body": bytes(bytearray(chunk or b"")), "more_body": chunk is not None}

    tracemalloc.start()
    try:
        assert len(asyncio.run(read(receive, 1_000_000))) == 200_000
        assert tracemalloc.get_traced_memory()[1] < 1_500_000
    finally:
        tracemalloc.stop()


REPLY = {"object": "response", "id": "r", "status": "completed", "output": []}
SAID = [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": f"a{FORBIDDEN}"}]}]


@pytest.mark.parametrize(
    ("method", "path", "reply"),
    [
        ("GET", "/v1/responses/resp_1", {**REPLY, "output": SAID}),
        ("POST", "/v1/responses/resp_1/cancel", {**REPLY, "output": SAID}),
        ("GET", "//responses/resp_1", {**REPLY, "output": SAID}),
        (
            "GET",
            "/v1/chat/completions/c",
            {"choices": [{"index": 0, "message": {"role": "assistant", "content": f"a{FORBIDDEN}"}}]},
        ),
    ],
)
def test_a_reply_that_is_fetched_later_is_judged(method: str, path: str, reply: dict[str, Any]) -> None:
    """A response in the background comes back by a GET: what was kept is what the model wrote."""
    told = Told()

    async def app(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": json.dumps(reply).encode()})

    guarded = GuardtokMiddleware(app, gatekeeper=Gatekeeper(LiveGuard(ESCAPES), [told]))
    answer = ask(guarded, b"", method=method, path=path)
    assert answer.status == 200
    assert FORBIDDEN.encode() not in answer.body
    assert b"a<_|im_end|>" in answer.body
    assert [decision.stage.value for decision in told.decisions] == ["reply"]
    assert ask(guarded, b"{}", method="POST", path=path).json["error"]["code"] == "request_route"


@pytest.mark.parametrize(
    "headers",
    [
        [(b"content-encoding", b"gzip"), (b"content-encoding", b"identity"), (b"content-type", b"text/event-stream")],
        [(b"content-type", b"application/x-ndjson"), (b"content-type", b"text/event-stream")],
    ],
)
def test_a_reply_with_two_words_for_itself_is_not_let_through(headers: list[tuple[bytes, bytes]]) -> None:
    """A client may take the other one."""

    async def app(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"anything\n\n"})

    guarded = GuardtokMiddleware(app, gatekeeper=Gatekeeper(LiveGuard(ESCAPES)))
    assert ask(guarded, CHAT).status == 502


def test_a_door_that_fails_is_a_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused is on record, whatever refused it."""
    told = Told()
    app = RecordingApp()
    guarded = GuardtokMiddleware(app, gatekeeper=make_gatekeeper(told))

    def fail(body: bytes) -> None:
        raise MemoryError(body)

    monkeypatch.setattr("guardtok.gateway.bodies.parse", fail)
    reply = ask(guarded, CHAT)
    assert (reply.status, reply.json["error"]["code"]) == (500, "guard_failure")
    assert reply.headers[b"x-guardtok-decision-id"].decode() == told.decisions[0].id
    service = TestClient(Starlette(routes=service_routes(make_gatekeeper(told))))
    assert service.post("/portkey", json={}).json()["verdict"] is False
    assert [decision.refusal and decision.refusal.rule for decision in told.decisions] == ["failure", "failure"]
    assert app.received == []
