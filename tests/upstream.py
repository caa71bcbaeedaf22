"""A model server's stand-in: answers as OpenAI's and Anthropic's protocols say, records what it got, breaks on demand.

A request's header `x-fault` asks for trouble: `cut` breaks an answer off in the middle, `cut-event` in the middle of an
event, `slow` waits a second before the answer, `trickle` takes its time between events, `stall` stops in the middle,
`flood` never ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, Router

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

FLOOD = b"data: " + json.dumps({"filler": "x" * 65_000}).encode() + b"\n\n"


@dataclass(frozen=True)
class Recorded:
    """A request as it reached the stand-in."""

    method: str
    path: str
    target: bytes
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:  # noqa: ANN401 - any JSON value
        """The body, read as JSON."""
        return json.loads(self.body)


class CutError(Exception):
    """Ends an answer where it stands: the server closes the connection."""


@dataclass
class StandIn:
    """The stand-in's application and what it saw."""

    reply: str = "Hello from the stand-in."
    requests: list[Recorded] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    sent: int = 0

    def __post_init__(self) -> None:
        post = ["POST"]
        self._router = Router(
            [
                Route("/v1/chat/completions", self._chat, methods=post),
                Route("/v1/completions", self._completions, methods=post),
                Route("/v1/responses", self._responses, methods=post),
                Route("/v1/messages", self._messages, methods=post),
                Route("/v1/models", self._models, methods=["GET"]),
                Route("/echo", self._echo, methods=["GET", "POST", "PUT", "HEAD", "DELETE"]),
                Route("/moved", self._moved, methods=["GET", "POST"]),
                Route("/nothing", self._nothing, methods=["GET", "DELETE"]),
            ],
            redirect_slashes=False,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._router(scope, receive, send)
            return
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left.append(scope["path"])
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        self.requests.append(Recorded(scope["method"], scope["path"], target, headers, body))
        fault = headers.get("x-fault", "")
        if fault == "slow":
            await asyncio.sleep(1)
        replayed = False

        async def replay() -> Message:
            nonlocal replayed
            if not replayed:
                replayed = True
                return {"type": "http.request", "body": body, "more_body": False}
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left.append(scope["path"])
            return message

        await self._router(scope, replay, send)

    @property
    def last(self) -> Recorded:
        """The last request."""
        return self.requests[-1]

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        made = {"id": "chatcmpl-1", "created": 1, "model": body.get("model", "m")}
        usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
        if not body.get("stream"):
            message = {"role": "assistant", "content": self.reply}
            choices = [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}]
            return self._whole(request, made | {"object": "chat.completion", "choices": choices, "usage": usage})

        def chunk(delta: dict[str, Any], reason: str | None) -> str:
            choices = [{"index": 0, "delta": delta, "finish_reason": reason}]
            return json.dumps(made | {"object": "chat.completion.chunk", "choices": choices})

        events = [chunk({"role": "assistant", "content": ""}, None)]
        events += [chunk({"content": piece}, None) for piece in pieces(self.reply)]
        events += [chunk({}, "stop"), "[DONE]"]
        return self._stream(request, [f"data: {event}\n\n" for event in events])

    async def _completions(self, request: Request) -> Response:
        body = await request.json()
        made = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": body.get("model", "m")}

        def choice(text: str, reason: str | None) -> dict[str, Any]:
            return made | {"choices": [{"index": 0, "text": text, "finish_reason": reason, "logprobs": None}]}

        if not body.get("stream"):
            return self._whole(request, choice(self.reply, "stop"))
        events = [json.dumps(choice(piece, None)) for piece in pieces(self.reply)]
        events += [json.dumps(choice("", "stop")), "[DONE]"]
        return self._stream(request, [f"data: {event}\n\n" for event in events])

    async def _responses(self, request: Request) -> Response:
        body = await request.json()
        part = {"type": "output_text", "text": self.reply, "annotations": []}
        item = {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [part]}
        made = {
            "id": "resp_1",
            "object": "response",
            "created_at": 1,
            "model": body.get("model", "m"),
            "status": "completed",
            "output": [item],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
        }
        if not body.get("stream"):
            return self._whole(request, made)
        place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
        begun = made | {"status": "in_progress", "output": []}
        told: list[tuple[str, dict[str, Any]]] = [
            ("response.created", {"response": begun}),
            (
                "response.output_item.added",
                {"output_index": 0, "item": item | {"content": [], "status": "in_progress"}},
            ),
            ("response.content_part.added", place | {"part": part | {"text": ""}}),
            *(("response.output_text.delta", place | {"delta": piece, "logprobs": []}) for piece in pieces(self.reply)),
            ("response.output_text.done", place | {"text": self.reply, "logprobs": []}),
            ("response.content_part.done", place | {"part": part}),
            ("response.output_item.done", {"output_index": 0, "item": item}),
            ("response.completed", {"response": made}),
        ]
        return self._stream(
            request,
            [
                f"event: {kind}\ndata: {json.dumps({'type': kind, 'sequence_number': number} | event)}\n\n"
                for number, (kind, event) in enumerate(told)
            ],
        )

    async def _messages(self, request: Request) -> Response:
        body = await request.json()
        made = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": body.get("model", "m"),
            "content": [{"type": "text", "text": self.reply}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 5, "output_tokens": 3},
        }
        if not body.get("stream"):
            return self._whole(request, made)
        told: list[dict[str, Any]] = [
            {"type": "message_start", "message": made | {"content": [], "stop_reason": None}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            *(
                {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}
                for piece in pieces(self.reply)
            ),
            {"type": "content_block_stop", "index": 0},
            {
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn", "stop_sequence": None},
                "usage": {"output_tokens": 3},
            },
            {"type": "message_stop"},
        ]
        return self._stream(request, [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in told])

    async def _models(self, _request: Request) -> Response:
        return JSONResponse(
            {"object": "list", "data": [{"id": "m", "object": "model", "created": 1, "owned_by": "us"}]}
        )

    async def _echo(self, request: Request) -> Response:
        return Response(await request.body(), headers={"x-kept": "yes", "connection": "x-secret", "x-secret": "hop"})

    async def _moved(self, _request: Request) -> Response:
        return Response(status_code=307, headers={"location": "/v1/models", "set-cookie": "session=1"})

    async def _nothing(self, _request: Request) -> Response:
        return Response(status_code=204)

    def _whole(self, request: Request, body: object) -> Response:
        if request.headers.get("x-fault") not in {"cut", "stall"}:
            return JSONResponse(body)
        text = json.dumps(body)
        cut = self._events(request, [text[:20], text[20:]])
        return StreamingResponse(cut, media_type="application/json", headers={"content-length": str(len(text))})

    def _stream(self, request: Request, events: list[str]) -> Response:
        return StreamingResponse(self._events(request, events), media_type="text/event-stream")

    async def _events(self, request: Request, events: list[str]) -> AsyncIterator[bytes]:
        fault = request.headers.get("x-fault")
        for number, event in enumerate(events):
            if number == len(events) // 2:
                if fault == "cut":
                    await asyncio.sleep(0.05)  # The pieces before are on their way.
                    raise CutError
                if fault == "cut-event":
                    yield event[: len(event) // 2].encode()
                    await asyncio.sleep(0.05)
                    raise CutError
                if fault == "stall":
                    await asyncio.sleep(3_600)
            if fault == "trickle":
                await asyncio.sleep(0.1)
            while fault == "flood":
                yield FLOOD
                self.sent += len(FLOOD)
                await asyncio.sleep(0)  # A server that has lost its client takes everything at once.
            yield event.encode()


def pieces(text: str) -> list[str]:
    """Return a text cut as a model server streams it: a few characters at a time."""
    return [text[start : start + 4] for start in range(0, len(text), 4)]


@contextlib.contextmanager
def served(app: ASGIApp, **options: object) -> Iterator[str]:
    """Serve an application from a thread of this process; yields its URL."""
    # asyncio sends small pieces at once only where the socket says that it is TCP's.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    defaults: dict[str, Any] = {"lifespan": "off", "log_config": None, "log_level": "critical", "ws": "none"}
    settings: dict[str, Any] = defaults | {"timeout_graceful_shutdown": 1} | options
    server = uvicorn.Server(uvicorn.Config(app, **settings))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started and thread.is_alive() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert server.started
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


def free_port() -> int:
    """Return a port on which nobody listens at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


if __name__ == "__main__":
    import sys

    uvicorn.run(StandIn(), port=int(sys.argv[1]), log_level="critical", ws="none")
