from __future__ import annotations

import doctest
import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, cast

import pytest
from fastapi import Body, Depends, FastAPI
from gateway_doors import FORBIDDEN, HOSTILE, Reply, StubGuard, Told, ask
from pydantic import BaseModel

from guardtok import Guard
from guardtok.errors import UnknownSourceError
from guardtok.gateway.decision import Stage
from guardtok.gateway.fastapi import Sanitize, guard_body, guarded
from guardtok.gateway.gatekeeper import Gatekeeper
from guardtok.gateway.live import LiveGuard

TOLD = Told()
LIVE = LiveGuard(Guard.load("strict", sinks=()))
KEEPER = Gatekeeper(LIVE, [TOLD])

Chat = Annotated[dict[str, Any], Depends(guard_body(KEEPER, "openai.chat", max_body=20_000))]
Failing = Annotated[
    dict[str, Any], Depends(guard_body(Gatekeeper(LiveGuard(cast("Guard", StubGuard()))), "openai.chat"))
]
Sanitized = Annotated[Sanitize, Depends(guarded(KEEPER, source="document"))]


app = FastAPI()
seen: list[Any] = []


@app.post("/failing")
async def failing(body: Failing) -> None:
    """Never be called."""
    raise AssertionError(body)


class Question(BaseModel):
    text: str


@app.post("/chat/{name}")
async def chat(name: str, body: Chat) -> dict[str, Any]:
    """Take a guarded body."""
    seen.append((name, body))
    return body


@app.post("/both")
async def both(body: Chat, again: Annotated[dict[str, Any], Body()]) -> bool:
    """Take the body twice."""
    return body == again


@app.post("/ask")
def ask_model(question: Question, sanitize: Sanitized) -> str:
    """Build a prompt."""
    return f"Answer: {sanitize(question.text, path='text')}"


@app.post("/reload")
async def reload(question: Question, sanitize: Sanitized) -> str:
    """Exchange the policy in the middle of a request."""
    LIVE.current = LiveGuard(Guard.load("monitor", sinks=())).current
    return sanitize(question.text)


def post(path: str, body: object, headers: Any = ()) -> Reply:  # noqa: ANN401
    """Send a body as JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), *headers]
    return ask(app, raw, path=path, headers=headers, query_string=b"")


CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi é"}]}
FORGED = {"model": "m", "messages": [{"role": "user", "content": f"hi {FORBIDDEN}"}]}


def test_a_guarded_body_comes_to_the_endpoint() -> None:
    """As the values that it means."""
    assert post("/chat/x", CHAT).json == CHAT
    assert post("/chat/x", gzip.compress(json.dumps(CHAT).encode()), [(b"content-encoding", b"gzip")]).json == CHAT


def test_a_refused_body_is_400_in_the_form_of_fastapi() -> None:
    """The detail is a list of errors, each with type, loc, msg and ctx; the text is not in it."""
    seen.clear()
    reply = post("/chat/x", FORGED, [(b"x-request-id", b"abc")])
    assert reply.status == 400
    (error,) = reply.json["detail"]
    decision = TOLD.decisions[-1]
    assert error["type"] == "policy_violation"
    assert error["loc"] == ["body", "messages[0].content"]
    assert error["ctx"] == {"rule": "*.block[turns_anywhere]", "decision_id": decision.id}
    assert error["ctx"]["rule"] in error["msg"]
    assert reply.headers[b"x-guardtok-decision-id"] == decision.id.encode()
    assert FORBIDDEN.encode() not in reply.body
    assert seen == []
    assert (decision.call.route, decision.call.request_id) == ("/chat/{name}", "abc")


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_body_never_comes_to_the_endpoint(body: bytes) -> None:
    """It is refused with 400, or with 413 for its size, in the same form."""
    seen.clear()
    reply = post("/chat/x", body)
    assert reply.status == (413 if len(body) > 20_000 else 400)
    assert reply.json["detail"][0]["type"] in {"request_json", "request_size"}
    assert seen == []


def test_a_body_that_is_read_twice_is_one() -> None:
    """An endpoint may ask for the body in another way, too; nobody waits for it."""
    assert post("/both", CHAT).json is True
    assert post("/both", FORGED).status == 400


def test_a_text_is_sanitized_for_its_source() -> None:
    """The endpoint gets what may stand in a prompt, or the caller an error that names the field."""
    assert post("/ask", {"text": "hi"}).json == "Answer: hi"
    reply = post("/ask", {"text": FORBIDDEN})
    assert reply.status == 400
    assert reply.json["detail"][0]["loc"] == ["body", "text"]
    decision = TOLD.decisions[-1]
    assert (decision.stage, decision.protocol) == (Stage.TEXT, "document")


def test_a_request_is_judged_by_the_policy_it_began_with() -> None:
    """A policy that is exchanged in the middle of it changes nothing for it."""
    before = LIVE.current
    try:
        assert post("/reload", {"text": FORBIDDEN}).status == 400
        assert LIVE.current is not before
        assert post("/ask", {"text": FORBIDDEN}).status == 200
    finally:
        LIVE.current = before


def test_an_unknown_source_is_found_when_the_application_is_built() -> None:
    """Not with the first request."""
    with pytest.raises(UnknownSourceError):
        guarded(KEEPER, source="usr")


def test_a_guard_that_fails_lets_nothing_through() -> None:
    """That is a 500, and the text is not in it."""
    reply = post("/failing", {"x": "fail secret"})
    assert reply.status == 500
    assert b"secret" not in reply.body


def test_without_fastapi_it_is_named() -> None:
    """The error says what to install."""
    code = (
        "import sys; sys.modules['fastapi'] = None\n"
        "from guardtok.errors import MissingExtraError\n"
        "try: import guardtok.gateway.fastapi\n"
        "except MissingExtraError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install fastapi" in done.stdout


def test_every_example_of_the_how_to_gives_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page runs as it is printed."""
    monkeypatch.chdir(tmp_path)
    page = Path(__file__).parent.parent / "docs" / "gateway-fastapi.md"
    result = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert result.attempted > 15
    assert result.failed == 0
