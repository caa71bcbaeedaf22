"""One reply on its way back, where a policy has rules for what a model writes.

A whole reply is held until it is judged; a stream goes through a gate, event by event. A reply that can be neither, for
it is compressed, too large or no JSON, is not let through.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeAlias

from typing_extensions import assert_never

from guardtok.errors import RequestError
from guardtok.gateway import answers, bodies
from guardtok.gateway.decision import Stage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, MutableMapping

    from guardtok.gateway.decision import Call, Decision
    from guardtok.gateway.gatekeeper import Gatekeeper, Outcome
    from guardtok.gateway.live import Snapshot
    from guardtok.gateway.reply_gate import ReplyGate
    from guardtok.gateway.routes import Route
    from guardtok.gateway.settings import Settings

    Message: TypeAlias = MutableMapping[str, Any]
    Send: TypeAlias = Callable[[Message], Awaitable[None]]

LARGE = 16 * 1024
"""Bytes from which a body is judged in a thread, so that it does not hold up every other request.

What costs most are messages that each hold a control token: some 30 ms for this many bytes of them.
"""

# Ways to send a body that would go past what is judged.
_SHORT_CUTS = frozenset({"http.response.pathsend", "http.response.zerocopysend", "http.response.trailers"})
_EVENTS = b"text/event-stream"
_STREAMS = frozenset({_EVENTS, b"application/x-ndjson", b"application/jsonl"})
_DECISION = b"x-guardtok-decision-id"


class _State(Enum):
    """Where a reply is.

    Attributes:
        WAITING: Nothing has come yet.
        PASSED: It is none of a model's: an error, or empty by its status.
        WHOLE: It is gathered.
        STREAM: It goes through a gate.
        OVER: Its end has been sent.
    """

    WAITING = 0
    PASSED = 1
    WHOLE = 2
    STREAM = 3
    OVER = 4


def ask_plainly(scope: MutableMapping[str, Any]) -> dict[str, Any]:
    """Return a request's scope as an application gets it whose reply is judged: to be sent plain, and in messages."""
    headers = [(name, value) for name, value in scope["headers"] if name.lower() != b"accept-encoding"]
    extensions = {key: value for key, value in (scope.get("extensions") or {}).items() if key not in _SHORT_CUTS}
    return {**scope, "headers": [*headers, (b"accept-encoding", b"identity")], "extensions": extensions}


@dataclass(frozen=True, slots=True)
class Errand:
    """A request that was let through, and whose reply is awaited.

    Attributes:
        route: Where it went.
        protocol: How it was walked.
        call: Who asked.
        snapshot: The guard that judged it, and judges the reply.
    """

    route: Route
    protocol: str
    call: Call
    snapshot: Snapshot


