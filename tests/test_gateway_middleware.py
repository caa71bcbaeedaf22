from __future__ import annotations

import asyncio
import gzip
import json
import logging
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
import zstandard
from gateway_doors import FORBIDDEN, HOSTILE, PLAIN, RecordingApp, Reply, Told, ask, make_gatekeeper
from hypothesis import given
from hypothesis import strategies as st

from guardtok import Guard
from guardtok.errors import PolicyError, SettingsError
from guardtok.gateway import GuardtokMiddleware
from guardtok.gateway.decision import Blame
from guardtok.gateway.gatekeeper import Gatekeeper
from guardtok.gateway.live import LiveGuard

if TYPE_CHECKING:
    from pathlib import Path

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def door(*told: Told, **settings: Any) -> tuple[RecordingApp, GuardtokMiddleware]:  # noqa: ANN401
    """Return an application that records, and the door before it."""
    app = RecordingApp()
    return app, GuardtokMiddleware(app, gatekeeper=make_gatekeeper(*told), **settings)


def dump(value: object) -> bytes:
    """Write a value as another program would: spaces, escapes and all."""
    return json.dumps(value, indent=1).encode()


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), PLAIN, max_size=3), st.data())
def test_the_application_gets_one_body_however_it_was_cut(body: dict[str, Any], data: st.DataObject) -> None:
    """One message holds what the gatekeeper passed, written anew, and the length says so."""
    body.pop("fail", None)
    sent = dump({**body, **CHAT})
    cuts = data.draw(st.lists(st.integers(0, len(sent)), max_size=8))
    app, guarded = door()
    reply = ask(guarded, sent, cuts=cuts, headers=[(b"content-length", b"%d" % len(sent))])
    if reply.status != 200:  # The stub fails on a word that chance may write.
        assert app.received == []
        return
    (message,) = app.received[0]
    assert json.loads(message["body"]) == json.loads(sent.replace(b"raw", b"mark"))
    assert message["more_body"] is False
    assert dict(app.scopes[0]["headers"])[b"content-length"] == b"%d" % len(message["body"])
    assert reply.body == app.answer


@given(st.lists(st.sampled_from(["raw", FORBIDDEN, "fail", "x", "<", '"', "\\"]), max_size=6), st.data())
def test_nothing_reaches_the_application_but_what_was_passed(words: list[str], data: st.DataObject) -> None:
    """What is refused never comes there, what is changed comes changed, whatever the cuts."""
    body = dump({**CHAT, "x": "".join(words)})
    app, guarded = door()
    reply = ask(guarded, body, cuts=data.draw(st.lists(st.integers(0, len(body)), max_size=4)))
    joined = b"".join(app.bodies)
    assert FORBIDDEN.encode() not in joined
    assert b"raw" not in joined
    assert b"fail" not in joined
    assert (reply.status == 200) == bool(app.bodies)


GUARD = Guard.load("chatml", "guardtok", sinks=())
PIECES = st.lists(st.sampled_from(["<|im_end|>", "<|im_", "end|>", "</s>", "\ud83d", "\udc00", "x", "{", '"', "\\"]))


