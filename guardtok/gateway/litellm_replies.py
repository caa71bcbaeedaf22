"""LiteLLM's replies as JSON and back: objects of its own classes, which keep their class and all that is not text."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel

from guardtok.requests.sse import EventReader, write_event

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PROTOCOLS = {
    "ModelResponse": "openai.chat",
    "ModelResponseStream": "openai.chat",
    "TextCompletionResponse": "openai.completions",
    "ResponsesAPIResponse": "openai.responses",
}


def protocol_of(reply: object) -> str | None:
    """Return the protocol of a reply, by its class; None for what holds no text of a model's that is known here."""
    for kind in type(reply).__mro__:
        if kind.__name__ in _PROTOCOLS and kind.__module__.startswith("litellm."):
            return _PROTOCOLS[kind.__name__]
    return "anthropic.messages" if isinstance(reply, dict) and reply.get("type") == "message" else None


def to_json(reply: Any) -> Any:  # noqa: ANN401 - a reply of any class
    """Return a reply as JSON values."""
    return reply.model_dump(mode="json") if isinstance(reply, BaseModel) else reply


def write_back(reply: Any, old: Any, new: Any) -> Any:  # noqa: ANN401 - a reply of any class, and JSON
    """Return a reply with what differs between its old and its new JSON changed in place; a leaf is replaced."""
    if old == new:
        return reply
    if isinstance(new, dict) and isinstance(old, dict) and list(new) == list(old):
        if isinstance(reply, BaseModel):
            for name in new:
                if new[name] != old[name]:
                    setattr(reply, name, write_back(getattr(reply, name), old[name], new[name]))
            return reply
        if isinstance(reply, dict):
            _write_items(reply, old, new)
            return reply
    if isinstance(new, list) and isinstance(reply, list) and isinstance(old, list) and len(new) == len(old):
        for index, value in enumerate(new):
            reply[index] = write_back(reply[index], old[index], value)
        return reply
    return new


def _write_items(reply: dict[str, Any], old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    for name in new:
        if new[name] != old[name]:
            reply[name] = write_back(reply[name], old[name], new[name])


class Guarded(Protocol):
    """A streamed reply that is being judged: server-sent events in, server-sent events out."""

    def feed(self, chunk: bytes, /) -> bytes:
        """Take bytes and return what can go on."""

    def finish(self) -> bytes:
        """Return what was held back."""

    def close(self) -> None:
        """Give up."""


class Chunks:
    """Carries LiteLLM's chunks through a reply that is judged as server-sent events, and back into their classes.

    A chunk that comes out as it went in is the same object; one that does not is made anew, with the class of those of
    its kind.
    """

    __slots__ = ("_guarded", "_kinds", "_reader", "_waiting")

    def __init__(self, guarded: Guarded) -> None:
        self._guarded = guarded
        self._reader = EventReader()
        self._kinds: dict[str, type[BaseModel]] = {}
        self._waiting: dict[bytes, Any] = {}

    def feed(self, chunk: Any) -> Iterator[Any]:  # noqa: ANN401 - a chunk of any class
        """Yield what can go on after a chunk."""
        if isinstance(chunk, (bytes, str)):
            # LiteLLM passes on Anthropic's events as they are written.
            made = self._guarded.feed(chunk.encode() if isinstance(chunk, str) else chunk)
            if made:
                yield made.decode() if isinstance(chunk, str) else made
            return
        value = to_json(chunk)
        data = json.dumps(value).encode()
        if isinstance(chunk, BaseModel):
            self._kinds[_kind_of(value)] = type(chunk)
        self._waiting = {data: chunk}
        yield from self._rebuild(self._guarded.feed(write_event(_name_of(value), data)))

    def finish(self) -> Iterator[Any]:
        """Yield what was held back to the end."""
        made = self._guarded.finish()
        if self._kinds or self._waiting:
            yield from self._rebuild(made)
        elif made:
            yield made

    def _rebuild(self, made: bytes) -> Iterator[Any]:
        for event in self._reader.feed(made):
            data = (event.data or b"").strip()
            if not data:
                continue
            if data in self._waiting:
                yield self._waiting[data]
                continue
            value = json.loads(data)
            kind = self._kinds.get(_kind_of(value))
            yield value if kind is None else kind.model_validate(value)


def _kind_of(value: Any) -> str:  # noqa: ANN401 - JSON
    """Return what events of one class say they are: their type in the Responses API, their object elsewhere."""
    named = value.get("type") or value.get("object") if isinstance(value, dict) else None
    return named if isinstance(named, str) else ""


def _name_of(value: Any) -> str | None:  # noqa: ANN401 - JSON
    return value["type"] if isinstance(value, dict) and isinstance(value.get("type"), str) else None
