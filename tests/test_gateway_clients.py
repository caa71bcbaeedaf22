"""The real clients on a real socket: they see refusals as their own errors, and ask only once."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import importlib
import inspect
import json
import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anthropic
import openai
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi import Request as FastAPIRequest
from gateway_doors import FORBIDDEN, Told, make_gatekeeper
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from guardtok import Guard, Policy
from guardtok.gateway import GuardtokMiddleware
from guardtok.gateway.gatekeeper import Gatekeeper
from guardtok.gateway.live import LiveGuard

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from starlette.requests import Request

CHAT = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}


def chunks(*deltas: str) -> AsyncIterator[str]:
    """Yield a streamed chat completion."""

    async def make() -> AsyncIterator[str]:
        for delta in deltas:
            choice = {"index": 0, "delta": {"role": "assistant", "content": delta}, "finish_reason": None}
            yield f"data: {json.dumps({**CHAT, 'object': 'chat.completion.chunk', 'choices': [choice]})}\n\n"
            await asyncio.sleep(0)
        yield "data: [DONE]\n\n"

    return make()


LEFT = threading.Event()
"""Set when the server has seen that the client of an endless stream went away."""


async def endless() -> AsyncIterator[str]:
    """Yield a stream that ends when nobody listens any more."""
    try:
        while True:
            async for chunk in chunks("more "):
                if "DONE" not in chunk:
                    yield chunk
            await asyncio.sleep(0.01)
    finally:
        LEFT.set()


async def chat(request: Request) -> Response:
    """Answer as a model server does: the last message's content comes back."""
    body = await request.json()
    said = body["messages"][-1]["content"]
    if said == "endless":
        return StreamingResponse(endless(), media_type="text/event-stream")
    if body.get("stream"):
        return StreamingResponse(chunks(*said), media_type="text/event-stream")
    choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
    return JSONResponse({**CHAT, "choices": [choice]})


async def responses(_request: Request) -> Response:
    """Answer with nothing: only refusals are looked at."""
    return JSONResponse({})


async def messages(request: Request) -> Response:
    """Answer as Anthropic does."""
    body = await request.json()
    said = body["messages"][-1]["content"]
    usage = {"input_tokens": 1, "output_tokens": 1}
    whole = {"id": "m", "type": "message", "role": "assistant", "model": "m", "stop_reason": None, "usage": usage}
    if not body.get("stream"):
        return JSONResponse({**whole, "content": [{"type": "text", "text": said}]})

    async def events() -> AsyncIterator[str]:
        made: list[dict[str, Any]] = [
            {"type": "message_start", "message": {**whole, "content": []}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": c}} for c in said),
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}},
            {"type": "message_stop"},
        ]
        for event in made:
            yield f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


def starlette_routes(*middleware: Middleware) -> Starlette:
    """Return a model server in Starlette."""
    routes = [
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/responses", responses, methods=["POST"]),
        Route("/v1/messages", messages, methods=["POST"]),
    ]
    return Starlette(routes=routes, middleware=middleware)


def starlette_app(told: Told) -> Any:  # noqa: ANN401
    """Return the application in Starlette, its middleware added as Starlette has it."""
    return starlette_routes(Middleware(GuardtokMiddleware, gatekeeper=make_gatekeeper(told), max_body=100_000))


def fastapi_app(told: Told) -> Any:  # noqa: ANN401
    """Return the application in FastAPI, its middleware added as vLLM does it."""
    app = FastAPI()
    for path, endpoint in {"/v1/chat/completions": chat, "/v1/responses": responses, "/v1/messages": messages}.items():
        app.add_api_route(path, _for_fastapi(endpoint), methods=["POST"], response_model=None)
    app.add_middleware(GuardtokMiddleware, gatekeeper=make_gatekeeper(told), max_body=100_000)
    return app


def _for_fastapi(endpoint: Any) -> Any:  # noqa: ANN401
    async def wrapped(request: FastAPIRequest) -> Response:
        made: Response = await endpoint(request)
        return made

    wrapped.__annotations__ = {"request": FastAPIRequest, "return": Response}
    return wrapped


class Server:
    """A server in a thread, which counts the requests that come in."""

    def __init__(self, app: Any, told: Told) -> None:  # noqa: ANN401
        self.requests = 0
        self.told = told
        self.app = app
        self.url = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401
        self.requests += scope["type"] == "http"
        await self.app(scope, receive, send)


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    """Run a server on a free port."""
    listening = socket.create_server(("127.0.0.1", 0))
    server.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    running = uvicorn.Server(uvicorn.Config(server, log_level="error", lifespan="on"))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        while not running.started and thread.is_alive():
            time.sleep(0.01)
        yield server
    finally:
        running.should_exit = True
        thread.join()
        listening.close()