class Reply:
    """Takes what an application sends, and sends on what may go on. `close` ends it, however it ended."""

    __slots__ = ("_chunks", "_errand", "_gate", "_keeper", "_send", "_settings", "_size", "_start", "_state")

    def __init__(self, keeper: Gatekeeper, send: Send, errand: Errand, settings: Settings) -> None:
        """Begin."""
        self._keeper = keeper
        self._send = send
        self._errand = errand
        self._settings = settings
        self._state = _State.WAITING
        self._start: Message = {}
        self._chunks: list[bytes] = []
        self._size = 0
        self._gate: ReplyGate | None = None

    async def send(self, message: Message) -> None:
        """Take a message of the application's, as ASGI's `send` does."""
        match self._state:
            case _State.PASSED:
                await self._send(message)
            case _State.WAITING if message["type"] == "http.response.start":
                await self._begin(message)
            case _State.WHOLE if message["type"] == "http.response.body":
                await self._gather(message)
            case _State.STREAM if message["type"] == "http.response.body":
                await self._feed(message)
            case _State.WAITING | _State.WHOLE | _State.STREAM | _State.OVER:
                # After a refusal, or past what is judged: nothing of it goes on.
                return
            case _:
                assert_never(self._state)

    def close(self) -> None:
        """End a reply that may have been cut off. Closing twice does nothing."""
        if self._gate is not None:
            self._gate.close()

    async def _begin(self, message: Message) -> None:
        status, headers = message["status"], list(message.get("headers", ()))
        self._start = message
        encodings = _values(headers, b"content-encoding")
        kinds = {value.split(b";")[0].strip().lower() for value in _values(headers, b"content-type")}
        if status >= 400 or status in {204, 205, 304}:  # noqa: PLR2004 - HTTP's own
            self._state = _State.PASSED
            await self._send(message)
        elif not encodings <= {b"", b"identity"}:
            await self._turn_away("reply.encoding", "the reply is compressed, although it was asked for plain.")
        elif kinds & _STREAMS and (self._errand.route.is_native or kinds != {_EVENTS}):
            fact = "a stream of this path cannot be judged. Ask for it whole, or on the path of a known protocol."
            await self._turn_away("reply.stream", fact)
        elif kinds == {_EVENTS}:
            self._state = _State.STREAM
            self._gate = self._keeper.open_reply(self._errand.protocol, self._errand.call, self._errand.snapshot)
            await self._send({**self._start, "headers": self._headers(self._gate.id)})
        else:
            self._state = _State.WHOLE

    async def _feed(self, message: Message) -> None:
        gate = self._gate
        if gate is None:
            raise RuntimeError("A stream has a gate.")
        is_last = not message.get("more_body", False)
        passage = gate.feed(message.get("body", b""))
        data, refusal = passage.data, passage.refusal
        if refusal is None and is_last:
            rest = gate.finish()
            data, refusal = data + rest.data, rest.refusal
        if refusal is not None:
            data += answers.break_off(refusal, self._errand.protocol, self._errand.call.request_id)
        is_last = is_last or refusal is not None
        if is_last:
            self._state = _State.OVER
        if data or is_last:
            await self._send({"type": "http.response.body", "body": data, "more_body": not is_last})

    async def _gather(self, message: Message) -> None:
        chunk = message.get("body", b"")
        self._size += len(chunk)
        if self._size > (cap := self._settings.max_reply):
            await self._turn_away("reply.size", f"the reply is larger than the {cap:,} bytes that are judged.")
            return
        self._chunks.append(chunk)
        if message.get("more_body", False):
            return
        raw = b"".join(self._chunks)
        self._chunks.clear()
        if not raw:
            self._state = _State.OVER
            await self._send(self._start)
            await self._send({"type": "http.response.body", "body": b""})
            return
        try:
            outcome = self._judge(raw) if len(raw) < LARGE else await asyncio.to_thread(self._judge, raw)
            body = None if outcome.refusal else bodies.dump(outcome.body)
        except RequestError as error:
            await self._turn_away("reply.shape", error.fact)
            return
        if outcome.refusal is not None or body is None:
            await self._refuse(outcome.decision)
            return
        self._state = _State.OVER
        headers = [*self._headers(outcome.decision.id), (b"content-length", b"%d" % len(body))]
        await self._send({**self._start, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    def _judge(self, raw: bytes) -> Outcome:
        errand = self._errand
        return self._keeper.judge_reply(bodies.parse(raw), errand.protocol, errand.call, errand.snapshot)

    async def _turn_away(self, rule: str, fact: str) -> None:
        error, errand = RequestError(rule, "$", fact), self._errand
        outcome = self._keeper.turn_away(error, errand.protocol, errand.call, errand.snapshot, Stage.REPLY)
        await self._refuse(outcome.decision)

    async def _refuse(self, decision: Decision) -> None:
        self._state = _State.OVER
        self._chunks.clear()
        answer = answers.reject(decision, self._errand.route.speaks, flat=self._settings.flat_errors)
        await self._send({"type": "http.response.start", "status": answer.status, "headers": [*answer.headers]})
        await self._send({"type": "http.response.body", "body": answer.body})

    def _headers(self, decision_id: str) -> list[tuple[bytes, bytes]]:
        """Return the reply's headers without those that speak of its length or of the bytes it had."""
        gone = {b"content-length", b"etag", b"content-md5", b"digest", b"content-digest", b"repr-digest", _DECISION}
        kept = [(name, value) for name, value in self._start.get("headers", ()) if name.lower() not in gone]
        return [*kept, (_DECISION, decision_id.encode("ascii"))]


def _values(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> set[bytes]:
    """Return all that the headers of one name say: readers differ in which one of several they take."""
    return {value.strip().lower() for name, value in headers if name.lower() == wanted}