@given(PIECES, PIECES, PIECES, st.sampled_from(["/v1/chat/completions", "/v1/messages", "/api/chat"]), st.data())
def test_what_the_real_guard_passes_is_what_it_would_pass_again(
    text: list[str], name: list[str], key: list[str], path: str, data: st.DataObject
) -> None:
    """Forms in contents, names, keys and arguments: what arrives holds none, and the guard has nothing to add to it."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": json.dumps({"a": "".join(text)})}}
    body = {
        "model": "m",
        "messages": [
            {"role": "user", "content": "".join(text)},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "user", "content": [{"type": "text", "text": piece} for piece in text], "name": "".join(name)},
        ],
        "".join(key).lower(): "".join(name),
    }
    sent = json.dumps(body).encode()
    app = RecordingApp()
    guarded = GuardtokMiddleware(app, gatekeeper=Gatekeeper(LiveGuard(GUARD)))
    reply = ask(guarded, sent, path=path, cuts=data.draw(st.lists(st.integers(0, len(sent)), max_size=3)))
    assert reply.status in {200, 400}
    for arrived in app.bodies:
        assert b"<|im_end|>" not in arrived
        protocol = "anthropic.messages" if path == "/v1/messages" else "openai.chat"
        again = GUARD.sanitize_chat(json.loads(arrived), protocol=protocol)
        assert again.body == json.loads(arrived)


@pytest.mark.parametrize(
    ("encoding", "compress"), [("gzip", gzip.compress), ("zstd", zstandard.compress)], ids=["gzip", "zstd"]
)
@pytest.mark.parametrize("name", [b"content-encoding", b"X-Body-Compressed"])
def test_a_compressed_body_arrives_plain(name: bytes, encoding: str, compress: Any) -> None:  # noqa: ANN401
    """The application is told of no compression that it could undo once more."""
    raw = compress(dump(CHAT))
    app, guarded = door()
    reply = ask(guarded, raw, headers=[(name, encoding.encode()), (b"content-length", b"%d" % len(raw))])
    assert reply.status == 200
    assert json.loads(app.bodies[0]) == CHAT
    names = {name.lower() for name, _ in app.scopes[0]["headers"]}
    assert names.isdisjoint({b"content-encoding", b"x-body-compressed"})


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/api/chat", "/invocations"])
def test_a_hostile_body_is_answered_and_goes_nowhere(body: bytes, path: str) -> None:
    """No body makes an exception or a 500, and each refusal is told to the observers."""
    told = Told()
    app, guarded = door(told, max_body=6_000_000)
    reply = ask(guarded, body, path=path)
    assert reply.status == 400
    assert reply.json["error"]
    assert app.received == []
    (decision,) = told.decisions
    assert decision.refusal is not None
    assert decision.refusal.blame is Blame.SHAPE
    assert reply.headers[b"x-guardtok-decision-id"] == decision.id.encode()


@given(st.binary(max_size=60), st.sampled_from([b"identity", b"gzip", b"deflate", b"zstd", b"br", b"gzip, gzip"]))
def test_any_bytes_have_an_answer(body: bytes, encoding: bytes) -> None:
    """Random bytes under any encoding are refused with a status of 4xx, or passed as the one value that they mean."""
    app, guarded = door()
    reply = ask(guarded, body, headers=[(b"content-encoding", encoding)])
    assert reply.status in {200, 400, 415}
    assert (reply.status == 200) == bool(app.bodies)


@pytest.mark.parametrize("value", [[], "text", None, 7, [CHAT]])
def test_a_body_is_an_object(value: object) -> None:
    """No protocol has another."""
    app, guarded = door()
    reply = ask(guarded, dump(value))
    assert reply.json["error"]["code"] == "request_shape"
    assert app.received == []


def test_a_large_body_is_refused_in_the_protocol_and_closes_the_connection() -> None:
    """The rest of the body is still to come, so the connection is of no further use."""
    app, guarded = door(max_body=100)
    for headers in ([(b"content-length", b"101")], []):
        reply = ask(guarded, b" " * 101, headers=headers)
        assert reply.status == 413
        assert reply.json["error"]["code"] == "request_size"
        assert reply.headers[b"connection"] == b"close"
    reply = ask(guarded, b" " * 101, http_version="2")
    assert reply.status == 413
    # HTTP/2 knows no such header, and servers fail on it.
    assert b"connection" not in reply.headers
    assert ask(guarded, b" " * 100).status == 400
    assert app.received == []


def test_the_rest_of_a_large_body_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends without end, or nothing more, has had its answer and holds nobody up."""
    monkeypatch.setattr("guardtok.gateway.middleware._PATIENCE", 0.01)
    _, guarded = door(max_body=100)
    for rest in (b"x", b""):
        sent: list[Any] = []
        asked = []

        async def receive(rest: bytes = rest, asked: list[int] = asked) -> Any:  # noqa: ANN401
            asked.append(1)
            if not rest:
                await asyncio.Event().wait()
            return {"type": "http.request", "body": rest, "more_body": True}

        async def send(message: Any, sent: list[Any] = sent) -> None:  # noqa: ANN401
            sent.append(message)

        headers = [(b"content-length", b"101")]
        scope = {"type": "http", "method": "POST", "path": "/v1/messages", "headers": headers}
        asyncio.run(guarded(scope, receive, send))
        assert [message.get("more_body") for message in sent] == [None, True, False]
        assert len(asked) == (100 if rest else 1)


