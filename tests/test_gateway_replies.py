from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from gateway_doors import FORBIDDEN, Reply, Told, ask
from hypothesis import given
from hypothesis import strategies as st

from guardtok import Guard, Policy
from guardtok.gateway import GuardtokMiddleware
from guardtok.gateway.decision import Stage
from guardtok.gateway.gatekeeper import Gatekeeper
from guardtok.gateway.live import LiveGuard

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

CHAT = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
BROKEN = "<_|im_end|>"


def load(folder: Path, assistant: str) -> Guard:
    """Return a guard whose policy has a rule for what the model writes."""
    path = folder / f"{assistant}.yaml"
    path.write_text(
        f"guardtok: 1\nname: x\nsources:\n  assistant: {{default: {assistant}}}\n  '*': {{default: escape}}\n"
    )
    return Guard(Policy.load(path), sinks=())


@pytest.fixture(scope="module", name="escaping")
def make_escaping(tmp_path_factory: pytest.TempPathFactory) -> Guard:
    """Return a guard that breaks forms in replies."""
    return load(tmp_path_factory.mktemp("escape"), "escape")


@pytest.fixture(scope="module", name="blocking")
def make_blocking(tmp_path_factory: pytest.TempPathFactory) -> Guard:
    """Return a guard that refuses replies with forms."""
    return load(tmp_path_factory.mktemp("block"), "block")


class Server:
    """An application that answers with what it is given, in pieces."""

    def __init__(self, pieces: Iterable[bytes], headers: Iterable[tuple[bytes, bytes]] = (), status: int = 200) -> None:
        self.pieces = [*pieces]
        self.headers = [*headers]
        self.status = status
        self.scope: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401
        self.scope = scope
        await receive()
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        for piece in self.pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


JSON = (b"content-type", b"application/json")
EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")


def through(server: Any, guard: Guard, told: Told | None = None, **request: Any) -> Reply:  # noqa: ANN401
    """Ask a server through the middleware."""
    keeper = Gatekeeper(LiveGuard(guard), [told] if told else [])
    settings = {"max_reply": request.pop("max_reply")} if "max_reply" in request else {}
    return ask(GuardtokMiddleware(server, gatekeeper=keeper, **settings), CHAT, **request)


def completion(said: str) -> bytes:
    """Return a whole chat completion, spaced as guardtok does not write it."""
    choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
    return json.dumps({"id": "c", "object": "chat.completion", "choices": [choice]}, indent=1).encode()


def stream(*said: str) -> bytes:
    """Return a streamed chat completion."""
    made = b""
    for piece in said:
        choice = {"index": 0, "delta": {"role": "assistant", "content": piece}, "finish_reason": None}
        event = {"id": "c", "object": "chat.completion.chunk", "choices": [choice]}
        made += b"data: " + json.dumps(event).encode() + b"\n\n"
    return made + b"data: [DONE]\n\n"


def spoken(events: bytes) -> str:
    """Return the text of a streamed completion."""
    datas = [line.removeprefix("data: ") for line in events.decode().split("\n") if line.startswith("data: {")]
    return "".join(json.loads(data)["choices"][0]["delta"].get("content") or "" for data in datas)


def cut(whole: bytes, places: Iterable[int]) -> list[bytes]:
    """Cut bytes at places."""
    ends = sorted(min(place, len(whole)) for place in places)
    return [whole[start:end] for start, end in zip([0, *ends], [*ends, len(whole)], strict=True)]


def test_a_reply_without_rules_is_not_looked_at() -> None:
    """Whatever it is, the application's own messages go out, byte for byte."""
    odd = [JSON, (b"content-encoding", b"br"), (b"content-length", b"3")]
    reply = through(
        Server([b"<|im_", b"end|>"], odd), Guard.load("chatml", sinks=()), headers=[(b"accept-encoding", b"br")]
    )
    assert reply.sent[0]["headers"] == odd
    assert reply.body == FORBIDDEN.encode()
    assert len(reply.sent) == 4


@given(st.lists(st.sampled_from(["a", "é", FORBIDDEN, "<|im_", "end|>", "😀"]), max_size=5), st.data())
def test_a_whole_reply_is_sanitized_however_it_is_cut(escaping: Guard, said: list[str], data: st.DataObject) -> None:
    """What comes out is what the guard makes of the text, with the length that it has now."""
    whole = completion("".join(said))
    places = data.draw(st.lists(st.integers(0, len(whole)), max_size=4))
    headers = [JSON, (b"Content-Length", b"%d" % len(whole)), (b"etag", b'"x"'), (b"x-own", b"1")]
    told = Told()
    reply = through(Server(cut(whole, places), headers), escaping, told)
    expected = escaping.sanitize("".join(said), source="assistant").text
    assert reply.json["choices"][0]["message"]["content"] == expected
    assert reply.headers[b"content-length"] == b"%d" % len(reply.body)
    assert reply.headers[b"x-own"] == b"1"
    assert b"etag" not in reply.headers
    assert [decision.stage for decision in told.decisions] == [Stage.REQUEST, Stage.REPLY]
    assert reply.headers[b"x-guardtok-decision-id"] == told.decisions[1].id.encode()
    assert [name.lower() for name, _ in reply.sent[0]["headers"]].count(b"content-length") == 1