@pytest.fixture(scope="module", params=[starlette_app, fastapi_app])
def served(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Return a server before which the middleware stands."""
    told = Told()
    with serving(Server(request.param(told), told)) as server:
        yield server


@pytest.fixture(scope="module")
def ruled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a server whose policy refuses forms in what the model writes, and nothing that is sent to it."""
    path = tmp_path_factory.mktemp("policy") / "replies.yaml"
    path.write_text("guardtok: 1\nname: x\nsources:\n  assistant: {default: block}\n  '*': {default: allow}\n")
    told = Told()
    keeper = Gatekeeper(LiveGuard(Guard(Policy.load(path), sinks=())), [told])
    with serving(Server(GuardtokMiddleware(starlette_routes(), gatekeeper=keeper), told)) as server:
        yield server


def said(content: str) -> Any:  # noqa: ANN401
    """Return a conversation of one message."""
    return [{"role": "user", "content": content}]


def openai_raises(server: Server, call: Any) -> openai.BadRequestError:  # noqa: ANN401
    """Return the typed error of a call that is refused, and see that it was made once."""
    before = server.requests
    with pytest.raises(openai.BadRequestError) as caught:
        call()
    assert server.requests == before + 1
    return caught.value


CALLS = {
    "chat": lambda client: client.chat.completions.create(model="m", messages=said(FORBIDDEN)),
    "chat stream": lambda client: client.chat.completions.create(model="m", messages=said(FORBIDDEN), stream=True),
    "responses": lambda client: client.responses.create(model="m", input=FORBIDDEN),
    "responses stream": lambda client: client.responses.create(model="m", input=FORBIDDEN, stream=True),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_openai_sees_a_bad_request(served: Server, call: Any, kind: str) -> None:  # noqa: ANN401
    """Its error's fields hold rule and path, and there is no second try."""

    def in_sync() -> None:
        with openai.OpenAI(base_url=f"{served.url}/v1", api_key="k") as client:
            call(client)

    async def in_async() -> None:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="k") as client:
            await call(client)

    error = openai_raises(served, in_sync if kind == "sync" else lambda: asyncio.run(in_async()))
    assert error.code == "policy_violation"
    assert error.param == "messages[0].content"
    assert error.type == "invalid_request_error"
    assert "user.block[@turn]" in error.message
    assert FORBIDDEN not in str(error)
    decision = served.told.decisions[-1]
    assert error.request_id == decision.call.request_id
    assert error.response.headers["x-guardtok-decision-id"] == decision.id
    assert decision.call.requested_by == "127.0.0.1"


def test_a_server_may_load_the_middleware_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the lines with which vLLM loads one, and nothing but the environment to go by."""
    monkeypatch.setenv("GUARDTOK_POLICY", "strict")
    monkeypatch.setenv("GUARDTOK_TOKENIZER", "guardtok")
    app = FastAPI()
    app.add_api_route("/v1/chat/completions", _for_fastapi(chat), methods=["POST"], response_model=None)
    module, name = ["guardtok.gateway", "GuardtokMiddleware"]
    imported = getattr(importlib.import_module(module), name)
    assert inspect.isclass(imported)
    app.add_middleware(imported)
    with serving(Server(app, Told())) as server, openai.OpenAI(base_url=f"{server.url}/v1", api_key="k") as client:
        answer = client.chat.completions.create(model="m", messages=said("hi"))
        assert answer.choices[0].message.content == "hi"
        error = openai_raises(server, lambda: CALLS["chat stream"](client))
        assert error.param == "messages[0].content"


def test_a_null_is_a_null(served: Server) -> None:
    """Where there is no path, the client sees None and no word."""
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="k") as client:
        error = openai_raises(served, lambda: client.post("/unknown", body={}, cast_to=object))
    assert error.param is None
    assert error.code == "request_route"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_anthropic_sees_a_bad_request(served: Server, kind: str, stream: bool) -> None:  # noqa: FBT001
    """Its error holds Anthropic's own form, and there is no second try."""
    asked: Any = {"model": "m", "max_tokens": 9, "messages": said(FORBIDDEN), "stream": stream}

    def in_sync() -> None:
        with anthropic.Anthropic(base_url=served.url, api_key="k") as client:
            client.messages.create(**asked)

    async def in_async() -> None:
        async with anthropic.AsyncAnthropic(base_url=served.url, api_key="k") as client:
            await client.messages.create(**asked)

    before = served.requests
    with pytest.raises(anthropic.BadRequestError) as caught:
        in_sync() if kind == "sync" else asyncio.run(in_async())
    assert served.requests == before + 1
    body: Any = caught.value.body
    assert body["type"] == "error"
    assert body["error"]["type"] == "invalid_request_error"
    assert "user.block[@turn]" in body["error"]["message"]
    assert body["request_id"] == caught.value.request_id == served.told.decisions[-1].call.request_id


def test_a_failure_is_not_asked_for_again(served: Server) -> None:
    """A 500 would be retried, were it not for the header."""
    before = served.requests
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="k") as client, pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model="m", messages=said("fail"))
    with anthropic.Anthropic(base_url=served.url, api_key="k") as client, pytest.raises(anthropic.InternalServerError):
        client.messages.create(model="m", max_tokens=9, messages=said("fail"))
    assert served.requests == before + 2


