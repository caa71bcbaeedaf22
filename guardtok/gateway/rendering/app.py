"""An ASGI application before a proxy: a chat completion comes in, a completion of ids goes on, a chat comes back.

Only what was rendered here reaches the upstream. Whatever else has a body would be parsed there, so it is refused.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from guardtok.errors import RequestError
from guardtok.gateway import answers, bodies
from guardtok.gateway.decision import Call
from guardtok.gateway.rendering.chat import ChatAnswer
from guardtok.gateway.rendering.fields import read_fields
from guardtok.gateway.rendering.relay import Relay
from guardtok.gateway.routes import find

if TYPE_CHECKING:
    import os
    from collections.abc import Awaitable, Callable, MutableMapping

    from guardtok.encoded import Encoded
    from guardtok.gateway.gatekeeper import Gatekeeper, Outcome
    from guardtok.gateway.rendering.dialects import Dialect
    from guardtok.gateway.rendering.fields import ChatFields
    from guardtok.gateway.routes import Route
    from guardtok.guard import Guard

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[dict[str, Any]]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Scope, Receive, Send], Awaitable[None]]

_CHAT = "openai.chat"
_WORTH_A_THREAD = 64 * 1024
"""Bytes of a body from which on the event loop is kept free while it is rendered."""

# What says how the old body was written; and an answer has to be read here.
_REPLACED = frozenset(
    {b"accept-encoding", b"content-encoding", b"content-length", b"content-type", b"transfer-encoding"}
)


class RenderedChats:
    """Answers chat completions through an upstream that is sent ids.

    What carries no body (`GET /v1/models`) goes to the proxy as it is.
    """

    __slots__ = ("_app", "_cap", "_dialect", "_gatekeeper", "_template")

    def __init__(
        self,
        app: App,
        gatekeeper: Gatekeeper,
        dialect: Dialect,
        *,
        template: str | os.PathLike[str] | None = None,
        max_body: int = 8 * 1024 * 1024,
    ) -> None:
        """Stand before a proxy.

        Args:
            app: The proxy.
            gatekeeper: Decides; its guard is bound to the model's tokenizer.
            dialect: How the upstream is asked.
            template: The chat template or a path to it; by default the tokenizer's own.
            max_body: Bytes of a request's body that are let in.
        """
        self._app = app
        self._gatekeeper = gatekeeper
        self._dialect = dialect
        self._template = template
        self._cap = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        route = find(scope["method"], scope["path"]) if scope["type"] == "http" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        call = _call_of(scope)
        try:
            _check(route)
            headers = scope["headers"]
            raw = await bodies.read(receive, self._cap, headers)
            body = bodies.parse(bodies.decode(raw, bodies.encoding_of(headers), self._cap))
        except bodies.DisconnectedError:
            return
        except RequestError as error:
            outcome = self._gatekeeper.turn_away(error, route.speaks, call)
        else:
            outcome = await self._render(body, call, len(raw))
        if outcome.refusal is not None:
            await _answer(
                send, answers.refuse(outcome.refusal, _CHAT, call.request_id, decision_id=outcome.decision.id)
            )
            return
        fields, question = outcome.body
        relay = Relay(send, self._dialect, ChatAnswer(fields))
        await self._app(self._scope(scope, question), _replay(question, receive), relay.send)

    async def _render(self, body: object, call: Call, size: int) -> Outcome:
        def write(guard: Guard) -> tuple[tuple[ChatFields, bytes], Encoded]:
            fields = read_fields(body)
            encoded = guard.encode_chat(
                fields.messages,
                self._template,
                documents=fields.documents,
                add_generation_prompt=fields.add_generation_prompt,
                continue_final_message=fields.continue_final_message,
                request_id=call.request_id,
                **fields.variables,
            )
            return (fields, bodies.dump(self._dialect.ask(encoded.ids, fields))), encoded

        if size < _WORTH_A_THREAD:
            return self._gatekeeper.judge_prompt(write, body, _CHAT, call)
        return await asyncio.to_thread(self._gatekeeper.judge_prompt, write, body, _CHAT, call)

    def _scope(self, scope: Scope, question: bytes) -> Scope:
        path = self._dialect.path
        kept = [(name, value) for name, value in scope["headers"] if name.lower() not in _REPLACED]
        own = [
            (b"accept-encoding", b"identity"),
            (b"content-length", b"%d" % len(question)),
            (b"content-type", b"application/json"),
        ]
        return {**scope, "path": path, "raw_path": path.encode("ascii"), "query_string": b"", "headers": kept + own}


def _check(route: Route) -> None:
    if route.protocol != _CHAT or not route.generates:
        raise RequestError(
            "request.rendered", "$", "with `--render ids` a model is asked at /v1/chat/completions and nowhere else."
        )


def _call_of(scope: Scope) -> Call:
    client = scope.get("client")
    return Call(scope["path"], None, client[0] if client else None)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a channel that gives one body, and then what the client still has to say: that it leaves."""
    given = False

    async def replayed() -> dict[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


async def _answer(send: Send, answer: answers.Answer) -> None:
    await send({"type": "http.response.start", "status": answer.status, "headers": list(answer.headers)})
    await send({"type": "http.response.body", "body": answer.body})