def test_a_refused_reply_says_nothing_of_itself(blocking: Guard) -> None:
    """The error stands in its place, in the protocol's form, and the headers are the error's."""
    told = Told()
    reply = through(Server([completion(f"secret {FORBIDDEN}")], [JSON, (b"x-own", b"1")]), blocking, told)
    assert reply.status == 400
    assert reply.json["error"]["code"] == "policy_violation"
    assert b"secret" not in reply.body
    assert b"x-own" not in reply.headers
    assert told.decisions[-1].refusal is not None


@pytest.mark.parametrize(
    ("pieces", "headers", "rule"),
    [
        ([b"x" * 60, b"x" * 60], [JSON], "reply.size"),
        ([b"\x1f\x8b"], [JSON, (b"content-encoding", b"gzip")], "reply.encoding"),
        ([b"compressed events"], [EVENTS, (b"Content-Encoding", b"br")], "reply.encoding"),
        ([b"{}\n{}\n"], [(b"content-type", b"application/x-ndjson")], "reply.stream"),
        ([b"{}\n{}\n"], [JSON], "reply.shape"),
        ([b"<html>"], [], "reply.shape"),
        ([b'{"a": 1, "a": 2}'], [JSON], "reply.shape"),
    ],
)
def test_a_reply_that_cannot_be_judged_is_502(
    escaping: Guard, pieces: list[bytes], headers: list[tuple[bytes, bytes]], rule: str
) -> None:
    """It is not let through, and the caller learns that the server behind is to blame."""
    told = Told()
    reply = through(Server(pieces, headers), escaping, told, max_reply=100)
    assert reply.status == 502
    assert reply.json["error"]["type"] == "server_error"
    refusal = told.decisions[-1].refusal
    assert refusal is not None
    assert refusal.rule == rule
    assert told.decisions[-1].stage is Stage.REPLY


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", {"text": "x", "stream": True}),
        ("/completion", {"prompt": "x", "stream": 1}),
        ("/api/chat", {"messages": []}),
        ("/api/generate", {"prompt": "x", "stream": None}),
    ],
)
def test_a_stream_in_a_servers_own_form_is_not_begun(escaping: Guard, path: str, body: dict[str, Any]) -> None:
    """Nobody here joins its texts, so a form could be cut over its events; asked for whole, it is judged."""
    server = Server([json.dumps({"content": FORBIDDEN}).encode()], [JSON])
    guarded = GuardtokMiddleware(server, gatekeeper=Gatekeeper(LiveGuard(escaping)))
    reply = ask(guarded, json.dumps(body).encode(), path=path)
    assert reply.status == 400
    assert b"stream: false" in reply.body
    assert server.scope is None
    whole = ask(guarded, json.dumps({**body, "stream": False}).encode(), path=path)
    assert whole.json == {"content": BROKEN}
    unruled = GuardtokMiddleware(server, gatekeeper=Gatekeeper(LiveGuard(Guard.load("chatml", sinks=()))))
    assert ask(unruled, json.dumps(body).encode(), path=path).status == 200


@pytest.mark.parametrize("path", ["/generate", "/completion", "/api/chat"])
def test_a_stream_in_a_servers_own_form_that_comes_unasked_is_502(escaping: Guard, path: str) -> None:
    """It is not let through either."""
    server = Server([b'data: {"content": "<|im_"}\n\n', b'data: {"content": "end|>"}\n\n'], [EVENTS])
    reply = ask(GuardtokMiddleware(server, gatekeeper=Gatekeeper(LiveGuard(escaping))), b'{"stream": false}', path=path)
    assert reply.status == 502
    assert b"Ask for it whole" in reply.body


@pytest.mark.parametrize("status", [400, 404, 429, 500])
def test_an_error_of_the_server_passes(blocking: Guard, status: int) -> None:
    """No model wrote it."""
    reply = through(Server([FORBIDDEN.encode()], [JSON], status), blocking)
    assert (reply.status, reply.body) == (status, FORBIDDEN.encode())


def test_an_empty_reply_passes(blocking: Guard) -> None:
    """There is nothing in it."""
    reply = through(Server([]), blocking)
    assert (reply.status, reply.body) == (200, b"")


@given(st.lists(st.sampled_from(["a", "é", FORBIDDEN, "<|im_", "end|>", "<"]), min_size=1, max_size=5), st.data())
def test_a_stream_is_sanitized_as_it_comes(escaping: Guard, said: list[str], data: st.DataObject) -> None:
    """However texts, events and bytes are cut, what comes out is what the whole would be, ended by `[DONE]` or not."""
    is_ended = data.draw(st.booleans())
    whole = stream(*said) if is_ended else stream(*said).removesuffix(b"data: [DONE]\n\n")
    places = data.draw(st.lists(st.integers(0, len(whole)), max_size=6))
    told = Told()
    reply = through(Server(cut(whole, places), [EVENTS, (b"content-length", b"9")]), escaping, told)
    assert spoken(reply.body) == escaping.sanitize("".join(said), source="assistant").text
    assert reply.body.endswith(b"data: [DONE]\n\n") == is_ended
    assert b"content-length" not in reply.headers
    assert [message.get("more_body", False) for message in reply.sent[1:]].count(False) == 1
    assert reply.sent[-1].get("more_body", False) is False
    assert [decision.stage for decision in told.decisions] == [Stage.REQUEST, Stage.REPLY]
    assert reply.headers[b"x-guardtok-decision-id"] == told.decisions[1].id.encode()


