"""LiteLLM's replies as JSON and back: objects of its own classes, which keep their class and all that is not text."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from guardtok.requests.sse import EventReader, write_event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from guardtok.gateway.decision import Decision, Refusal
    from guardtok.gateway.reply_gate import ReplyGate

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


def protocol_of_stream(chunk: object, call_type: object) -> str | None:
    """Return the protocol of a streamed reply, by its first chunk; Anthropic's by LiteLLM's name of the call."""
    if isinstance(chunk, (bytes, str, dict)):
        name = str(getattr(call_type, "value", call_type))
        return "anthropic.messages" if name.endswith("anthropic_messages") else None
    kind = getattr(chunk, "type", None)
    if isinstance(chunk, BaseModel) and str(getattr(kind, "value", kind)).startswith("response."):
        return "openai.responses"
    return protocol_of(chunk)


class Chunks:
    """Carries LiteLLM's chunks through a gate for server-sent events, and back into their classes.

    A chunk that comes out as it went in is the same object; one that does not is made anew, of the class of its kind.
    """

    __slots__ = ("_gate", "_kinds", "_open", "_reader", "_sent", "_wire")

    def __init__(self, open_gate: Callable[[Any], ReplyGate]) -> None:
        """Begin a reply; `open_gate` makes the gate when the first chunk shows what it is."""
        self._open = open_gate
        self._gate: ReplyGate | None = None
        self._reader = EventReader()
        self._kinds: dict[str, type[BaseModel]] = {}
        self._sent: tuple[bytes, Any] = (b"", None)
        self._wire: type | None = None

    def feed(self, chunk: Any) -> tuple[list[Any], Refusal | None]:  # noqa: ANN401 - a chunk of any class
        """Return what can go on after a chunk, and why nothing goes on after that, or None."""
        if self._gate is None:
            self._gate = self._open(chunk)
        if isinstance(chunk, (bytes, str)):
            # Anthropic's events pass through LiteLLM as they are written.
            self._wire = type(chunk)
            passage = self._gate.feed(chunk.encode() if isinstance(chunk, str) else chunk)
            return self._write(passage.data), passage.refusal
        value = to_json(chunk)
        data = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
        self._sent = data, chunk
        if isinstance(chunk, BaseModel):
            self._kinds[_kind_of(value)] = type(chunk)
        passage = self._gate.feed(write_event(_name_of(value), data))
        return list(self._rebuild(passage.data)), passage.refusal

    def finish(self) -> tuple[list[Any], Refusal | None]:
        """Return what was held back to the end, and why nothing more goes on, or None."""
        if self._gate is None:
            return [], None
        passage = self._gate.finish()
        made = self._write(passage.data) if self._wire else list(self._rebuild(passage.data))
        return made, passage.refusal

    def close(self) -> Decision | None:
        """End the reply, whatever became of it, and return what was decided; None if it never began."""
        if self._gate is None:
            return None
        self._gate.close()
        return self._gate.decision

    def _write(self, made: bytes) -> list[Any]:
        # Events come out of the gate whole, so no character is cut.
        return [made.decode() if self._wire is str else made] if made else []

    def _rebuild(self, made: bytes) -> Iterator[Any]:
        for event in self._reader.feed(made):
            data = (event.data or b"").strip()
            if data == self._sent[0]:
                yield self._sent[1]
            elif data:
                value = json.loads(data)
                kind = self._kinds.get(_kind_of(value))
                yield value if kind is None else kind.model_validate(value)


def _kind_of(value: Any) -> str:  # noqa: ANN401 - JSON
    """Return what events of one class say they are: their type in the Responses API, their object elsewhere."""
    named = value.get("type") or value.get("object") if isinstance(value, dict) else None
    return named if isinstance(named, str) else ""


def _name_of(value: Any) -> str | None:  # noqa: ANN401 - JSON
    return value["type"] if isinstance(value, dict) and isinstance(value.get("type"), str) else None
