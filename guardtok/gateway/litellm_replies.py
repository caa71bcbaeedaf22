"""LiteLLM's replies as JSON and back: objects of its own classes, which keep their class and all that is not text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Mapping

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