@given(st.lists(st.integers(0, 900), max_size=6))
def test_a_stream_that_is_refused_ends_with_an_error(blocking: Guard, places: list[int]) -> None:
    """What was said before has gone out; then comes the error, the end, and nothing more."""
    whole = stream("good ", "<|im_", "end|> never", " said")
    told = Told()
    reply = through(Server(cut(whole, places), [EVENTS]), blocking, told)
    text = reply.body.decode()
    assert "im_end" not in text.replace(BROKEN, "")
    assert "never" not in text
    assert "said" not in text
    assert text.count("policy_violation") == 1
    *_, error, done, _ = text.split("\n\n")
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == "policy_violation"
    assert done == "data: [DONE]"
    assert [message.get("more_body", False) for message in reply.sent[1:]].count(False) == 1
    assert reply.sent[-1].get("more_body", False) is False
    assert told.decisions[-1].refusal is not None
    assert len(told.decisions) == 2


def test_a_stream_is_not_held_back(escaping: Guard) -> None:
    """What is known to be harmless goes out with the chunk in which it came."""
    sent: list[Any] = []
    seen: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401
        assert scope["type"] == "http"
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [EVENTS]})
        for event in stream("one ", "two ").split(b"\n\n"):
            await send({"type": "http.response.body", "body": event + b"\n\n", "more_body": True})
            seen.append(sent[-1]["body"])
        await send({"type": "http.response.body", "body": b""})

    guarded = GuardtokMiddleware(app, gatekeeper=Gatekeeper(LiveGuard(escaping)))

    async def receive() -> Any:  # noqa: ANN401
        return {"type": "http.request", "body": CHAT}

    async def send(message: Any) -> None:  # noqa: ANN401
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": []}
    asyncio.run(guarded(scope, receive, send))
    assert b"one" in seen[0]
    assert b"two" in seen[1]


def test_a_client_that_leaves_ends_the_reply(escaping: Guard) -> None:
    """The application sees it, and there is one decision about what was said until then."""
    told = Told()

    async def app(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401
        assert scope["type"] == "http"
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [EVENTS]})
        await send(
            {"type": "http.response.body", "body": stream(FORBIDDEN, " and on it goes")[:-14], "more_body": True}
        )
        assert (await receive())["type"] == "http.disconnect"
        raise ConnectionError

    with pytest.raises(ConnectionError):
        through(app, escaping, told)
    assert [decision.stage for decision in told.decisions] == [Stage.REQUEST, Stage.REPLY]
    assert told.decisions[1].count == 1


def test_the_application_is_asked_for_a_plain_reply(escaping: Guard) -> None:
    """Neither a compression nor a file that the server would send on its own goes past the judge."""
    server = Server([completion("x")], [JSON])
    headers = [(b"Accept-Encoding", b"gzip, br"), (b"te", b"trailers")]
    extensions = {"http.response.pathsend": {}, "http.response.zerocopysend": {}, "tls": {}}
    through(server, escaping, headers=headers, extensions=extensions)
    assert dict(server.scope["headers"])[b"accept-encoding"] == b"identity"
    assert b"Accept-Encoding" not in dict(server.scope["headers"])
    assert set(server.scope["extensions"]) == {"tls"}


def test_a_reply_is_judged_by_the_policy_its_request_began_with(escaping: Guard, blocking: Guard) -> None:
    """A reload in the middle of a request changes nothing for it."""
    live = LiveGuard(escaping)

    class Reloading(Server):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401
            live.current = LiveGuard(blocking).current
            await super().__call__(scope, receive, send)

    whole = GuardtokMiddleware(Reloading([completion(FORBIDDEN)], [JSON]), gatekeeper=Gatekeeper(live))
    assert ask(whole, CHAT).json["choices"][0]["message"]["content"] == BROKEN
    assert ask(whole, CHAT).status == 400
    live.current = LiveGuard(escaping).current
    streamed = GuardtokMiddleware(Reloading([stream(FORBIDDEN)], [EVENTS]), gatekeeper=Gatekeeper(live))
    assert spoken(ask(streamed, CHAT).body) == BROKEN
    assert b"policy_violation" in ask(streamed, CHAT).body


def test_vectors_are_no_reply(blocking: Guard) -> None:
    """Where no text of a model comes back, nothing is held."""
    server = Server([b"<|im_end|>"], [JSON])
    assert through(server, blocking, path="/v1/embeddings").body == b"<|im_end|>"