def test_an_encoding_that_is_not_read_is_415() -> None:
    """Before the body is read."""
    app, guarded = door()
    reply = ask(guarded, b"x", path="/v1/messages", headers=[(b"content-encoding", b"br")])
    assert reply.status == 415
    assert reply.json["error"]["type"] == "invalid_request_error"
    assert app.received == []


@pytest.mark.parametrize("content_type", [b"text/plain", b"application/json", b"multipart/form-data; boundary=x", b""])
def test_a_guarded_body_is_json_whatever_it_is_called(content_type: bytes) -> None:
    """Some servers look at the type and some do not."""
    app, guarded = door()
    headers = [(b"content-type", content_type)]
    assert ask(guarded, dump({**CHAT, "x": FORBIDDEN}), headers=headers).status == 400
    assert ask(guarded, dump(CHAT), headers=headers).status == 200
    assert [json.loads(body) for body in app.bodies] == [CHAT]


def test_an_unknown_path_lets_no_body_through() -> None:
    """Nobody knows what of it reaches a prompt; without a body there is nothing to know."""
    told = Told()
    app, guarded = door(told)
    reply = ask(guarded, b"x", path="/v1/audio/transcriptions")
    assert reply.json["error"]["code"] == "request_route"
    assert told.decisions[0].call.route == "*"
    assert app.received == []
    assert ask(guarded, b"", path="/reset_prefix_cache").status == 200
    assert app.bodies == [b""]


def test_an_unknown_path_can_be_passed_or_opened() -> None:
    """Whoever opens a path gets its bodies as they came, in as many pieces."""
    for settings in ({"unknown_route": "pass"}, {"open_paths": ("/v1/files",)}):
        app, guarded = door(**settings)
        assert ask(guarded, b"abc", path="/v1/files", cuts=[1]).status == 200
        assert app.bodies == [b"abc"]
        assert len(app.received[0]) == 2
        assert ask(guarded, dump({"x": FORBIDDEN})).status == 400


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_what_asks_for_nothing_is_not_touched(method: str) -> None:
    """The very scope goes on."""
    app, guarded = door()
    headers = [(b"content-encoding", b"br")]
    assert ask(guarded, b"", method=method, headers=headers).status == 200
    assert app.scopes[0]["headers"] == headers


@pytest.mark.parametrize(
    ("path", "root", "prefixes"),
    [
        ("/app/v1/chat/completions", "/app", ("/",)),
        ("/v1/chat/completions", "/app", ("/",)),
        ("/app/v1/chat/completions", "/app/", ("/v1",)),
        ("/app/v1/chat/completions", "/app", ("/app",)),
        ("/app/v1/chat/completions", "", ("/app",)),
    ],
)
def test_a_mounted_application_is_guarded(path: str, root: str, prefixes: tuple[str, ...]) -> None:
    """Whether a prefix is meant from the server's root or from the application's."""
    app, guarded = door(prefixes=prefixes)
    assert ask(guarded, dump({"x": FORBIDDEN}), path=path, root_path=root).json["error"]["code"] == "policy_violation"
    assert ask(guarded, dump(CHAT), path=path, root_path=root).status == 200
    assert app.bodies


def test_what_is_outside_the_prefixes_is_not_touched() -> None:
    """The application's own forms."""
    app, guarded = door(prefixes=("/v1",))
    assert ask(guarded, b"name=x", path="/login").status == 200
    assert app.bodies == [b"name=x"]