def test_a_large_body_is_refused_readably(served: Server) -> None:
    """The client reads the answer although it has more to send than anybody reads."""
    before = served.requests
    large = said("x" * 5_000_000)
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="k") as client:
        with pytest.raises(openai.APIStatusError) as caught:
            client.chat.completions.create(model="m", messages=large)
        assert caught.value.status_code == 413
        assert caught.value.code == "request_size"
        assert client.chat.completions.create(model="m", messages=said("hi")).choices[0].message.content == "hi"
    with (
        anthropic.Anthropic(base_url=served.url, api_key="k") as client,
        pytest.raises(anthropic.RequestTooLargeError),
    ):
        client.messages.create(model="m", max_tokens=9, messages=large)
    assert served.requests == before + 3


def test_a_client_that_writes_on_gets_its_answer(served: Server) -> None:
    """A client that reads nothing before all is written still finds the answer, not a broken connection."""
    connection = http.client.HTTPConnection(served.url.removeprefix("http://"))
    pieces = iter([b" " * 10_000] * 15)
    connection.request("POST", "/v1/messages", pieces, encode_chunked=True)
    answer = connection.getresponse()
    assert answer.status == 413
    assert json.loads(answer.read())["error"]["type"] == "request_too_large"
    connection.close()


def test_what_is_let_through_is_answered_as_ever(served: Server) -> None:
    """Whole and streamed, with the text that the gatekeeper changed."""
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="k") as client:
        whole = client.chat.completions.create(model="m", messages=said("raw é"))
        assert whole.choices[0].message.content == "mark é"
        stream = client.chat.completions.create(model="m", messages=said("raw é"), stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "mark é"
    with anthropic.Anthropic(base_url=served.url, api_key="k") as client:
        reply = client.messages.create(model="m", max_tokens=9, messages=said("raw é"))
        assert reply.content[0].text == "mark é"  # type: ignore[union-attr]
        with client.messages.stream(model="m", max_tokens=9, messages=said("raw é")) as events:
            assert "".join(events.text_stream) == "mark é"


def test_a_whole_reply_that_is_refused_is_a_bad_request(ruled: Server) -> None:
    """The clients see their own typed errors, once."""
    before = ruled.requests
    with openai.OpenAI(base_url=f"{ruled.url}/v1", api_key="k") as client:
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="m", messages=said(FORBIDDEN))
        assert caught.value.param == "choices[0].message.content"
        assert client.chat.completions.create(model="m", messages=said("hi")).choices[0].message.content == "hi"
    with anthropic.Anthropic(base_url=ruled.url, api_key="k") as client, pytest.raises(anthropic.BadRequestError):
        client.messages.create(model="m", max_tokens=9, messages=said(FORBIDDEN))
    assert ruled.requests == before + 3


def test_a_stream_that_is_refused_raises_in_the_middle(ruled: Server) -> None:
    """What was harmless has come, the form has not, and the client raises its own error."""
    got: list[str] = []
    with openai.OpenAI(base_url=f"{ruled.url}/v1", api_key="k") as client:
        stream = client.chat.completions.create(model="m", messages=said(f"good {FORBIDDEN} bad"), stream=True)
        with pytest.raises(openai.APIError) as caught:
            got.extend(chunk.choices[0].delta.content or "" for chunk in stream)
    assert ("".join(got), caught.value.code) == ("good ", "policy_violation")
    got.clear()
    asked: Any = {"model": "m", "max_tokens": 9, "messages": said(f"good {FORBIDDEN} bad")}
    with (
        anthropic.Anthropic(base_url=ruled.url, api_key="k") as client,
        pytest.raises(anthropic.APIStatusError) as stopped,
        client.messages.stream(**asked) as events,
    ):
        got.extend(events.text_stream)
    body: Any = stopped.value.body
    assert ("".join(got), body["error"]["type"]) == ("good ", "invalid_request_error")


def test_a_stream_that_is_not_refused_comes_whole(ruled: Server) -> None:
    """Through the gate as without it."""
    with openai.OpenAI(base_url=f"{ruled.url}/v1", api_key="k") as client:
        stream = client.chat.completions.create(model="m", messages=said("a <b> é"), stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "a <b> é"
    with (
        anthropic.Anthropic(base_url=ruled.url, api_key="k") as client,
        client.messages.stream(model="m", max_tokens=9, messages=said("a <b> é")) as events,
    ):
        assert "".join(events.text_stream) == "a <b> é"


@pytest.mark.parametrize("kind", ["ruled", "untouched"])
def test_a_client_that_leaves_stops_the_model(kind: str, ruled: Server) -> None:
    """The application sees it while it streams, whether or not its replies are judged."""
    LEFT.clear()
    with contextlib.ExitStack() as stack:
        told = Told()
        server = ruled if kind == "ruled" else stack.enter_context(serving(Server(starlette_app(told), told)))
        client = stack.enter_context(openai.OpenAI(base_url=f"{server.url}/v1", api_key="k"))
        with client.chat.completions.create(model="m", messages=said("endless"), stream=True) as stream:
            assert next(iter(stream)).choices[0].delta.content
            assert not LEFT.is_set()
        assert LEFT.wait(30)
