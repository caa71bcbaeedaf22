"""The way back: what the upstream answers, read piece by piece and said again as a chat completion.

What is no answer to the question, or breaks off, must not look whole: it becomes an error.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from guardtok.errors import RequestError
from guardtok.gateway import answers
from guardtok.gateway.decision import Blame, Refusal, Stage
from guardtok.gateway.rendering.chat import UpstreamError
from guardtok.requests.sse import EventReader, write_event

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, MutableMapping

    from guardtok.gateway.rendering.chat import ChatAnswer
    from guardtok.gateway.rendering.dialects import Dialect, Reply
    from guardtok.requests.sse import Event

    Message = MutableMapping[str, Any]
    Send = Callable[[Message], Awaitable[None]]

_CHAT = "openai.chat"
_DONE = b"[DONE]"
_OK = 200
_MAX_REPLY = 32 * 1024 * 1024
_BROKEN = Refusal(
    Blame.SHAPE, "reply.upstream", "", "The upstream's answer is no completion, or broke off. Ask again later."
)
_EVENTS = b"text/event-stream"
_PLAIN = frozenset({b"", b"identity"})
# What speaks of the bytes that the upstream sent, which are others than the client gets.
_REPLACED = frozenset(
    {b"content-digest", b"content-encoding", b"content-length", b"content-md5", b"content-type", b"digest", b"etag"}
    | {b"repr-digest", b"transfer-encoding"}
)


class Relay:
    """Takes the upstream's answer in place of the client's `send`. Errors of the upstream go on as they are."""

    __slots__ = ("_answer", "_dialect", "_events", "_head", "_over", "_parts", "_send", "_size")

    def __init__(self, send: Send, dialect: Dialect, answer: ChatAnswer) -> None:
        """Begin an answer."""
        self._send = send
        self._dialect = dialect
        self._answer = answer
        self._head: Message = {}
        self._events = EventReader()
        self._parts: list[bytes] = []
        self._size = 0
        self._over = False

    async def send(self, message: Message) -> None:
        """Take a message of the upstream's answer."""
        if self._over:
            return
        if message["type"] == "http.response.start":
            self._head = message
            if message["status"] != _OK:
                await self._send(message)
            elif not self._can_read(message["headers"]):
                await self._refuse()
            elif self._answer.fields.stream:
                await self._start(b"text/event-stream; charset=utf-8")
        elif message["type"] != "http.response.body" or self._head.get("status") != _OK:
            await self._send(message)
        elif self._answer.fields.stream:
            await self._take_events(message)
        else:
            await self._take_part(message)

    async def _start(self, kind: bytes, length: int | None = None) -> None:
        kept = [(name, value) for name, value in self._head["headers"] if name.lower() not in _REPLACED]
        framing = [] if length is None else [(b"content-length", b"%d" % length)]
        await self._send({**self._head, "headers": [*kept, (b"content-type", kind), *framing]})

    async def _take_part(self, message: Message) -> None:
        self._parts.append(message.get("body", b""))
        self._size += len(self._parts[-1])
        more = message.get("more_body", False)
        if more and self._size <= _MAX_REPLY:
            return
        body = None if more else self._whole()
        if body is None:
            await self._refuse()
            return
        self._over = True
        await self._start(b"application/json", len(body))
        await self._send({"type": "http.response.body", "body": body})

    def _whole(self) -> bytes | None:
        """Return the chat completion, or None where the upstream's answer is none."""
        try:
            made = self._answer.whole(self._read(b"".join(self._parts)))
        except UpstreamError:
            return None
        return json.dumps(made, ensure_ascii=False).encode("utf-8", "replace")

    async def _take_events(self, message: Message) -> None:
        more = message.get("more_body", False)
        try:
            written = [self._write(event) for event in self._events.feed(message.get("body", b""))]
            if not more:
                last = self._events.finish()
                written += [self._write(last)] if last is not None else []
                written.append(self._end())
        except (RequestError, UpstreamError):
            self._over = True
            error = answers.break_off(_BROKEN, _CHAT)
            await self._send({"type": "http.response.body", "body": error, "more_body": False})
            return
        body = b"".join(written)
        if body or not more:
            await self._send({"type": "http.response.body", "body": body, "more_body": more})

    def _write(self, event: Event) -> bytes:
        if event.data is None or event.data.strip() == _DONE:
            return b""
        return b"".join(_chunk(chunk) for chunk in self._answer.chunks(self._read(event.data)))

    def _end(self) -> bytes:
        usage = self._answer.last()
        return (b"" if usage is None else _chunk(usage)) + write_event(None, _DONE)

    def _read(self, data: bytes) -> Reply:
        try:
            return self._dialect.read(json.loads(data))
        except (KeyError, TypeError, ValueError, RecursionError):
            raise UpstreamError("The upstream's answer is no completion.") from None

    async def _refuse(self) -> None:
        self._over = True
        answer = answers.refuse(_BROKEN, _CHAT, stage=Stage.REPLY)
        await self._send({"type": "http.response.start", "status": answer.status, "headers": list(answer.headers)})
        await self._send({"type": "http.response.body", "body": answer.body})

    def _can_read(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Return whether an answer is uncompressed, as it was asked for, and a stream where one was asked for."""
        said = {name.lower(): value.strip().lower() for name, value in headers}
        is_stream = said.get(b"content-type", b"").partition(b";")[0].strip() == _EVENTS
        return said.get(b"content-encoding", b"") in _PLAIN and is_stream == self._answer.fields.stream


def _chunk(chunk: dict[str, Any]) -> bytes:
    return write_event(None, json.dumps(chunk, ensure_ascii=False).encode("utf-8", "replace"))
