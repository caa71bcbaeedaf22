"""An ASGI application before a proxy: a chat completion comes in, a completion of ids goes on, a chat comes back.

Of what a model would read, only what was rendered here reaches the upstream. Whatever else has a body would be parsed
there, so it is refused; `/detokenize` alone passes, which parses nothing.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from guardtok.errors import RequestError
from guardtok.gateway import answers, bodies
from guardtok.gateway.decision import Call
from guardtok.gateway.middleware import CLOSED_BY_POLICY, replay, request_id_of
from guardtok.gateway.rendering.chat import ChatAnswer
from guardtok.gateway.rendering.dialects import DIALECTS
from guardtok.gateway.rendering.fields import read_fields
from guardtok.gateway.rendering.relay import Relay
from guardtok.gateway.reply import LARGE, Errand, Reply
from guardtok.gateway.routes import find
from guardtok.requests.replies import are_ruled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from guardtok.encoded import Encoded
    from guardtok.gateway.gatekeeper import Gatekeeper, Outcome
    from guardtok.gateway.live import Snapshot
    from guardtok.gateway.rendering.fields import ChatFields
    from guardtok.gateway.routes import Route
    from guardtok.gateway.settings import Settings
    from guardtok.guard import Guard

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Scope, Receive, Send], Awaitable[None]]

_CHAT = "openai.chat"
_PATH = "/chat/completions"

# What says how the old body was written; and an answer has to be read here.
_REPLACED = frozenset(
    {
        *(b"accept-encoding", b"content-encoding", b"content-length", b"content-type", b"transfer-encoding"),
        b"x-body-compressed",
    }
)


@dataclass(frozen=True, slots=True)
class Rendering:
    """How chats are rendered, and how the upstream is asked.

    Attributes:
        api: The upstream's interface, a name of `DIALECTS`.
        template: The chat template, as Jinja source; None for the tokenizer's own.
        models: The models that may be asked for: those whose tokenizer the guard has, because the same ids are other
            tokens to another model. Empty where the upstream has no other.
        max_tokens: How long an answer may be where the caller does not say it; None to leave it to the upstream: vLLM
            and SGLang take 16 then, as OpenAI's reference of completions has it.
    """

    api: str
    template: str | None = None
    models: frozenset[str] = frozenset()
    max_tokens: int | None = None

    def check(self, guard: Guard) -> None:
        """Render a greeting, so that a mistake shows at the start and not with the first caller.

        Raises:
            TokenizerError: The guard has no tokenizer.
            GuardtokError: There is no template, it does not parse, or the policy refuses what it writes.
        """
        guard.encode_chat([{"role": "user", "content": "hello"}], self.template, add_generation_prompt=True)


class RenderedChats:
    """Answers chat completions through an upstream that is sent ids.

    What carries no body (`GET /v1/models`) goes to the proxy as it is.
    """

    __slots__ = ("_app", "_dialect", "_gatekeeper", "_rendering", "_settings")

    def __init__(
        self,
        app: App,
        gatekeeper: Gatekeeper,
        rendering: Rendering,
        settings: Settings,
    ) -> None:
        """Stand before a proxy.

        Args:
            app: The proxy.
            gatekeeper: Decides; its guard is bound to the model's tokenizer.
            rendering: How chats are rendered, and how the upstream is asked.
            settings: How large bodies may be.
        """
        self._app = app
        self._gatekeeper = gatekeeper
        self._dialect = DIALECTS[rendering.api]
        self._rendering = rendering
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. A websocket would carry text, so it is closed."""
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": CLOSED_BY_POLICY})
            return
        route = find(scope["method"], scope["path"]) if scope["type"] == "http" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        headers, client = scope["headers"], scope.get("client")
        call = Call(route.path, request_id_of(headers), client[0] if client else None)
        snapshot = self._gatekeeper.current
        try:
            _check(route)
            cap = self._settings.max_body
            encoding = bodies.encoding_of(headers)
            raw = await bodies.read(receive, cap, headers)
            judge = partial(self._judge, raw, encoding, call, snapshot)
            is_small = len(raw) < LARGE and encoding == "identity"
            outcome = judge() if is_small else await asyncio.to_thread(judge)
        except bodies.DisconnectedError:
            return
        except RequestError as error:
            outcome = self._gatekeeper.turn_away(error, route.protocol, call, snapshot)
        if outcome.refusal is not None:
            await _answer(send, answers.reject(outcome.decision, route.speaks))
            return
        fields, question = outcome.body
        errand = Errand(route, _CHAT, call, snapshot)
        reply = Reply(self._gatekeeper, send, errand, self._settings) if are_ruled(snapshot.guard.policy) else None
        relay = Relay(send if reply is None else reply.send, self._dialect, ChatAnswer(fields))
        try:
            await self._app(self._scope(scope, question), replay(question, receive), relay.send)
        finally:
            if reply is not None:
                reply.close()

    def _judge(self, raw: bytes, encoding: str, call: Call, snapshot: Snapshot) -> Outcome:
        body = bodies.parse(bodies.decode(raw, encoding, self._settings.max_body))
        return self._gatekeeper.judge_prompt(partial(self._write, body, call), body, _CHAT, call, snapshot)

    def _write(self, body: object, call: Call, guard: Guard) -> tuple[tuple[ChatFields, bytes], Encoded]:
        """Render and encode a chat, and return the question that holds its ids."""
        fields = read_fields(body, self._rendering.max_tokens)
        if self._rendering.models and fields.model not in self._rendering.models:
            fact = "this model is none of those that are served with this tokenizer. Ask for one of them."
            raise RequestError("request.model", "$.model", fact)
        encoded = guard.encode_chat(
            fields.messages,
            self._rendering.template,
            documents=fields.documents,
            add_generation_prompt=fields.add_generation_prompt,
            continue_final_message=fields.continue_final_message,
            request_id=call.request_id,
            **fields.variables,
        )
        return (fields, bodies.dump(self._dialect.ask(encoded.ids, fields))), encoded

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
    if route.path not in {_PATH, f"/v1{_PATH}"}:
        raise RequestError(
            "request.rendered", "$", "with `--render ids` a model is asked at /v1/chat/completions and nowhere else."
        )


async def _answer(send: Send, answer: answers.Answer) -> None:
    await send({"type": "http.response.start", "status": answer.status, "headers": list(answer.headers)})
    await send({"type": "http.response.body", "body": answer.body})