def test_the_replay_ends_with_the_servers_own_word() -> None:
    """After the one body, the application hears of the client what the server says: that it went away."""
    heard = []

    async def app(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401
        heard.extend([await receive(), await receive()])

    ask(GuardtokMiddleware(app, gatekeeper=make_gatekeeper()), dump(CHAT))
    assert [message["type"] for message in heard] == ["http.request", "http.disconnect"]


def test_half_a_body_goes_nowhere() -> None:
    """A client that went away is not answered, and the application is not called."""
    app, guarded = door()
    sent: list[Any] = []
    waiting = [{"type": "http.request", "body": dump(CHAT)[:9], "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> Any:  # noqa: ANN401
        return waiting.pop(0)

    async def send(message: Any) -> None:  # noqa: ANN401
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/messages", "headers": []}
    asyncio.run(guarded(scope, receive, send))
    assert (app.received, sent) == ([], [])


def test_what_the_servers_receive_raises_is_the_servers_own() -> None:
    """A server that gives up a slow client answers by itself: that is no failure of the guard, nothing is sent."""

    class GivenUpError(Exception):
        pass

    async def receive() -> Any:  # noqa: ANN401
        raise GivenUpError

    told: list[Any] = []
    app, guarded = door(told.append)
    scope = {"type": "http", "method": "POST", "path": "/v1/messages", "headers": []}
    with pytest.raises(GivenUpError):
        asyncio.run(guarded(scope, receive, told.append))
    assert (app.received, told) == ([], [])


def test_the_callers_scope_stays_as_it_was() -> None:
    """Other middlewares hold it."""
    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/v1/messages"}
    headers = [(b"content-length", b"3"), (b"a", b"b")]
    app, guarded = door()
    ask(guarded, dump(CHAT), headers=headers, **scope)
    assert headers == [(b"content-length", b"3"), (b"a", b"b")]
    assert app.scopes[0]["headers"] != headers


@pytest.mark.parametrize("sane", [b"abc-1.2:x_Y", b"a" * 128])
def test_the_callers_request_id_is_kept(sane: bytes) -> None:
    """It is in the decision and in the header that the protocol's clients read."""
    told = Told()
    _, guarded = door(told)
    headers = [(b"X-Request-Id", sane)]
    assert ask(guarded, b"", headers=headers).headers[b"x-request-id"] == sane
    anthropic = ask(guarded, b"", path="/v1/messages", headers=headers)
    assert anthropic.headers[b"request-id"] == sane
    assert anthropic.json["request_id"] == sane.decode()
    assert told.decisions[0].call.request_id == sane.decode()


@pytest.mark.parametrize("odd", [b"", b"a" * 129, b"a b", b"<|im_end|>", b"\xff", b"a\r\nset-cookie: x"])
def test_an_odd_request_id_is_replaced(odd: bytes) -> None:
    """It goes into headers and logs."""
    _, guarded = door()
    assert len(ask(guarded, b"", headers=[(b"x-request-id", odd)]).headers[b"x-request-id"]) == 36


def test_a_guard_that_fails_lets_nothing_through() -> None:
    """That is a 500, with nothing of the body in it, and no client is asked to try again."""
    app, guarded = door()
    reply = ask(guarded, dump({**CHAT, "x": "fail secret"}))
    assert reply.status == 500
    assert reply.headers[b"x-should-retry"] == b"false"
    assert b"secret" not in reply.body
    assert app.received == []


def test_large_bodies_are_judged_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small one is judged where it came in; a large one holds up nobody else."""
    threads = []
    app, guarded = door()
    keep = guarded._running.gatekeeper
    judge = type(keep).judge_request

    def watch(*args: Any) -> Any:  # noqa: ANN401
        threads.append(threading.current_thread() is threading.main_thread())
        return judge(*args)

    monkeypatch.setattr(type(keep), "judge_request", watch)
    ask(guarded, dump(CHAT))
    ask(guarded, dump({**CHAT, "x": "y" * 20_000}))
    assert threads == [True, False]
    assert len(app.bodies) == 2


@pytest.mark.parametrize("path", ["/v1/realtime", "/v1/chat/completions"])
def test_a_websocket_is_refused_where_bodies_would_be(path: str) -> None:
    """What it says cannot be judged."""

    def connect(**settings: Any) -> tuple[list[Any], RecordingApp]:  # noqa: ANN401
        app, guarded = door(**settings)
        sent: list[Any] = []

        async def receive() -> Any:  # noqa: ANN401
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:  # noqa: ANN401
            sent.append(message)

        asyncio.run(guarded({"type": "websocket", "path": path, "headers": []}, receive, send))
        return sent, app

    sent, app = connect()
    assert sent == [{"type": "websocket.close", "code": 1008}]
    assert app.scopes == []
    for settings in ({"open_paths": (path,)}, {"prefixes": ("/llm",)}):
        assert len(connect(**settings)[1].scopes) == 1


def test_no_policy_is_no_open_door(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The start fails, and the log says so where a server hides the exception."""
    monkeypatch.delenv("GUARDTOK_POLICY", raising=False)
    with caplog.at_level(logging.CRITICAL, "guardtok"), pytest.raises(SettingsError, match="GUARDTOK_POLICY"):
        GuardtokMiddleware(RecordingApp())
    assert "guardtok.not_started" in caplog.text


def test_a_policy_that_is_not_there_is_no_open_door(tmp_path: Path) -> None:
    """Nor is one that cannot be read."""
    with pytest.raises(PolicyError):
        GuardtokMiddleware(RecordingApp(), policy=tmp_path / "absent.yaml")


def test_the_environment_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server such as vLLM builds the class with nothing but the application."""
    monkeypatch.setenv("GUARDTOK_POLICY", "strict")
    monkeypatch.setenv("GUARDTOK_MAX_BODY", "10")
    monkeypatch.setenv("GUARDTOK_OPEN_PATHS", "/v1/files, /v1/load_lora_adapter")
    app = RecordingApp()
    guarded = GuardtokMiddleware(app)
    assert ask(guarded, b" " * 11).status == 413
    assert ask(guarded, b"x", path="/v1/load_lora_adapter").status == 200
    assert guarded._running.gatekeeper.current.guard.policy.name == "strict"


def test_loading_the_middleware_needs_no_extra() -> None:
    """A server's own environment has none of guardtok's extras."""
    absent = ("starlette", "uvicorn", "httpx", "zstandard", "prometheus_client", "watchfiles", "anyio", "fastapi")
    code = f"""
import sys
for name in {absent!r}: sys.modules[name] = None
import asyncio
from guardtok.gateway import GuardtokMiddleware
async def app(scope, receive, send): pass
guarded = GuardtokMiddleware(app, policy="strict")
sent = []
async def receive(): return {{"type": "http.request", "body": b"["}}
async def send(message): sent.append(message)
scope = {{"type": "http", "method": "POST", "path": "/v1/messages", "headers": []}}
asyncio.run(guarded(scope, receive, send))
print(sent[0]["status"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "400\n"


class Lifespan:
    """An application with a start and an end, and a server that asks for them."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401, ARG002
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})


def test_the_log_is_written_when_the_server_stops(tmp_path: Path) -> None:
    """With the last word of the lifespan every decision is in the file, and the policy is followed until then."""
    log = tmp_path / "decisions.jsonl"
    guarded = GuardtokMiddleware(Lifespan(), policy="strict", decision_log=log)
    lines: list[int] = []

    async def serve() -> None:
        waiting = asyncio.Queue[str]()
        sent: list[str] = []

        async def receive() -> Any:  # noqa: ANN401
            return {"type": await waiting.get()}

        async def send(message: Any) -> None:  # noqa: ANN401
            sent.append(message["type"])
            if message["type"] == "lifespan.shutdown.complete":
                lines.append(len(log.read_text().splitlines()))

        server = asyncio.create_task(guarded({"type": "lifespan"}, receive, send))
        await waiting.put("lifespan.startup")
        await asyncio.sleep(0)
        scope = {"type": "http", "method": "POST", "path": "/v1/messages", "headers": []}

        async def body() -> Any:  # noqa: ANN401
            return {"type": "http.request", "body": b"{"}

        replies: list[Any] = []

        async def answer(message: Any) -> None:  # noqa: ANN401
            replies.append(message)

        await guarded(scope, body, answer)
        assert Reply(replies).status == 400
        task = guarded._running._task
        assert task is not None
        assert not task.done()
        await waiting.put("lifespan.shutdown")
        await server
        assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
        assert task.done()

    asyncio.run(serve())
    assert lines == [1]
